"""The demo's processes: the platform and the build of a base, in sessions of their own, and the memory that they hold."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import psutil

from luthier import bases, modeling
from luthier.errors import LuthierError

_STOP_S = 90


@contextlib.contextmanager
def platform(folder: Path) -> Iterator[str]:
    """`luthier up` on `folder`, and its address; stopped in every case, once."""
    with (folder / "server.log").open("wb") as log:
        server = _started(["up", "--port", "0", "--data", str(folder)], stdout=log, stderr=log)
    try:
        yield _address(folder, server)
    finally:
        _stopped(server)


def fetched(base: str, folder: Path) -> bool:
    """Whether `luthier bases fetch` brought the base into the data folder; its progress goes to stderr."""
    fetch = _started(["bases", "fetch", base, "--data", str(folder)], stdout=subprocess.DEVNULL)
    try:
        return fetch.wait() == 0
    finally:
        _stopped(fetch)


def tiny_fingerprint() -> str:
    """Of all that luthier/tiny is made from: a base that was built from anything else is another one."""
    digest = hashlib.sha256(version("torch").encode())
    folders = [Path(package.__path__[0]) for package in (bases, modeling)]
    for path in sorted([*(folders[0] / "tiny").iterdir(), *folders[1].glob("tiny*.py")]):
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class Memory(threading.Thread):
    """The most memory that all processes which this one started held at one time, looked at twice a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._ended = threading.Event()
        self.most_bytes = 0

    def __enter__(self) -> Memory:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def run(self) -> None:
        while not self._ended.wait(0.5):
            with contextlib.suppress(psutil.Error):
                held = sum(_held_bytes(process) for process in psutil.Process().children(recursive=True))
                self.most_bytes = max(self.most_bytes, held)


def _started(arguments: Sequence[str], **streams: object) -> subprocess.Popen[bytes]:
    # What the user's shell sets for a platform of their own is not for this one. A session of its own, because a Ctrl-C goes
    # to every process of the terminal's: the server would be told twice to stop, and a second time means to hurry.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LUTHIER_")}
    command = [sys.executable, "-m", "luthier.server.main", *arguments]
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True, **streams)


def _stopped(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, once: it ends its own children in order. What is left after that, or after a second Ctrl-C, is killed."""
    if process.poll() is None:
        process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
        process.wait(timeout=_STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _address(folder: Path, server: subprocess.Popen[bytes]) -> str:
    until = time.monotonic() + 60
    while time.monotonic() < until and server.poll() is None:
        with contextlib.suppress(OSError, ValueError):
            return str(json.loads((folder / "server.json").read_text())["url"])
        time.sleep(0.05)
    raise LuthierError("The platform did not start.", hint=(folder / "server.log").read_text(errors="replace")[-1000:])


def _held_bytes(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return process.memory_info().rss
    return 0
