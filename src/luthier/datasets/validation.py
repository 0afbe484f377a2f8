"""Reads one uploaded file in a process of its own, with limits, and prints the report as JSON.

`python -m luthier.datasets.validation '<request as JSON>'`. Bytes of strangers are parsed only here: whatever they do to the
parsers, the process that serves requests goes on. It starts light (no pydantic, the tokenizer only when a row is good).
"""

from __future__ import annotations

import errno
import json
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.datasets import rules
from luthier.datasets.containers import Limits
from luthier.datasets.content import Content
from luthier.datasets.distributions import Distributions
from luthier.datasets.examples import MAX_RECORD_BYTES, BadRow, FileRemark, Labelled, Parsed, Prompt, Row
from luthier.datasets.keeping import Kept
from luthier.datasets.near_duplicates import NearDuplicates
from luthier.datasets.opening import Reading, opened
from luthier.datasets.row_hashes import Repeats, overlap
from luthier.datasets.strict_json import dump
from luthier.datasets.tally import Counted, Tally
from luthier.errors import LuthierError

if TYPE_CHECKING:
    from luthier.datasets.rendering import Renderer

EXIT_MEMORY = 3
EXIT_FULL = 4
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_BATCH = 256
Records = Iterator[Parsed | FileRemark | BadRow]


class Measure:
    """Tokenises a sample of the rows, a batch at a time. Without a usable tokenizer it measures nothing."""

    def __init__(self, folder: str | None, context: int | None, every: int) -> None:
        self.distributions = Distributions()
        self._folder = folder
        self._context = context
        self._every = every
        self._seen = 0
        self._batch: list[Row] = []
        self._renderer: Renderer | None = None

    def add(self, tally: Tally, row: Row) -> None:
        """Look at one good row."""
        if self._folder is not None and self._seen % self._every == 0:
            self._batch.append(row)
            if len(self._batch) == _BATCH:
                self.flush(tally)
        self._seen += 1

    def flush(self, tally: Tally) -> None:
        """Tokenise what waits."""
        batch, self._batch = self._batch, []
        renderer = self._load(tally) if batch else None
        if renderer is None:
            return
        try:
            self._count(tally, renderer, batch)
        except LuthierError:
            for row in batch:
                try:
                    self._count(tally, renderer, [row])
                except LuthierError as error:
                    tally.note(row.line, "template", "warning", (error.message, error.hint or ""))

    def _count(self, tally: Tally, renderer: Renderer, batch: list[Row]) -> None:
        rendered = iter(renderer.render_batch([example for row in batch for example in row.examples]))
        for row in batch:
            if isinstance(row, Prompt):
                ids = renderer.prompt_of(row)
                tally.measured_prompt(row.line, len(ids), self._context)
                self.distributions.measured_prompt(renderer, row.messages, ids)
                continue
            of_row = [next(rendered) for _ in row.examples]
            learns_late = any(not any(one.loss[: self._context]) for one in of_row)
            counted = Counted([len(one.ids) for one in of_row], sum(sum(one.loss) for one in of_row), learns_late)
            tally.measured(row.line, counted, self._context)
            self.distributions.measured(renderer, row.messages, of_row)
            if any(one.special_text for one in of_row):
                said = "A text spells a special token of the base; it is read as ordinary text."
                tally.note(row.line, "special_text", "warning", (said, "Write roles as messages, not as text."))

    def _load(self, tally: Tally) -> Renderer | None:
        if self._renderer is None and self._folder is not None:
            from luthier.datasets.rendering import Renderer

            try:
                self._renderer = Renderer.load(Path(self._folder))
            except LuthierError as error:
                self._folder = None
                tally.note(None, "template", "warning", (error.message, error.hint or ""))
        return self._renderer


def validate(records: Records, kept: Kept, measure: Measure, content: Content, *, drop: bool = False) -> Tally:
    """Check all records, keep the canonical rows, and return the tally. With `drop` bad rows are left out and remarked."""
    tally = Tally(drop=drop)
    for record in _limited(records):
        if isinstance(record, FileRemark):
            tally.note(record.line, record.remark.code, "warning", (record.remark.message, record.remark.fix))
            continue
        read = _stored(record, drop=drop)
        if isinstance(read, BadRow):
            tally.bad(read)
            if drop:
                kept.drop(read.line, read.code, read.message)
            continue
        parsed, canonical = read
        tally.good(parsed)
        kept.seen(parsed.row, canonical, parsed.line)
        if not tally.errors:  # a rejected file needs no rows, and no tokens
            kept.keep(canonical, parsed.line)
            content.look(tally, parsed, canonical)
            measure.distributions.row(parsed)
            if not isinstance(parsed.row, Labelled):  # no tokens: a classifier reads it in its own way
                measure.add(tally, parsed.row)
    if not tally.errors:
        measure.flush(tally)
        content.close(tally)
    return tally


def _stored(record: Parsed | BadRow, *, drop: bool) -> tuple[Parsed, bytes] | BadRow:
    """A record with the bytes that are kept of it, or why it is not kept."""
    if isinstance(record, BadRow):
        return record
    canonical = dump(record.row.canonical()) + b"\n"
    if len(canonical) > MAX_RECORD_BYTES:
        # Some rows grow in their one form, and a trainer could then not read them.
        said = f"The row has {len(canonical):,} bytes as it is stored; {MAX_RECORD_BYTES:,} are allowed."
        return BadRow(record.line, "line_too_long", said, "Split it, or shorten its texts.")
    for remark in record.remarks if drop else ():
        if remark.code in rules.USELESS:
            return BadRow(record.line, remark.code, remark.message, remark.fix)
    return record, canonical


def _compare(tally: Tally, kept: Kept, request: dict[str, Any]) -> None:
    """What the sorted hashes tell, of this file and beside others."""
    kept.close()
    repeats = Repeats(rules.SHOWN_A_CODE)
    repeats.look(kept.hashes_path)
    tally.repeats(repeats)
    for other in request["against"]:
        tally.overlaps(other["name"], overlap(kept.hashes_path, Path(other["hashes"]), rules.SHOWN_A_CODE))
    if not tally.errors and tally.schema_name != "images":
        near = NearDuplicates(rules.COMPARED_ROWS, rules.SHOWN_A_CODE)
        near.look(kept.rows_path, kept.side / "index", tally.usable)
        tally.near(near)
    tally.close()
    if request["distinct"] and not tally.errors:
        for line in repeats.again:
            kept.drop(line, "duplicate", "The row is the same as an earlier one.")
        kept.remove(repeats.again)


def _limited(records: Records) -> Records:
    for number, record in enumerate(records, 1):
        if number > rules.MAX_ROWS:
            yield BadRow(None, "too_many_rows", f"More than {rules.MAX_ROWS:,} rows.", "Split the file.", fatal=True)
            return
        yield record


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


def main() -> int:
    """Check the file that the request names. Exit 0 with a report whatever the file holds; 3 out of memory, 4 out of disk."""
    request: dict[str, Any] = json.loads(sys.argv[1])
    _limit(request)
    path = Path(request["source"])
    measure, content = Measure(request["tokenizer"], request["context"], request["every"]), Content(request["language_every"])
    try:
        with path.open("rb") as source, Kept(Path(request["rows"]), Path(request["side"])) as kept:
            found = opened(source, _reading(request))
            tally = validate(found.records, kept, measure, content, drop=request["drop"])
            _compare(tally, kept, request)
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
        raise
    sys.stdout.write(json.dumps({"report": report, "rows_sha256": kept.sha256}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
