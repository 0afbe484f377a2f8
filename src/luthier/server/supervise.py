"""The supervisor as a process: alone by hand, or as the one that `luthier up` keeps running."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from functools import partial

from luthier.billing.machine import free_bytes
from luthier.jobs.directory import TokenFolder
from luthier.jobs.pace import Clocks, Pace
from luthier.jobs.presence import Presence
from luthier.jobs.queue import JobQueue
from luthier.server.collecting import keep_what_is_here
from luthier.server.ground import leave_no_core
from luthier.server.locks import FolderLock
from luthier.server.metadata_keeper import describing
from luthier.server.sealer import sealing
from luthier.settings import Settings
from luthier.supervisor import Parts, Supervisor
from luthier.wiring import Platform, build, courier, executor, mirror

_LOG = logging.getLogger("luthier.supervisor")
LOCK = "supervisor"


def supervise(settings: Settings, *, server_pipe: int | None = None) -> int:
    """Run until SIGTERM or SIGINT, then let trainers save. Returns the exit status.

    With `server_pipe` (the read end of a pipe that `luthier up` keeps open) it is the embedded one: only one of those runs
    on a data folder, and when its server is gone it finishes the jobs that it runs and ends.
    """
    leave_no_core()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    lock = FolderLock(settings.data, LOCK)
    if server_pipe is not None and not lock.take_patiently():
        return 0  # the one of an earlier server still works; `up` asks again
    stop = threading.Event()

    def on_signal(_number: int, _frame: object) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    platform = build(settings)
    supervisor = build_supervisor(platform)
    keep_what_is_here()
    # A thread of its own: neither a dead receiver nor a slow one may hold up a tick.
    telling = threading.Thread(target=courier(platform).run, args=(stop,), name="courier")
    telling.start()
    reflection = mirror(platform)
    if reflection is not None:
        # Not waited for at the end: what it does not get to tell is told next time.
        threading.Thread(target=reflection.run, args=(stop,), name="mirror", daemon=True).start()
    gone = threading.Event()
    if server_pipe is not None:
        threading.Thread(target=_watch, args=(server_pipe, gone), daemon=True).start()
    try:
        # Beside the API, and not in it: both keep an interpreter busy, and in the API those wait who hold the write lock.
        with sealing(platform.audit), describing(platform) if server_pipe is not None else contextlib.nullcontext():
            while not stop.is_set() and not (gone.is_set() and not supervisor.running):
                began = time.monotonic()
                supervisor.tick()
                stop.wait(max(0.0, supervisor.pause_s - (time.monotonic() - began)))
    except Exception:  # the log keeps what the command line does not show
        _LOG.exception("the supervisor fell")
        raise
    finally:
        _LOG.info("stopping; trainers save what they have")
        stop.set()
        supervisor.close()
        telling.join()
        platform.close()
        lock.release()
    return 0


def _watch(server_pipe: int, gone: threading.Event) -> None:
    os.read(server_pipe, 1)  # returns at the end of the pipe: nothing is ever written to it
    gone.set()


def _token_folder(settings: Settings, tenant_id: str) -> TokenFolder | None:
    folder = settings.data.resolve() / "cache" / "tokens" / tenant_id
    return TokenFolder(url=folder.as_uri(), most_bytes=settings.token_cache_mb * 2**20) if settings.token_cache_mb else None


def build_supervisor(platform: Platform) -> Supervisor:
    """A supervisor of this platform; as long as it lives, its presence lock tells others so."""
    settings = platform.settings
    parts = Parts(
        queue=JobQueue(
            platform.database,
            platform.storage,
            platform.billing,
            (platform.datasets, platform.registry),
            platform.now,
            quotas=platform.quotas,
        ),
        storage=platform.storage,
        registry=platform.promotions,
        executor=executor(settings),
        presence=Presence(settings.data / "supervisors"),
        bases_url=platform.bases.cache.resolve().as_uri(),
        free_bytes=lambda: {"local-cpu": free_bytes()},
        tokens=partial(_token_folder, settings),
    )
    return Supervisor(parts, Pace.of(settings), Clocks(platform.now))
