"""Checks of files on this machine, without a server: the same process with the same limits as on one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.errors import DatasetRejected
from luthier.faces.cli.edge import usage

if TYPE_CHECKING:
    from luthier.datasets.sandbox import Checked, Task


def validate(file: Path, against: Sequence[Path]) -> dict[str, Any]:
    """The report of a file, as an upload of it would have it."""
    with _workshop(file) as task:
        others: dict[str, Path] = {}
        for number, other in enumerate(against):
            with _workshop(other) as beside:
                _check(beside)
                others[other.name] = (beside.side / "hashes").rename(task.side / f"against-{number}")
        return _check(replace(task, against=others)).report.model_dump(mode="json")


def fix(file: Path, output: Path) -> dict[str, Any]:
    """Write the good rows of a file, each once, and tell what was left out. Raises: DatasetRejected where none is left."""
    from luthier.datasets.fixing import dropped_of

    with _workshop(file) as task:
        checked = _check(replace(task, drop=True, distinct=True))
        report = checked.report
        if report.errors:
            first = next(finding for finding in report.findings if finding.severity == "error")
            raise DatasetRejected(first.message, hint=first.fix, code=first.code, details=report.model_dump(mode="json"))
        counts, dropped = dropped_of(task.side / "dropped")
        shutil.copyfile(task.rows, output)
        return {
            "path": str(output),
            "source": str(file),
            "rows": report.rows - counts.total(),
            "dropped_rows": counts.total(),
            "counts": dict(counts),
            "dropped": dropped,
        }


@contextmanager
def _workshop(file: Path) -> Generator[Task]:
    from luthier.datasets.sandbox import Task

    if not file.is_file():
        raise usage(f"There is no file {file}.")
    with tempfile.TemporaryDirectory(prefix="luthier-check-") as folder:
        yield Task(file, Path(folder) / "rows", Path(folder))


def _check(task: Task) -> Checked:
    import luthier
    from luthier.datasets.sandbox import Ruler, Sandbox

    # The shipped base measures: another one's tokenizer may have to be fetched first, and this needs no network.
    tiny = Path(luthier.__file__).parent / "bases" / "tiny"
    checked = Sandbox().check(task, Ruler("luthier/tiny", tiny, 1024))
    if checked is None:
        raise usage("The check was ended.")
    return checked
