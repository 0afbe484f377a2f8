"""`luthier up`: the API in this process, the supervisor as a child of it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path

import typer
import uvicorn

from luthier.errors import SetupError
from luthier.faces.rest.app import create_app
from luthier.server.locks import FolderLock
from luthier.settings import Settings
from luthier.wiring import Platform, build

_DRAIN_S = 20
_SUPERVISOR_DRAIN_S = 70


def up(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises: SetupError where the folder or the port is taken."""
    lock = FolderLock(settings.data, "server")
    if not lock.take():
        raise SetupError("Another `luthier up` serves this data folder.", hint="Stop it first, or give another --data folder.")
    with contextlib.closing(_listening(settings)) as listener, _platform(settings) as platform:
        host, port = listener.getsockname()[:2]
        url = f"http://{host}:{port}"
        address = settings.data / "server.json"
        address.write_text(json.dumps({"url": url, "pid": os.getpid()}), "utf-8")
        keeper = SupervisorKeeper(settings)
        server = uvicorn.Server(_config(platform))
        _greet(settings, url)
        keeper.start()
        try:
            server.run(sockets=[listener])
        finally:
            address.unlink(missing_ok=True)
            keeper.stop()
            lock.release()


@contextlib.contextmanager
def _platform(settings: Settings) -> Generator[Platform]:
    platform = build(settings)
    try:
        _first_start(platform, settings.key_path)
        platform.datasets.recover()
        yield platform
    finally:
        platform.close()


def _first_start(platform: Platform, path: Path) -> None:
    key = platform.accounts.first_start()
    if key is not None:
        # Created with its mode: a moment in which others could read it would be one too many.
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(key + "\n")


def _listening(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        hint = "Stop what listens there, or choose another with --port (0 takes a free one)."
        raise SetupError(f"LUTHIER_PORT: {settings.host}:{settings.port} cannot be used ({error.strerror}).", hint=hint) from None
    listener.listen(2048)
    listener.set_inheritable(True)
    return listener


def _config(platform: Platform) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(platform),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_DRAIN_S,
        server_header=False,
        lifespan="off",
    )


def _greet(settings: Settings, url: str) -> None:
    typer.echo(f"Luthier serves {url}   (API page: {url}/docs)", err=True)
    typer.echo(
        f"Data: {settings.data}   Key: {settings.key_path}   Ctrl-C stops; running jobs save and go on next time.", err=True
    )


class SupervisorKeeper:
    """Keeps one embedded supervisor running: starts it again when it dies, more slowly each time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        # It closes when this process dies, whatever kills it; the supervisor then finishes its jobs and ends.
        self._read_end, self._write_end = os.pipe()
        self._thread = threading.Thread(target=self._keep, name="supervisor-keeper", daemon=True)

    def start(self) -> None:
        """Start it in the background."""
        self._thread.start()

    def stop(self) -> None:
        """SIGTERM, and wait until its trainers have saved."""
        self._stopping.set()
        self._thread.join(timeout=10)
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(timeout=_SUPERVISOR_DRAIN_S)
            except subprocess.TimeoutExpired:
                self._child.kill()
        os.close(self._write_end)
        os.close(self._read_end)

    def _keep(self) -> None:
        pause = 0.5
        while not self._stopping.is_set():
            self._child = self._launched()
            while self._child.poll() is None and not self._stopping.is_set():
                self._stopping.wait(0.2)
            # Status 0 without being asked: an earlier server's supervisor still finishes its jobs. Ask again soon.
            pause = 2.0 if self._child.poll() == 0 else min(pause * 2, 30.0)
            self._stopping.wait(pause)

    def _launched(self) -> subprocess.Popen[bytes]:
        settings = self._settings
        flags = ["--data", str(settings.data), "--slots", str(settings.slots), "--server-pipe", str(self._read_end)]
        with (settings.data / "supervisor.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "luthier.server.main", "supervise", *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[self._read_end],
                start_new_session=True,  # a Ctrl-C in the terminal reaches `up` alone, which then stops us in order
            )
