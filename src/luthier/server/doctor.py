"""`luthier doctor`: what is in order, what is not, and what to do. It changes nothing but the litter of dead processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from luthier.billing.machine import free_bytes
from luthier.jobs.presence import sweep
from luthier.migrations import HEAD
from luthier.server.locks import FolderLock
from luthier.settings import Settings, child_environment

_MIN_FREE_BYTES = 2 * 1024**3
_MIN_MEMORY_BYTES = 1024**3
_LITTER_S = 3600
"""Younger litter is left: whoever looks for the cause of a crash finds its traces."""


@dataclass(frozen=True)
class Finding:
    """One line of the report. `mend` says what to do where something should be done."""

    what: str
    ok: bool
    found: str
    mend: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


def examine(settings: Settings, *only: str) -> list[Finding]:
    """Look at the installation and the data folder; with names, at these things only."""
    checks: dict[str, Callable[[Settings], Finding]] = {
        "python": _python,
        "torch": _torch,
        "memory": _memory,
        "warm trainers": _warm,
        "data folder": _folder,
        "disk": _disk,
    }
    if settings.database_path.is_file():
        checks |= {
            "database": _database,
            "admin key": _key,
            "supervisor": _supervisor,
            "supervisors": _presences,
            "folders": _orphans,
        }
    return [check(settings) for name, check in checks.items() if not only or name in only]


def _python(_: Settings) -> Finding:
    return Finding(
        "python",
        sys.version_info >= (3, 11),
        sys.version.split()[0],
        None if sys.version_info >= (3, 11) else "Use 3.11 or newer.",
    )


def _torch(_: Settings) -> Finding:
    # In a child: this process must not load torch, and a broken installation may end the process that loads it.
    script = "import torch, transformers; print(torch.__version__, 'cuda' if torch.cuda.is_available() else 'cpu')"
    try:
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, env=child_environment(), timeout=120, check=False
        )
    except subprocess.TimeoutExpired:
        return Finding("torch", False, "does not load within 120 s", "Install it anew: pip install -e '.[train]'")
    if done.returncode != 0:
        return Finding("torch", False, "does not load", "Install it: pip install -e '.[train]'")
    return Finding("torch", True, done.stdout.strip())


def _memory(_: Settings) -> Finding:
    free = psutil.virtual_memory().available
    ok = free >= _MIN_MEMORY_BYTES
    return Finding("memory", ok, f"{free / 1024**3:.1f} GiB free", None if ok else "The demo needs about 1 GiB; close something.")


def _warm(settings: Settings) -> Finding:
    if settings.warm_trainers == 0:
        return Finding("warm trainers", True, "off: each job starts its trainer anew")
    free, needed = free_bytes() / 1024**3, 2 * settings.warm_memory_mb / 1024
    if free < needed:
        found = f"none now: {free:.1f} GiB free, {needed:.1f} GiB needed"
        return Finding("warm trainers", True, found, "Lower LUTHIER_WARM_MEMORY_MB, or set LUTHIER_WARM_TRAINERS=0.")
    return Finding("warm trainers", True, f"{settings.warm_trainers} after each job, for {settings.warm_idle_s:g} s")


def _folder(settings: Settings) -> Finding:
    data = settings.data
    if not data.exists():
        return Finding("data folder", True, "not there yet; `luthier up` makes it")
    ok = data.is_dir() and os.access(data, os.W_OK | os.X_OK)
    return Finding(
        "data folder",
        ok,
        "writable" if ok else "not a folder that can be written",
        None if ok else "Give another one with --data.",
    )


def _disk(settings: Settings) -> Finding:
    place = settings.data if settings.data.exists() else settings.data.absolute().parent
    free = shutil.disk_usage(place if place.exists() else "/").free
    ok = free >= _MIN_FREE_BYTES
    return Finding("disk", ok, f"{free / 1024**3:.1f} GiB free", None if ok else "Free at least 2 GiB, or jobs will pause.")


def _database(settings: Settings) -> Finding:
    try:
        answer = str(_asked(settings, "PRAGMA quick_check")[0][0])
        found = str(_asked(settings, "SELECT version_num FROM alembic_version")[0][0]) if answer == "ok" else HEAD
    except (sqlite3.DatabaseError, IndexError) as error:
        answer, found = str(error), HEAD
    if answer != "ok":
        return Finding("database", False, answer, "Move luthier.db away, then `luthier reindex`.")
    if found > HEAD:
        return Finding("database", False, f"whole, but of a newer Luthier (revision {found})", "Install that version.")
    return Finding(
        "database", True, f"whole, at revision {found}" + ("" if found == HEAD else f"; the next start brings it to {HEAD}")
    )


def _key(settings: Settings) -> Finding:
    if not settings.key_path.is_file():
        return Finding("admin key", True, "not in the data folder (it is only needed by clients)")
    open_to_others = stat.S_IMODE(settings.key_path.stat().st_mode) & 0o077
    mend = "Others can read it: chmod 600 <data>/admin.key" if open_to_others else None
    return Finding("admin key", not open_to_others, "readable by others" if open_to_others else "readable by you alone", mend)


def _supervisor(settings: Settings) -> Finding:
    served = FolderLock(settings.data, "server").held_by_another()
    works = FolderLock(settings.data, "supervisor").held_by_another()
    if served and not works:
        return Finding(
            "supervisor", False, "the server runs, its supervisor does not", "Read <data>/supervisor.log; it is started again."
        )
    return Finding("supervisor", True, "works" if works else "stopped, like the server")


def _presences(settings: Settings) -> Finding:
    living, gone = sweep(settings.data / "supervisors", before_s=time.time() - _LITTER_S)
    return Finding("supervisors", True, f"{living} alive" + (f"; the locks of {gone} that died were removed" if gone else ""))


def _orphans(settings: Settings) -> Finding:
    # Folders first: a job that is submitted in between then has its row already.
    folders = [path for kind in ("jobs", "models") for path in settings.data.glob(f"users/*/{kind}/*") if path.is_dir()]
    try:
        known = {row[0] for table in ("jobs", "models") for row in _asked(settings, f"SELECT id FROM {table}")}  # noqa: S608
    except sqlite3.DatabaseError:
        return Finding("folders", False, "the index cannot be read", "Run `luthier reindex`.")
    orphans = [path.name for path in folders if path.name not in known]
    mend = "`luthier reindex` brings back what can be read; the rest may be deleted." if orphans else None
    return Finding("folders", not orphans, f"{len(folders)} of jobs and models, {len(orphans)} without a row", mend)


def _asked(settings: Settings, query: str) -> list[tuple[Any, ...]]:
    """The rows of a query. A connection of its own: the ordinary one would change what it finds wrong."""
    uri = f"{settings.database_path.resolve().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
        return connection.execute(query).fetchall()
