"""Reads one uploaded file in a process of its own, with limits, and prints the report as JSON.

`python -m luthier.datasets.validation '<request as JSON>'`. Bytes of strangers are parsed only here: whatever they do to the
parsers, the process that serves requests goes on. It starts light (no pydantic, the tokenizer only when a row is good).
"""

from __future__ import annotations

import errno
import json
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from luthier.datasets import rules
from luthier.datasets.containers import Limits
from luthier.datasets.content import Content
from luthier.datasets.crew import EXIT_MEMORY
from luthier.datasets.keeping import Kept
from luthier.datasets.measuring import Measure
from luthier.datasets.near_duplicates import NearDuplicates
from luthier.datasets.opening import Opened, Reading, opened
from luthier.datasets.passing import Pass, Way
from luthier.datasets.row_hashes import Repeats, overlap
from luthier.datasets.tally import Tally

EXIT_FULL = 4
SO_FAR = "so-far"
"""The report while the file is read."""
_TOLD_S = 0.5
EXIT_LARGE = 5
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def validate(found: Opened, kept: Kept, measure: Measure, content: Content, way: Way | None = None) -> Tally:
    """Check all records, keep the canonical rows, and return the tally."""
    whole = Pass(kept, measure, content, found.mapping, way or Way())
    whole.go(found.blocks)
    if not whole.tally.errors:
        content.close(whole.tally)
    return whole.tally


class SoFar:
    """Writes the report so far into `side`, now and then, for those who wait; what is found first, at once."""

    def __init__(self, side: Path, source: BinaryIO, size: int) -> None:
        self._path, self._source, self._size = side / SO_FAR, source, size
        self._told = (False, False)
        self._next = 0.0

    def __call__(self, tally: Tally) -> None:
        found = (tally.errors > 0, tally.warnings > 0)
        if time.monotonic() >= self._next or found != self._told:
            self._told = found
            self.write(tally)

    def write(self, tally: Tally) -> None:
        """Tell it now."""
        self._next = time.monotonic() + _TOLD_S
        writing = self._path.with_suffix(".new")
        report = tally.report(size_bytes=self._size, format_name=None)
        writing.write_text(json.dumps({**report, "read_bytes": self._source.tell()}))
        writing.replace(self._path)


def _compare(tally: Tally, kept: Kept, request: dict[str, Any]) -> Repeats:
    """What the sorted hashes tell, of this file and beside others."""
    kept.close()
    repeats = Repeats(rules.SHOWN_A_CODE)
    repeats.look(kept.hashes_path)
    tally.repeats(repeats)
    for other in request["against"]:
        tally.overlaps(other["name"], overlap(kept.hashes_path, Path(other["hashes"]), rules.SHOWN_A_CODE))
    return repeats


def _nearly(tally: Tally, kept: Kept, workers: int) -> None:
    if not tally.errors and tally.schema_name != "images":
        near = NearDuplicates(rules.COMPARED_ROWS, rules.SHOWN_A_CODE)
        near.look(kept.rows_path, kept.side / "index", tally.usable, workers)
        tally.near(near)


def _remove(kept: Kept, repeats: Repeats) -> None:
    for line in repeats.again:
        kept.drop(line, "duplicate", "The row is the same as an earlier one.")
    kept.remove(repeats.again)


def _limit(request: dict[str, Any]) -> None:
    for name, value in (
        ("RLIMIT_AS", request["memory_bytes"]),
        ("RLIMIT_CPU", request["cpu_s"]),
        ("RLIMIT_FSIZE", request["file_bytes"]),
        ("RLIMIT_NOFILE", 64),
        ("RLIMIT_CORE", 0),
    ):
        # Not every system knows every limit, and a lower one than ours may be set already.
        with suppress(ValueError, OSError, AttributeError):
            resource.setrlimit(getattr(resource, name), (value, value))


def _reading(request: dict[str, Any]) -> Reading:
    limits = Limits(Path(request["source"]).stat().st_size, request["unpacked_bytes"])
    return Reading(limits, Path(request["side"]) / "unpacked", request["mapping"])


def _way(request: dict[str, Any], tell: Callable[[Tally], None]) -> Way:
    library = Path(request["scanner"]) if request["scanner"] else None
    return Way(request["drop"], request["workers"], request["max_rows"], library, tell)


def main() -> int:
    """Check the file that the request names. Exit 0 with a report whatever the file holds; 3 out of memory, 4 out of disk, 5 more
    came out of it than may be written."""
    began = time.monotonic()
    request: dict[str, Any] = json.loads(sys.argv[1])
    _limit(request)
    path = Path(request["source"])
    measure, content = Measure(request["tokenizer"], request["context"], request["every"]), Content(request["language_every"])
    try:
        with path.open("rb") as source, Kept(Path(request["rows"]), Path(request["side"])) as kept:
            found = opened(source, _reading(request))
            so_far = SoFar(Path(request["side"]), source, path.stat().st_size)
            tally = validate(found, kept, measure, content, _way(request, so_far))
            repeats = _compare(tally, kept, request)
            so_far.write(tally)
            seconds = {"structure": time.monotonic() - began}
            _nearly(tally, kept, request["workers"])
            seconds["near"] = time.monotonic() - began
            measure.sample(tally, kept)
            tally.close()
            if request["distinct"] and not tally.errors:
                _remove(kept, repeats)
        report = tally.report(size_bytes=path.stat().st_size, format_name=found.format)
        report["origin"] = request["origin"]
        report.update(containers=found.containers, mapping=request["mapping"], languages=dict(content.languages))
        told = {**measure.distributions.told(), **{name: report[name] for name in ("languages", "labels", "roles")}}
        (Path(request["side"]) / "distributions").write_text(json.dumps(told))
    except MemoryError:
        return EXIT_MEMORY
    except OSError as error:
        if error.errno in _FULL:
            return EXIT_FULL
        if error.errno == errno.EFBIG:
            return EXIT_LARGE
        raise
    seconds["all"] = time.monotonic() - began
    sys.stdout.write(json.dumps({"report": report, "rows_sha256": kept.sha256, "seconds": seconds}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
