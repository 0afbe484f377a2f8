"""A trainer's writes and a whole server, on a disk that breaks."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import psutil
import pytest

from luthier.datasets.types import Upload
from luthier.server.first import first_start
from luthier.settings import Settings
from luthier.wiring import build

from . import actions

START_S = 60


@dataclass(frozen=True)
class Outcome:
    """How an action ended: its exit status (negative: the signal), and whether the disk broke at all."""

    root: Path
    status: int
    broke: bool


class Trainer:
    """A process that does what a trainer does to a job directory, as often as asked."""

    def __init__(self, disk, folder: Path) -> None:
        self._disk, self._folder = disk, folder
        self._number = 0
        self._process = subprocess.Popen(
            [sys.executable, actions.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **disk.environment},
        )

    def does(self, action: str, fault) -> Outcome:
        self._number += 1
        root = self._folder / str(self._number)
        root.mkdir()
        plan = self._disk.plan(replace(fault, under=str(root)))
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"action": action, "root": str(root), "plan": plan}) + "\n")
        self._process.stdin.flush()
        status = os.waitstatus_to_exitcode(int(self._process.stdout.readline()))
        return Outcome(root, status, self._disk.hits() > 0)

    def close(self) -> None:
        self._process.communicate(timeout=10)


@pytest.fixture
def trainer(disk, tmp_path) -> Iterator[Trainer]:
    trainer = Trainer(disk, tmp_path)
    yield trainer
    trainer.close()


class Api:
    """`luthier up` on a data folder of its own, which can be killed and started again. Nobody here trains what is submitted."""

    def __init__(self, data: Path, environment: dict[str, str], inside: tuple[str, ...] = ()) -> None:
        self.data = data
        self.seen = data
        self.environment = environment
        self.inside = inside
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.dataset = self._prepared()
        self.key = (data / "admin.key").read_text("utf-8").strip()
        self.client = httpx.Client(headers={"x-api-key": self.key}, timeout=30, trust_env=False)

    def up(self) -> None:
        with self.data.with_name("server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.inside, sys.executable, "-m", "luthier.server.main", "up", "--port", "0", "--data", str(self.data)],
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )
        end = time.monotonic() + START_S
        while self._facts().get("pid") != self.process.pid:
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < end, self.log()
            time.sleep(0.01)  # another process starts: there is nothing to step forward but real time
        self.url = self._facts()["url"]

    def kill(self) -> None:
        """As a kill -9 from outside. Its supervisor notices the end of its pipe."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)

    def ask(self, method: str, path: str, **more) -> httpx.Response:
        return self.client.request(method, self.url + path, **more)

    def upload(self, data: bytes) -> httpx.Response:
        return self.ask("POST", "/api/datasets?name=rows", content=data)

    def submit(self, key: str | None = None, name: str = "numbers") -> httpx.Response:
        headers = {"idempotency-key": key} if key else {}
        return self.ask("POST", "/api/jobs", json=self.spec(name), headers=headers)

    def spec(self, name: str) -> dict[str, str]:
        return {"base_model": "luthier/tiny", "dataset": self.dataset, "name": name}

    def listed(self, noun: str) -> list[dict]:
        """Every thing of this kind, page by page."""
        found, after = [], None
        while True:
            page = self.ask("GET", f"/api/{noun}?limit=200" + (f"&after={after}" if after else "")).json()
            found += page["data"]
            after = page["next_cursor"]
            if after is None:
                return found

    def folders(self, below: str) -> set[str]:
        """Names of what lies in `users/<team>/<below>`."""
        return {path.name for path in self.seen.glob(f"users/*/{below}/*")}

    def log(self) -> str:
        paths = [self.data.with_name("server.log"), *sorted(self.seen.glob("*.log"))]
        return "".join(path.read_text("utf-8", "replace")[-3000:] for path in paths)

    def close(self) -> None:
        self.client.close()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if str(self.data) in process.cmdline():
                    process.kill()
        if self.process is not None:
            self.process.wait(30)

    def _prepared(self) -> str:
        """An admin, a dataset, and a queue that no supervisor of this machine takes from. Returns the dataset's id."""
        platform = build(Settings(data=self.data))
        first_start(platform)
        admin = platform.accounts.authenticate((self.data / "admin.key").read_text("utf-8").strip())
        dataset = platform.datasets.upload(admin, Upload([some_rows(40)], name="numbers"))
        platform.close()
        with contextlib.closing(sqlite3.connect(self.data / "luthier.db")) as connection:
            connection.execute(
                "CREATE TRIGGER nobody_here AFTER INSERT ON jobs BEGIN UPDATE jobs SET hardware = 'A100' WHERE id = new.id; END"
            )
        return dataset.id

    def _facts(self) -> dict:
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self.seen / "server.json").read_text("utf-8"))
        return {}


def some_rows(count: int) -> bytes:
    return b"".join(b'{"prompt": "What is number %d?", "completion": "It is %d."}\n' % (n, n) for n in range(count))


@pytest.fixture
def rows():
    return some_rows


@pytest.fixture
def api(tmp_path) -> Iterator[Api]:
    api = Api(tmp_path / "data", {})
    yield api
    api.close()


@pytest.fixture
def small_api(tmp_path, small_disk) -> Iterator[Api]:
    """An API whose data folder is the whole of a small disk."""
    api = Api(tmp_path / "data", {}, tuple(small_disk.inside))
    shutil.copytree(api.data, small_disk.seen, dirs_exist_ok=True)
    api.data, api.seen = small_disk.path, small_disk.seen
    api.up()
    yield api
    api.close()


@pytest.fixture
def faulty_api(tmp_path, disk) -> Iterator[Api]:
    """An API whose disk breaks on demand."""
    api = Api(tmp_path / "data", disk.environment)
    api.up()
    yield api
    api.close()
