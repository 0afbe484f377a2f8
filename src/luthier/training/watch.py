"""What the platform wants of this attempt while it runs, and the fence: an attempt that was replaced writes nothing more."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from pydantic import ValidationError

from luthier.errors import LuthierError, SetupError
from luthier.jobs.directory import EXIT_FENCED, Control
from luthier.seams import Storage
from luthier.training.failures import Fenced, Stopping, Wish

POLL_S = 5.0
_FENCED_GRACE_S = 5.0
_ORPHAN_GRACE_S = 50.0
_PR_SET_PDEATHSIG = 1


class Watch:
    """Polls the `control.json` of one attempt. The training thread asks; nothing is pushed on it."""

    def __init__(
        self,
        control: Callable[[], Control | None],
        attempt: int,
        *,
        poll_s: float = POLL_S,
        exit_now: Callable[[int], object] = os._exit,
    ) -> None:
        self._control = control
        self._attempt = attempt
        self._poll_s = poll_s
        self._exit_now = exit_now
        self._wish: Wish | None = None
        self._fenced = False
        self._seen_at = time.monotonic()
        self._closed = threading.Event()

    @property
    def wish(self) -> Wish | None:
        """How the attempt is asked to end, if it is. Raises: Fenced."""
        if self._fenced:
            raise Fenced
        return self._wish

    def check(self) -> None:
        """For phases in which there is nothing to save. Raises: Fenced, Stopping."""
        wish = self.wish
        if wish is not None:
            raise Stopping(wish)

    def confirm_ownership(self) -> None:
        """Before each write. A process that was frozen looks at `control.json` first: much may have happened. Raises: Fenced."""
        if time.monotonic() - self._seen_at > 2 * self._poll_s:
            self.poll()
        if self._fenced:
            raise Fenced

    def poll(self) -> None:
        """Read `control.json` once. What cannot be read changes nothing: the platform may be away, the training goes on."""
        try:
            control = self._control()
        except (OSError, LuthierError, ValidationError):
            return
        self._seen_at = time.monotonic()
        if control is None:
            return
        if control.attempt != self._attempt:
            self._fenced = True
        elif control.want != "run":
            self.ask("stopped")

    def ask(self, wish: Wish) -> None:
        """Ask for an early end. A stop that somebody wanted is not overwritten by a preemption."""
        if self._wish != "stopped":
            self._wish = wish

    def start(self) -> None:
        """Begin to watch `control.json`."""
        threading.Thread(target=self._poll_forever, name="control", daemon=True).start()

    def close(self) -> None:
        """Watch no longer: the last word is being written."""
        self._closed.set()

    def _poll_forever(self) -> None:
        while not self._closed.wait(self._poll_s):
            self.poll()
            if self._fenced:
                # The training thread leaves by itself at its next step; one that hangs must not outlive its successor's start.
                if not self._closed.wait(_FENCED_GRACE_S):
                    self._exit_now(EXIT_FENCED)
                return


class FencedStorage:
    """A storage that refuses to write once the attempt was replaced."""

    def __init__(self, inner: Storage, watch: Watch) -> None:
        self._inner = inner
        self._watch = watch

    @property
    def url(self) -> str:
        return self._inner.url

    def read(self, name: str) -> bytes:
        return self._inner.read(name)

    def open(self, name: str) -> BinaryIO:
        return self._inner.open(name)

    def size(self, name: str) -> int | None:
        return self._inner.size(name)

    def names(self, prefix: str) -> Iterator[str]:
        return self._inner.names(prefix)

    def fetch_file(self, name: str, target: Path) -> None:
        self._inner.fetch_file(name, target)

    def write(self, name: str, data: bytes) -> None:
        self._watch.confirm_ownership()
        self._inner.write(name, data)

    def place(self, folder: str, files: Mapping[str, bytes]) -> None:
        self._watch.confirm_ownership()
        self._inner.place(folder, files)

    def create(self, name: str, data: bytes) -> bool:
        self._watch.confirm_ownership()
        return self._inner.create(name, data)

    def append(self, name: str, data: bytes) -> None:
        self._watch.confirm_ownership()
        self._inner.append(name, data)

    def put_file(self, name: str, source: Path) -> None:
        self._watch.confirm_ownership()
        self._inner.put_file(name, source)

    def delete(self, prefix: str) -> None:
        self._watch.confirm_ownership()
        self._inner.delete(prefix)


def _check_pipe(descriptor: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError:
        raise SetupError(
            f"--parent-pipe {descriptor} is not an open file descriptor.", hint="Leave it out in a run by hand."
        ) from None


# -- the edges of the process: signals, the parent ----------------------------------------------------------------------


def watching(watches: Sequence[Watch], parent_pipe: int | None, exit_now: Callable[[int], object] = os._exit) -> None:
    """Begin to watch: the control file of each, and for all of them the signals and the parent. Call from the main thread."""
    if parent_pipe is not None:
        _check_pipe(parent_pipe)
    edges = _Edges(watches, exit_now)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, edges.on_signal)
    for watch in watches:
        watch.start()
    if parent_pipe is not None:
        edges.follow_parent()
        threading.Thread(target=edges.wait_for_end_of_pipe, args=(parent_pipe,), name="parent", daemon=True).start()


class _Edges:
    """What happens to the process happens to every attempt in it."""

    def __init__(self, watches: Sequence[Watch], exit_now: Callable[[int], object]) -> None:
        self._watches = watches
        self._exit_now = exit_now

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._preempt()
        signal.signal(number, signal.SIG_DFL)  # the second one ends the process there and then

    def follow_parent(self) -> None:
        """Linux tells us when the parent dies, even if somebody else still holds the pipe open."""
        parent = os.getppid()

        def on_hangup(number: int, frame: FrameType | None) -> None:
            del number, frame
            # The kernel sends it when the *thread* that started us ends; only a new parent means that the process died.
            if os.getppid() != parent:
                self._orphaned()

        signal.signal(signal.SIGHUP, on_hangup)
        if sys.platform == "linux":
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGHUP, 0, 0, 0)

    def wait_for_end_of_pipe(self, descriptor: int) -> None:
        while True:
            try:
                if not os.read(descriptor, 4096):
                    break
            except InterruptedError:
                continue
            except OSError:
                break
        self._orphaned()

    def _preempt(self) -> None:
        for watch in self._watches:
            watch.ask("preempted")

    def _orphaned(self) -> None:
        self._preempt()
        timer = threading.Timer(_ORPHAN_GRACE_S, self._exit_now, args=(1,))
        timer.daemon = True
        timer.start()
