"""The API is killed 200 ms after the first answer of each of its lives, while runs are submitted, billed and cancelled.

None is lost and none is there twice, each has its row in the audit log, and the books (`books.py`) are in order.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import sqlite3
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from luthier.billing.types import Segment
from luthier.errors import DatabaseBusy
from luthier.jobs.queue import Ending, Fenced, Held, JobQueue, Report
from luthier.jobs.rules import Attempt, outcome
from luthier.jobs.types import Line
from luthier.settings import Settings
from luthier.wiring import build

from . import books
from .submitting import CLIENTS, Load, check_nothing_lost

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5000)]

LIVES_S = 0.2


@dataclass
class Elsewhere:
    """A supervisor of another machine: it claims what is submitted, bills it and ends it, while the API dies and lives."""

    api: object
    ended: int = 0
    over: threading.Event = field(default_factory=threading.Event)
    _billed_until: dict[str, datetime] = field(default_factory=dict)

    def work(self) -> None:
        platform, choice = build(Settings(data=self.api.data)), random.Random(5)
        used = (platform.datasets, platform.registry)
        queue = JobQueue(platform.database, platform.storage, platform.billing, used, platform.now)
        try:
            while not self.over.is_set():
                with contextlib.suppress(DatabaseBusy, Fenced):
                    for held in queue.claim("elsewhere", Line(("A100",))) or ():
                        self._run(queue, held, choice)
                self.over.wait(0.02)  # the API's process makes the work: there is nothing to step forward but real time
        finally:
            platform.close()

    def _run(self, queue: JobQueue, held: Held, choice: random.Random) -> None:
        fence = held.fence
        # What it bills is made up, and longer than the moment in which it bills it: a job's next attempt begins behind that.
        began = max(datetime.now(UTC), self._billed_until.get(fence.job_id, datetime.now(UTC)))
        # The second one: the claim has noted the beginning of the first, without any time in it.
        first = Segment(held.tenant_id, fence.job_id, fence.attempt, 1, "A100", began, 0)
        for ms in sorted(choice.randrange(1, 10**6) for _ in range(2)):
            billed = Segment(**{**vars(first), "ms": ms})
            self._billed_until[fence.job_id] = began + timedelta(milliseconds=ms)
            queue.report([Report(fence, (billed,), None)])
        wish = queue.wishes([fence]).get(fence.job_id)
        queue.finish(fence, Ending(outcome(Attempt(None, -9, wish, held.crashes, max_attempts=2)), (billed,)))
        self.ended += 1


def cancel(api, load: Load, number: int) -> None:
    """Until it is answered; a run that has ended by then stays as it is."""
    job_id = load.acknowledged[f"key-{number}"]
    while True:
        load.alive.wait()
        with contextlib.suppress(httpx.TransportError):
            answer = api.ask("POST", f"/api/jobs/{job_id}/cancel")
            assert answer.status_code == 200, answer.text
            return


def live_and_die(api, load: Load, kills: int, submits: int) -> None:
    """So many lives of the API, each killed soon after its first answer; then one more, until so many were submitted."""
    numbers, enough = itertools.count(), threading.Event()

    def client() -> None:
        while not enough.is_set():
            number = next(numbers)
            load.submit(number)
            if number % 7 == 0:
                cancel(api, load, number)

    with ThreadPoolExecutor(CLIENTS) as clients:
        sent = [clients.submit(client) for _ in range(CLIENTS)]
        try:
            for life in range(kills + 1):
                api.up()
                last = life == kills
                load.kill_at = max(len(load.acknowledged) + 1, submits if last else 0)
                load.enough.clear()
                load.alive.set()
                while not load.enough.wait(0.5):
                    _raise_first(sent)
                if not last:
                    time.sleep(LIVES_S)  # the life of another process
                    load.alive.clear()
                    api.kill()
        finally:
            enough.set()
            load.alive.set()
    _raise_first(sent)


def _raise_first(sent) -> None:
    for each in sent:
        if each.done() and each.exception() is not None:
            raise each.exception()


def killed_and_checked(api, kills: int, submits: int) -> tuple[Load, dict[str, object]]:
    load, elsewhere = Load(api), Elsewhere(api)
    with ThreadPoolExecutor(1) as other:
        working = other.submit(elsewhere.work)
        try:
            live_and_die(api, load, kills, submits)
        finally:
            elsewhere.over.set()
        working.result()
    litter = check_nothing_lost(api, load, len(load.acknowledged))
    wait_until_sealed(api)
    return load, {
        "folders without a run (litter)": litter,
        "attempts ended elsewhere": elsewhere.ended,
        **checked_books(api, load),
    }


def wait_until_sealed(api) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with contextlib.closing(sqlite3.connect(api.data / "luthier.db")) as connection:
            if connection.execute("SELECT count(*) FROM audit WHERE seq IS NULL").fetchone()[0] == 0:
                return
        time.sleep(0.1)  # another process seals: there is nothing to step forward but real time
    raise AssertionError("rows of the audit log are not sealed after 30 s")


def checked_books(api, load: Load) -> dict[str, object]:
    """Money, histories and the audit log of a folder whose API was killed. Returns figures."""
    api.kill()
    with contextlib.closing(sqlite3.connect(api.data / "luthier.db")) as connection:
        assert books.faults(connection, load.acknowledged.values()) == []
        rows = connection.execute("SELECT resources FROM audit WHERE action = 'jobs.submit' AND outcome = 'changed'")
        named = Counter(name for (resources,) in rows for name in resources.split() if name.startswith("job_"))
        ledger, charged = connection.execute("SELECT count(*), coalesce(sum(micro_usd), 0) FROM ledger").fetchone()
    assert named == Counter(load.acknowledged.values())
    platform = build(Settings(data=api.data))
    try:
        verdict = platform.audit.verify()
    finally:
        platform.close()
    assert verdict.faults == []
    return {"lines of the ledger": ledger, "their sum in micro-dollars, which is that of the usage": charged}


def test_none_is_lost_or_doubled_when_each_life_of_the_api_ends_soon_after_its_first_answer(api):
    load, figures = killed_and_checked(api, 30, 100)
    assert len(load.acknowledged) >= 100
    assert figures["lines of the ledger"]


PARTS, KILLS_OF_PART, SUBMITS_OF_PART = 10, 50, 1000
PAGE = "five-hundred-lives"


@pytest.mark.prove
@pytest.mark.parametrize("part", range(PARTS))
def test_five_hundred_lives_of_the_api(api, part, request, record):
    """In parts, each with a server of its own, so that it can be done a few minutes at a time: pytest's cache keeps them."""
    began = time.monotonic()
    load, figures = killed_and_checked(api, KILLS_OF_PART, SUBMITS_OF_PART)
    known = request.config.cache.get(f"prove/{PAGE}", {})
    known[str(part)] = {
        "kills (SIGKILL) of the API": KILLS_OF_PART,
        "submits acknowledged": len(load.acknowledged),
        "requests that got no answer, and were sent again with their key": load.unanswered,
        "answers that asked to be sent again (409, 503), and were": load.refused,
        "answers that said that they were replays": load.replayed,
        **figures,
        "minutes": (time.monotonic() - began) / 60,
    }
    request.config.cache.set(f"prove/{PAGE}", known)
    if len(known) == PARTS:
        none = (
            "acknowledged and lost",
            "there twice",
            "runs without their one row in the audit log",
            "faults in the audit chain",
        )
        record(
            PAGE,
            "Five hundred lives of the API, each killed 200 ms after its first answer",
            {
                "parts, each with a server of its own": PARTS,
                "clients at a time": CLIENTS,
                **{what: sum(of_part[what] for of_part in known.values()) for what in known["0"]},
                **dict.fromkeys((*none, "faults in the books (I1 to I5)"), 0),
            },
        )


