"""The engine process itself: how it is started, watched and ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from luthier.backends.engines.unix_http import UnixHttp
from luthier.errors import EngineUnavailable
from luthier.seams import ServedModel

COMMAND = (sys.executable, "-P", "-m", "luthier.modeling.server")
"""-P: whatever lies in the working directory is no module of ours."""

_SOCKET_PATH_BYTES = 100
"""The system allows about 107 (less on macOS)."""
_LOG_BYTES = 8 * 1024 * 1024
_END_S = 5
_LOOK_S = 0.05
_READ_S = 600.0
"""A large base takes minutes to load, a long prompt on a CPU minutes to read."""


@dataclass(eq=False)
class Child:
    """A process that answers, with a client for its socket."""

    process: subprocess.Popen[bytes]
    client: httpx.Client
    quick: UnixHttp
    """For what is small and asked often."""
    exited: threading.Event
    loaded: set[ServedModel] = field(default_factory=set[ServedModel])
    """What it was told to load. It may have let go of some since."""

    @property
    def pid(self) -> int:
        return self.process.pid

    def ended(self, wait_s: float = 0) -> bool:
        return self.exited.wait(wait_s)

    def end(self) -> None:
        """Close its pipe, so that it ends in order; kill it if it does not."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        if not self.exited.wait(_END_S):
            self.process.kill()
            self.exited.wait(_END_S)
        self.client.close()
        self.quick.close()


@dataclass(frozen=True)
class Patience:
    """How long a start is waited for."""

    start_s: float
    closed: threading.Event
    """Set when nobody wants the process any more."""


def start(folder: Path, command: Sequence[str], environment: Mapping[str, str], patience: Patience) -> Child:
    """Start the process and wait until it answers. Raises: EngineUnavailable, with nothing left running."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    socket, made = _socket_path(folder)
    socket.unlink(missing_ok=True)  # of one that was killed
    child = _spawned([*command, "--socket", str(socket), "--parent-pipe", "0"], environment, folder / "engine.log", made)
    # trust_env would send this through a proxy that the environment names.
    transport = httpx.HTTPTransport(uds=str(socket))
    timeout = httpx.Timeout(5, read=_READ_S)
    client = httpx.Client(transport=transport, base_url="http://engine", timeout=timeout, trust_env=False)
    whole = Child(child[0], client, UnixHttp(socket, _READ_S), child[1])
    deadline = time.monotonic() + patience.start_s
    while time.monotonic() < deadline and not patience.closed.is_set() and not whole.ended(_LOOK_S):
        # Only once it is there: httpx leaves a socket open behind each connection that fails.
        with contextlib.suppress(httpx.TransportError):
            if socket.exists() and client.get("/health", timeout=1).is_success:
                return whole
    status = child[0].poll()
    whole.end()
    what = f"did not answer within {patience.start_s:g} s" if status is None else f"ended at its start with status {status}"
    raise EngineUnavailable(
        f"The engine process {what}.", hint="The engine's log in the data folder says why; `luthier doctor` checks what it needs."
    )


def _spawned(
    command: Sequence[str], environment: Mapping[str, str], log: Path, made: Path | None
) -> tuple[subprocess.Popen[bytes], threading.Event]:
    """The process, and an event for its end. Raises: EngineUnavailable."""
    born: list[subprocess.Popen[bytes]] = []
    ready, exited = threading.Event(), threading.Event()

    def keep() -> None:
        # In a thread of its own that waits for the end: on Linux the process is told to end when the thread that
        # started it does, and a web server's worker threads come and go.
        try:
            with _log(log) as output:
                born.append(
                    subprocess.Popen(
                        command,
                        env=dict(environment),
                        stdin=subprocess.PIPE,
                        stdout=output,
                        stderr=output,
                        start_new_session=True,
                    )
                )
        except OSError:
            exited.set()
            return
        finally:
            ready.set()
        born[0].wait()
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)
        exited.set()

    threading.Thread(target=keep, name="engine-keeper", daemon=True).start()
    ready.wait()
    if not born:
        raise EngineUnavailable("The engine process could not be started.", hint="Try again when the machine has room.")
    return born[0], exited


def _log(path: Path):
    too_long = path.is_file() and path.stat().st_size > _LOG_BYTES
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | (os.O_TRUNC if too_long else os.O_APPEND)
    return os.fdopen(os.open(path, flags, 0o600), "ab")


def _socket_path(folder: Path) -> tuple[Path, Path | None]:
    """Where the socket goes, and the folder that was made for it where `folder` has too long a name."""
    wished = folder.resolve() / f"engine-{os.getpid()}.sock"
    if len(os.fsencode(wished)) <= _SOCKET_PATH_BYTES:
        return wished, None
    made = Path(tempfile.mkdtemp(prefix="luthier-"))
    return made / "s", made
