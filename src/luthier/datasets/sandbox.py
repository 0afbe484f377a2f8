"""Starts the process that reads a stranger's file, and makes a report of however it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from luthier.datasets import rules, scanner
from luthier.datasets.containers import is_packed
from luthier.datasets.crew import cores
from luthier.datasets.parquet import is_parquet
from luthier.datasets.types import Finding, Report
from luthier.datasets.validation import EXIT_FULL, EXIT_LARGE, EXIT_MEMORY, SO_FAR
from luthier.errors import StorageFull
from luthier.settings import child_environment

Hear = Callable[[Report], None]
_LISTEN_S = 0.1


@dataclass(frozen=True)
class Ruler:
    """What lengths are measured with."""

    base_id: str
    tokenizer: Path | None
    context: int


@dataclass(frozen=True)
class Task:
    """What is to be checked, and where what is kept of it goes."""

    source: Path
    rows: Path
    """Takes the canonical rows."""
    side: Path
    """A folder; takes what else is written: `index`, `hashes`."""
    against: Mapping[str, Path] = field(default_factory=dict[str, Path])
    """Hashes of other datasets, by what those are called."""
    mapping: Mapping[str, str] = field(default_factory=dict[str, str])
    origin: str | None = None
    drop: bool = False
    """Leave bad rows out, instead of rejecting the file; they are listed in `side/dropped`."""
    distinct: bool = False
    """Leave rows out that are there already. `index` and `hashes` do not know of that."""


@dataclass(frozen=True)
class Checked:
    """The report of a file, and the sha256 of the canonical rows that were written."""

    report: Report
    rows_sha256: str
    seconds: Mapping[str, float] = field(default_factory=dict[str, float], compare=False)
    """When it had read all, compared all, and was done."""


class Sandbox:
    """Runs checks. `close` ends those that run; they answer None then."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._closed = False

    def check(
        self, task: Task, ruler: Ruler, allowed: rules.Allowance | None = None, *, hear: Hear | None = None
    ) -> Checked | None:
        """Check a file and write its canonical rows. A check that dies is a finding, too. `hear` hears the report so far.

        Raises: StorageFull where there is no room for the rows; that is not the file's fault.
        """
        size = task.source.stat().st_size
        packed = _packed(task.source)
        allowed = allowed or rules.allowance(size, packed=packed, cores=cores())
        request: dict[str, Any] = {
            "source": str(task.source.resolve()),
            "rows": str(task.rows.resolve()),
            "side": str(task.side.resolve()),
            "against": [{"name": name, "hashes": str(path.resolve())} for name, path in task.against.items()],
            "mapping": dict(task.mapping),
            "origin": task.origin,
            "drop": task.drop,
            "distinct": task.distinct,
            "tokenizer": str(ruler.tokenizer.resolve()) if ruler.tokenizer else None,
            "context": ruler.context,
            "every": rules.measure_every(size * rules.USUAL_RATIO if packed else size),
            "language_every": rules.language_every(size * rules.USUAL_RATIO if packed else size),
            "scanner": _scanner() if allowed.scans else None,
            **asdict(allowed),
        }
        process = self._start(request)
        if process is None:
            return None
        try:
            output = _output(process, allowed.cpu_s * 2, task.side / SO_FAR, hear)
        finally:
            with self._lock:
                self._running.discard(process)
        if self._closed:
            return None
        if process.returncode == EXIT_FULL:
            raise StorageFull
        if process.returncode != 0:
            return Checked(_died(process.returncode, size, allowed), "")
        answer = json.loads(output)
        measured = {"tokenizer": ruler.base_id if answer["report"]["tokens"] is not None else None, "context": ruler.context}
        report = Report.model_validate_json(json.dumps({**answer["report"], **measured}))
        return Checked(report, answer["rows_sha256"], answer["seconds"])

    def close(self) -> None:
        """End all checks, now and from now on."""
        with self._lock:
            self._closed = True
            for process in self._running:
                process.kill()

    def _start(self, request: dict[str, Any]) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._closed:
                return None
            process = subprocess.Popen(
                # -P: a file that lies in the working directory is never imported.
                [sys.executable, "-P", "-m", "luthier.datasets.validation", json.dumps(request)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**child_environment(), "RAYON_NUM_THREADS": "4", "TOKENIZERS_PARALLELISM": "true"},
            )
            self._running.add(process)
            return process


def _output(process: subprocess.Popen[bytes], seconds: float, so_far: Path, hear: Hear | None) -> bytes:
    """What the process says at its end; it is killed if that takes too long."""
    until, heard = time.monotonic() + seconds, 0
    while (left := until - time.monotonic()) > 0:
        try:
            return process.communicate(timeout=left if hear is None else min(left, _LISTEN_S))[0]
        except subprocess.TimeoutExpired:
            if hear is not None and so_far.is_file() and (written := so_far.stat().st_mtime_ns) != heard:
                heard = written
                hear(Report.model_validate_json(so_far.read_bytes()))
    process.kill()
    return process.communicate()[0]


def _scanner() -> str | None:
    library = scanner.prepared()
    return None if library is None else str(library)


def _packed(source: Path) -> bool:
    """Whether more comes out of the file than its size says. This only compares its first bytes."""
    with source.open("rb") as file:
        head = file.read(512)
    return is_packed(head) or is_parquet(head, b"")


def _died(status: int, size: int, allowed: rules.Allowance) -> Report:
    if status == EXIT_MEMORY:
        why = f"needed more than {allowed.memory_bytes // 2**20:,} MiB of memory"
    elif -status in {signal.SIGXCPU, signal.SIGKILL}:
        why = f"was ended from outside, or needed more than {allowed.cpu_s:,} s"
    else:
        why = f"ended with status {status}"
    if status == EXIT_LARGE:
        return _failed(
            size, "unpacked_size", "Far more comes out of the file than its size says.", "Split it, or write it plainly."
        )
    fix = "Try again; if it happens again, split the file and find the part that does it."
    return _failed(size, "check_failed", f"The check of this file {why}.", fix)


def _failed(size: int, code: str, message: str, fix: str) -> Report:
    finding = Finding(
        line=None,
        code=code,
        severity="error",
        message=message,
        fix=fix,
    )
    return Report(
        format=None,
        schema_name=None,
        bytes=size,
        rows=0,
        usable_rows=0,
        errors=1,
        counts={finding.code: 1},
        findings=(finding,),
    )