POINTS = {
    "between_directory_and_row": ("write", "kill"),
    # What was written is there when only the process dies; a power cut at this point would take it, and nobody was told.
    "before_commit_is_flushed": ("fsync", "kill"),
    "after_commit_before_reply": ("fsync", "after"),
}


@pytest.mark.parametrize("point", sorted(POINTS))
def test_a_submit_that_is_killed_at_a_named_point_is_there_once_when_it_is_sent_again(faulty_api, disk, fault, point):
    api, load, replayed = faulty_api, Load(faulty_api), []
    call, how = POINTS[point]
    for at in (1, 2):  # a log that begins anew is flushed once more, with its header alone
        key = f"key-{at}"
        disk.arm(fault(call, how, at, under=f"{api.data}/luthier.db-wal"))
        with contextlib.suppress(httpx.TransportError):
            api.submit(key, name=key)
        disk.disarm()
        assert len(api.folders("jobs")) >= at
        api.kill()
        api.up()
        answer = api.submit(key, name=key)
        assert answer.status_code == 201
        replayed.append(answer.headers.get("idempotent-replayed") == "true")
        load.acknowledged[key] = answer.json()["job"]["id"]
    assert replayed[0] is False  # the first call of the first write is before anything that counts
    assert point == "between_directory_and_row" or replayed[1] is True
    litter = check_nothing_lost(api, load, 2)
    assert litter == replayed.count(False)
    wait_until_sealed(api)
    checked_books(api, load)
