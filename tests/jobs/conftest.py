"""A whole job system on a temporary folder: real services, clocks that tests move, trainers that are functions."""

import hashlib
import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest

from luthier.accounts.service import Accounts
from luthier.accounts.types import Actor, Role
from luthier.backends.executors.memory import MemoryExecutor
from luthier.backends.storage.local import LocalStorage
from luthier.bases.service import Bases
from luthier.billing.machine import Machine
from luthier.billing.service import Billing
from luthier.database import Database, Row
from luthier.datasets.service import Datasets
from luthier.datasets.types import Room, Upload
from luthier.jobs.directory import LAST_WORDS, AttemptStatus, Failure, JobDirectory, Manifest, ManifestFile, checkpoint_folder
from luthier.jobs.pace import Clocks, Pace
from luthier.jobs.presence import Presence
from luthier.jobs.projection import directory
from luthier.jobs.queue import JobQueue
from luthier.jobs.service import Jobs, JobServices
from luthier.jobs.sharing import ALONE
from luthier.jobs.spec import RunSpec
from luthier.registry.catalogue import Catalogue
from luthier.registry.files import ModelFiles
from luthier.registry.service import Registry
from luthier.seams import Launch
from luthier.supervisor import Parts, Supervisor

ALICE = Actor("team_alice", "user_alice", Role.ADMIN)
BOB = Actor("team_bob", "user_bob", Role.ADMIN)
ROWS = 40
GOOD = {"finite": True, "changes_logits": True, "loads_again": True, "max_logit_change": 1.0, "same_after_reload": True}


