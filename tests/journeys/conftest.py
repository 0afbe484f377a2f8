"""A real platform: `luthier up` as a process, its supervisor and trainers, on a base that was trained for two steps."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from luthier import Client

_START_S = 60


class House:
    """One data folder and the server on it."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.server: subprocess.Popen[bytes] | None = None
        self._clients: list[Client] = []

    def start(self, **settings: str) -> Client:
        """Start the server and return a client with the admin's key."""
        (self.data / "server.json").unlink(missing_ok=True)
        fast = {"LUTHIER_TICK_S": "0.1", "LUTHIER_HEARTBEAT_S": "1", "LUTHIER_REAP_AFTER_S": "5"}
        with (self.data / "server.log").open("ab") as log:
            self.server = subprocess.Popen(
                [sys.executable, "-m", "luthier.server.main", "up", "--port", "0", "--data", str(self.data)],
                stdout=log,
                stderr=log,
                env={**os.environ, **fast, **settings},
            )
        self.wait_until(lambda: self.url() is not None, "the server answers")
        self._clients.append(Client(base_url=self.url(), api_key=(self.data / "admin.key").read_text().strip()))
        return self._clients[-1]

    def wait_until(self, happened: Callable[[], bool], what: str, seconds: float = _START_S) -> None:
        until = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < until, f"waited {seconds} s until {what}; log:\n{self.log()}"
            time.sleep(0.05)

    def log(self) -> str:
        return "".join(path.read_text(errors="replace")[-3000:] for path in sorted(self.data.glob("*.log")))

    def processes(self, module: str) -> list[psutil.Process]:
        """Running processes of this house, by what they run."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            line = " ".join(process.info["cmdline"] or ())
            if module in line and str(self.data) in line:
                found.append(process)
        return found

    def stop(self) -> None:
        if self.server is not None and self.server.poll() is None:
            self.server.send_signal(signal.SIGTERM)
            self.server.wait(timeout=90)

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self.kill_everything()

    def kill_everything(self) -> None:
        for module in ("luthier.server.main", "luthier.training", "luthier.modeling"):
            for process in self.processes(module):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        if self.server is not None:
            self.server.wait(timeout=30)

    def url(self) -> str | None:
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self.data / "server.json").read_text())["url"]
        return None


@pytest.fixture(scope="session")
def two_step_base(tmp_path_factory) -> Path:
    from luthier.modeling.tiny import TinyRecipe, build_tiny

    folder = tmp_path_factory.mktemp("base") / "1"
    build_tiny(folder, recipe=TinyRecipe(steps=2, batch=2, context=64))
    return folder


@pytest.fixture
def house(tmp_path, two_step_base) -> Iterator[House]:
    data = tmp_path / "data"
    shutil.copytree(two_step_base, data / "bases/luthier--tiny/1")
    house = House(data)
    yield house
    house.close()
