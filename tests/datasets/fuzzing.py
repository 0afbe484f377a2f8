"""Feeds the reader with files that are nearly right: rows, containers and bytes, each changed a little, by a seeded generator.

`python tests/datasets/fuzzing.py SEED FIRST COUNT FOLDER` reads inputs FIRST to FIRST + COUNT in this process and prints what
came of them. The one that is being read lies in FOLDER/upload: a process that dies leaves it there.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import traceback
from collections import Counter
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

from luthier import compiled
from luthier.datasets import rules, scanner
from luthier.datasets.containers import Limits
from luthier.datasets.content import Content
from luthier.datasets.formats import read_rows
from luthier.datasets.keeping import Kept
from luthier.datasets.opening import Reading, opened
from luthier.datasets.personal_data import found_in
from luthier.datasets.plain_chats import PlainChats, Run, Runs
from luthier.datasets.row_hashes import Repeats
from luthier.datasets.schemas import Reader
from luthier.datasets.strict_json import dump, parse
from luthier.datasets.validation import Measure, validate

sys.path.insert(0, str(Path(__file__).parent))
from mutating import Mutator

LIMIT_S = 2.0
"""Of processor time, for one input of at most a few kilobytes."""
UNPACKED_BYTES = 4 * 2**20
MEMORY_BYTES = 2 * 2**30
WARM = 2000
"""Inputs after which a process holds all that it makes once."""
_LIBRARY = compiled.load(scanner.SOURCE)
QUICK: list[Runs] = [PlainChats(), *([scanner.Scanner(_LIBRARY)] if _LIBRARY is not None else [])]


class Hang(BaseException):
    """An input that took too long. No handler of the reader may swallow it."""


class Fuzz:
    """Reads inputs one after another and remembers what came of them."""

    def __init__(self, seed: int, folder: Path) -> None:
        self._seed = seed
        self._upload, self._rows, self._side = folder / "upload", folder / "rows", folder / "side"
        self._side.mkdir(exist_ok=True)
        self.outcomes: Counter[str] = Counter()
        self.failures: dict[int, str] = {}
        self.slowest_s = 0.0

    def run(self, first: int, count: int) -> dict[str, object]:
        """Read them all. What a process holds is measured once it is warm, and at the end."""
        warm = 0
        for number in range(first, first + count):
            self.one(number)
            if number - first + 1 == min(WARM, count // 2):
                warm = _resident()
        grown = max(0, _resident() - warm)
        return {
            "inputs": count,
            "outcomes": dict(self.outcomes),
            "failures": self.failures,
            "slowest_s": self.slowest_s,
            "grown_bytes": grown,
        }

    def one(self, number: int) -> None:
        """Read one input. Whatever is raised is a failure: bad files are answered with findings."""
        data, mapping = Mutator(f"{self._seed}:{number}").input()
        self._upload.write_bytes(data)
        started = _processor_s()
        try:
            with _limited(LIMIT_S):
                self.outcomes[self.read(mapping)] += 1
                same_quickly(data)
        except (Exception, Hang) as error:  # noqa: BLE001  # whatever it is, it is what is looked for
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.failures[number] = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
            self._upload.with_name(f"failed-{number}").write_bytes(data)
        self.slowest_s = max(self.slowest_s, _processor_s() - started)

    def read(self, mapping: dict[str, str]) -> str:
        """What became of the file: the format that it was accepted as, or the code of its first error."""
        limits = Limits(self._upload.stat().st_size, UNPACKED_BYTES)
        measure, content = Measure(None, None, 1), Content(1)
        with self._upload.open("rb") as source, Kept(self._rows, self._side) as kept:
            found = opened(source, Reading(limits, self._side / "unpacked", mapping))
            tally = validate(found, kept, measure, content)
            kept.close()
            repeats = Repeats(rules.SHOWN_A_CODE)
            repeats.look(kept.hashes_path)
            tally.repeats(repeats)
            tally.close()
        report = tally.report(size_bytes=limits.packed_bytes, format_name=found.format)
        json.dumps(report).encode("utf-8")
        if not tally.errors:
            self._read_back(report["usable_rows"])
        errors = [finding for finding in report["findings"] if finding["severity"] == "error"]
        assert bool(errors) == bool(report["errors"])
        assert all(finding["message"] and finding["fix"] for finding in errors)
        return errors[0]["code"] if errors else f"accepted: {found.format}"

    def _read_back(self, usable: int) -> None:
        """What was kept for a trainer is read by it, row by row the same."""
        with self._rows.open("rb") as rows:
            back = [row.canonical() for row in read_rows(rows, object)]  # pyright: ignore[reportArgumentType]  # of any kind
        assert len(back) == usable
        with self._rows.open("rb") as rows:
            assert [json.loads(line) for line in rows] == back


def same_quickly(data: bytes) -> None:
    """What is quickly read as plain chats, the careful reader reads as the same rows, without a remark."""
    for line in data.split(b"\n"):
        runs = [reader.run(line, 0, 1) for reader in QUICK]
        quick = [run for run in runs if run is not None]
        for run in quick:
            careful = Reader().read(1, parse(1, line))
            assert careful.schema_name == "chat"
            assert careful.remarks == []
            assert dump(careful.row.canonical()) + b"\n" == run.rows
        assert all(told(run) == told(quick[0]) for run in quick)


def told(run: Run | None) -> object:
    """All that a run says, but for suspects in which nothing is found."""
    if run is None:
        return None
    starts = list(accumulate(run.sizes, initial=0))
    found = [(at, list(found_in(run.rows[starts[at] : starts[at + 1]]))) for at in run.suspects]
    shapes = {(tuple(shape.roles.items()), shape.answers, shape.asks): rows for shape, rows in run.shapes.items()}
    ends = (run.ends.long, run.ends.cut.count, list(run.ends.cut))
    rest = (run.at, run.line, run.rows, run.sizes, run.lines, run.characters, run.hashes)
    return (*rest, shapes, [each for each in found if each[1]], ends)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@contextmanager
def _limited(seconds: float):
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _late(*_: object) -> None:
    raise Hang(f"more than {LIMIT_S} s")


def main() -> int:
    seed, first, count, folder = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    signal.signal(signal.SIGPROF, _late)
    print(json.dumps(Fuzz(seed, folder).run(first, count)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
