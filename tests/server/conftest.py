"""`luthier up` as a process, on a data folder of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from luthier.accounts.types import Actor
from luthier.server.first import first_start
from luthier.settings import Settings
from luthier.wiring import Platform, build

START_S = 60


class Server:
    """A data folder, and the processes that work on it."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.process: subprocess.Popen[str] | None = None
        self._all: list[subprocess.Popen[str]] = []

    def command(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """`luthier <arguments> --data DATA`, started."""
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "luthier.server.main", *arguments, "--data", str(self.data)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "LUTHIER_TICK_S": "0.05", **environment},
            start_new_session=True,
        )
        self._all.append(process)
        return process

    def up(self, **environment: str) -> str:
        """Start it, wait for its address and return it."""
        self.process = self.command("up", "--port", "0", **environment)
        self.until(lambda: self.facts().get("pid") == self.process.pid or self.process.poll() is not None, "it is ready")
        assert self.process.poll() is None, self.process.communicate()[1]
        return self.facts()["url"]

    def facts(self) -> dict:
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self.data / "server.json").read_text("utf-8"))
        return {}

    def key(self) -> str:
        return (self.data / "admin.key").read_text("utf-8").strip()

    def supervisors(self) -> list[psutil.Process]:
        """Those that are at work: one that is still loading has no lock of its own yet."""
        at_work = len(list((self.data / "supervisors").glob("*.lock")))
        return self.working("supervise")[-at_work:] if at_work else []

    def working(self, *words: str) -> list[psutil.Process]:
        """Processes that name this data folder in their command line."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                line = process.cmdline()
                alive = process.status() != psutil.STATUS_ZOMBIE
                if alive and any(str(self.data) in part for part in line) and all(word in line for word in words):
                    found.append(process)
        return found

    def until(self, happened: Callable[[], object], what: str, seconds: float = START_S) -> None:
        end = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < end, f"waited {seconds} s until {what}\n{self.log()}"
            time.sleep(0.02)

    def log(self) -> str:
        path = self.data / "supervisor.log"
        return path.read_text("utf-8", "replace")[-4000:] if path.exists() else ""

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, float, str]:
        """Send the signal; exit status, seconds until the end, and what it said on stderr."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, time.monotonic() - began, errors

    def close(self) -> None:
        for process in self.working():
            with contextlib.suppress(psutil.Error):
                process.kill()
        for process in self._all:
            process.communicate(timeout=30)


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    server = Server(tmp_path / "data")
    yield server
    server.close()


@pytest.fixture
def prepared(server) -> Iterator[tuple[Platform, Actor]]:
    """The platform on the server's data folder before its start, and the admin, whose key lies there."""
    platform = build(Settings(data=server.data))
    first_start(platform)
    yield platform, platform.accounts.authenticate(server.key())
    platform.close()


@pytest.fixture
def get():
    def ask(url: str, path: str, key: str | None = None) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.get(url + path, headers=headers, timeout=10, trust_env=False)

    return ask