class Times:
    """A wall clock and a monotonic clock that only tests move, apart or together."""

    def __init__(self) -> None:
        self.wall = datetime(2026, 11, 21, 12, tzinfo=UTC)
        self.steady = 1000.0

    def now(self) -> datetime:
        return self.wall

    def monotonic(self) -> float:
        return self.steady

    def pass_s(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.steady += seconds


class Killed(BaseException):
    """The process dies here. No `except Exception` catches a kill -9 either."""


@dataclass
class Trainer:
    """What a fake trainer does in each attempt, in order; the last one is repeated. Several jobs train side by side."""

    attempts: list[Callable]
    resumed: list[int | None]

    def __call__(self, run) -> int:
        members = [self._opened(url) for url in run.launch.job_urls]
        with ThreadPoolExecutor(len(members)) as pool:
            statuses = set(pool.map(lambda member: member(run), members))
        return statuses.pop() if len(statuses) == 1 else 0

    def _opened(self, url: str) -> Callable:
        job = JobDirectory(LocalStorage(Path(unquote(urlsplit(url).path))), "")
        control = job.control()
        here = job.attempt(control.attempt)
        if not here.own({}):
            return lambda run: 75
        self.resumed.append(control.resume_from.step if control.resume_from else None)
        act = self.attempts.pop(0) if len(self.attempts) > 1 else self.attempts[0]
        return lambda run: act(run, here)


def running(here, step: int = 5, **facts) -> AttemptStatus:
    return AttemptStatus(attempt=here.number, state="running", phase="training", step=step, total_steps=60, loss=1.5, **facts)


def save(here, step: int, content: bytes = b"weights") -> None:
    folder = f"checkpoints/{checkpoint_folder(step)}"
    here.storage.write(here.name(folder, "adapter"), content)
    manifest = Manifest(step=step, files={"adapter": ManifestFile(bytes=7, sha256=hashlib.sha256(b"weights").hexdigest())})
    here.storage.write(here.name(folder, "COMPLETE.json"), manifest.model_dump_json().encode())


def succeeds(checks=GOOD):
    def act(run, here) -> int:
        here.storage.append(here.name("job.log"), b"trained\n")
        here.storage.write(here.name("results", "checks.json"), json.dumps(checks).encode())
        here.storage.write(here.name("results", "config.yaml"), b"resolved: true\n")
        metrics = {"tokens_per_second": 1000.0, "tokens_seen": 4000}
        here.storage.write(here.name("results", "metrics.json"), json.dumps(metrics).encode())
        here.write_status(running(here, 60).model_copy(update={"state": "succeeded"}))
        return 0

    return act


def fails(code: str):
    def act(run, here) -> int:
        failure = Failure(code=code, message=f"It was {code}.", hint="Change it.")
        here.write_status(running(here).model_copy(update={"state": "failed", "failure": failure}))
        return 0

    return act


def dies(status: int = -9, *, checkpoint: int | None = None):
    def act(run, here) -> int:
        here.write_status(running(here))
        if checkpoint is not None:
            save(here, checkpoint)
        return status

    return act


def runs(*, last_word: str | None = None, checkpoint: int | None = 10, **facts):
    """Trains until it is asked to end: then saves and says so."""

    def act(run, here) -> int:
        here.write_status(running(here, **facts))
        here.storage.write(here.name("started"), b"")
        word = None
        while word is None:
            if run.stopping.wait(0.002):
                word = last_word or "preempted"
            elif here.job.control().attempt != here.number:
                return 75
            elif here.job.control().want == "stop":
                word = last_word or "stopped"
        if run.killed:
            return -9
        if checkpoint is not None:
            save(here, checkpoint)
        here.write_status(running(here, checkpoint or 5).model_copy(update={"state": word}))
        return 0

    return act


class FakeRegistry:
    """One model a job, however often it is asked; can be told to fail."""

    def __init__(self) -> None:
        self.models: dict[str, SimpleNamespace] = {}
        self.finished = []
        self.before: BaseException | None = None
        self.after: BaseException | None = None

    def register(self, finished):
        if self.before is not None:
            error, self.before = self.before, None
            raise error
        self.finished.append(finished)
        model = self.models.setdefault(finished.job_id, SimpleNamespace(id=f"model_{len(self.models) + 1}"))
        if self.after is not None:
            error, self.after = self.after, None
            raise error
        return model


class BreakingQueue(JobQueue):
    """Dies at a named point: before or after one of its writes."""

    breaks_at: str | None = None

    def _maybe(self, point: str) -> None:
        if self.breaks_at == point:
            self.breaks_at = None
            raise Killed(point)

    def claim(self, owner, line, allowed=ALONE):
        held = super().claim(owner, line, allowed)
        if held:
            self._maybe("after_claim")
        return held

    def launched(self, fences, handle):
        self._maybe("before_launched")
        super().launched(fences, handle)

    def settle(self, fence, segments):
        self._maybe("before_settle")
        charge = super().settle(fence, segments)
        self._maybe("after_settle")
        return charge

    def finish(self, fence, ending):
        self._maybe("before_finish")
        super().finish(fence, ending)
        self._maybe("after_finish")


class ListeningExecutor(MemoryExecutor):
    """Remembers what it started, and whom it asked to save."""

    def __init__(self, trainer) -> None:
        super().__init__(trainer)
        self.started: list[Launch] = []
        self.asked: list[str] = []
        self.tended = 0
        self.cannot_tend = False

    def tend(self) -> None:
        self.tended += 1
        if self.cannot_tend:
            raise OSError("no room for a log")

    def start(self, launch: Launch) -> str:
        self.started.append(launch)
        return super().start(launch)

    def terminate(self, handle: str) -> None:
        self.asked.append(handle)
        super().terminate(handle)


class Bench:
    """Everything at hand. One supervisor is made on demand; `another` makes a second one, as after a restart."""

    def __init__(self, folder: Path, dataset_id: str) -> None:
        self.folder = folder
        self.dataset_id = dataset_id
        self.times = Times()
        self.database = Database(folder / "luthier.db")
        self.storage = LocalStorage(folder)
        self.accounts = Accounts(self.database, self.times.now)
        self.billing = Billing(self.database, self.times.now, Machine(memory_bytes=16_000_000_000, cores=4))
        self.billing.first_start()
        self.bases = Bases(folder / "bases")
        self.datasets = datasets_at(folder, self.database, self.storage, self.bases, self.times.now)
        files = ModelFiles(self.storage, folder / "cache")
        self.models = Registry(self.database, files, self.bases, Catalogue(self.database, files), self.times.now)
        services = JobServices(self.accounts, self.billing, self.bases, self.datasets, self.models)
        self.jobs = Jobs(self.database, self.storage, services, self.times.now)
        self.queue = BreakingQueue(self.database, self.storage, self.billing, (self.datasets, self.models), self.times.now)
        self.registry = FakeRegistry()
        self.trainer = Trainer([succeeds()], [])
        self.executor = ListeningExecutor(self.trainer)
        self.pace = Pace()
        self.presences: list[Presence] = []
        self._supervisor: Supervisor | None = None

    @property
    def supervisor(self) -> Supervisor:
        self._supervisor = self._supervisor or self.another()
        return self._supervisor

    def another(self, **parts) -> Supervisor:
        presence = Presence(self.folder / "supervisors")
        self.presences.append(presence)
        made = Parts(self.queue, self.storage, self.registry, self.executor, presence, "file:///bases")
        return Supervisor(replace(made, **parts), self.pace, Clocks(self.times.now, self.times.monotonic, self.times.pass_s))

    def kill_supervisor(self) -> Supervisor:
        """As kill -9 does: the lock is free, the pipe of the trainers ends; then a new one starts."""
        self.presences[-1].close()
        self.executor.close()
        self.executor.join()
        self._supervisor = None
        return self.supervisor

    def spec(self, **changes) -> RunSpec:
        return RunSpec.model_validate({"base_model": "luthier/tiny", "dataset": self.dataset_id, **changes})

    def submit(self, actor: Actor = ALICE, **changes):
        return self.jobs.submit(actor, self.spec(**changes)).job

    def get(self, job, actor: Actor = ALICE):
        return self.jobs.get(actor, job.id)

    def here(self, job) -> JobDirectory:
        return directory(self.storage, job.created_by.replace("user", "team"), job.id)

    def until_started(self, job) -> None:
        """Wait for the fake trainer's thread to have said that it runs."""
        here = self.here(job)
        attempt = here.attempt(self.get(job).attempt)
        self._eventually(lambda: self.storage.size(attempt.name("started")) is not None)

    def until_last_word(self, job) -> None:
        """Wait for the fake trainer's thread to have said how it ended."""
        attempt = self.here(job).attempt(self.get(job).attempt)
        self._eventually(lambda: (status := attempt.status()) is not None and status.state in LAST_WORDS)

    @staticmethod
    def _eventually(happened: Callable[[], bool]) -> None:
        waited = threading.Event()
        for _ in range(2000):
            if happened():
                return
            waited.wait(0.002)
        raise AssertionError("the trainer did not get there")

    def settle(self, *, rounds: int = 40, seconds: float = 6) -> None:
        """Tick until nothing moves any more, with time passing."""
        for _ in range(rounds):
            self.supervisor.tick()
            self.executor.join()
            self.supervisor.tick()
            if not self.supervisor.running and all(job.finished for job in self.jobs.list(ALICE).data):
                return
            self.times.pass_s(seconds)
        raise AssertionError([job.state for job in self.jobs.list(ALICE).data])

    def path_of(self, job) -> list[str]:
        return [step.to_state for step in self.jobs.transitions(ALICE, job.id)]

    def ledger(self) -> list[tuple[int, str]]:
        return [(charge.attempt, charge.amount_usd) for charge in reversed(self.billing.history(ALICE).data)]

    def close(self) -> None:
        self.executor.close()
        self.executor.join()
        for presence in self.presences:
            presence.close()
        self.datasets.close()
        self.database.close()


def datasets_at(folder: Path, database, storage, bases, now) -> Datasets:
    return Datasets(database, storage, bases, Room(folder / "scratch", 10**9, 10**8), now)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A data folder with one dataset of Alice's, made once: checking a file takes a process."""
    folder = tmp_path_factory.mktemp("prepared")
    database, storage = Database(folder / "luthier.db"), LocalStorage(folder)
    Row.metadata.create_all(database.engine)
    datasets = datasets_at(folder, database, storage, Bases(folder / "bases"), lambda: datetime(2026, 11, 21, tzinfo=UTC))
    rows = [{"prompt": f"What is number {n}?", "completion": f"It is {n}."} for n in range(ROWS)]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    dataset = datasets.upload(ALICE, Upload([data], name="numbers"))
    datasets.close()
    database.close()
    return folder, dataset.id


@pytest.fixture
def bench(prepared, tmp_path):
    folder, dataset_id = prepared
    shutil.copytree(folder, tmp_path / "data")
    bench = Bench(tmp_path / "data", dataset_id)
    yield bench
    bench.close()


@pytest.fixture
def fake():
    """What fake trainers can do."""
    return SimpleNamespace(succeeds=succeeds, fails=fails, dies=dies, runs=runs, save=save, running=running, good=GOOD)


@pytest.fixture
def killed():
    return Killed


@pytest.fixture
def alice():
    return ALICE


@pytest.fixture
def bob():
    return BOB
