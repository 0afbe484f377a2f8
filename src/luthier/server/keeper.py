"""Keeps one embedded supervisor running beside the API."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

from luthier.settings import Settings

_DRAIN_S = 70
_LOOK_S = 0.2
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _STEADY_S = 0.5, 30.0, 60.0
_ASK_AGAIN_S = 2.0


class SupervisorKeeper:
    """Starts the supervisor, and starts it again when it dies: more slowly each time, until one has lived for a minute."""

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

    def stop(self, hurry: threading.Event) -> None:
        """SIGTERM, and wait until its trainers have saved; once `hurry` is set, SIGKILL.

        Even then no trainer is lost: the end of its pipe tells it to save and exit by itself.
        """
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
            until = time.monotonic() + _DRAIN_S
            while self._child.poll() is None and time.monotonic() < until and not hurry.wait(_LOOK_S / 4):
                pass
            self._child.kill()
            self._child.wait()
        os.close(self._write_end)
        os.close(self._read_end)

    def _keep(self) -> None:
        pause = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            began = time.monotonic()
            self._child = self._launched()
            while self._child.poll() is None:
                if self._stopping.wait(_LOOK_S):
                    return
            if self._child.returncode == 0:  # an earlier server's supervisor still finishes its jobs
                self._stopping.wait(_ASK_AGAIN_S)
                continue
            pause = _FIRST_PAUSE_S if time.monotonic() - began > _STEADY_S else min(pause * 2, _LONGEST_PAUSE_S)
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
