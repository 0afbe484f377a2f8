"""Checks of files on this machine, without a server: the same process with the same limits as on one."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import luthier
from luthier.bases.types import TINY
from luthier.errors import DatasetRejected
from luthier.faces.cli.edge import usage

if TYPE_CHECKING:
    from luthier.datasets.sandbox import Checked, Task
    from luthier.datasets.types import Report

TINY_FOLDER = Path(luthier.__file__).parent / "bases" / "tiny"


def validate(
    file: Path, against: Sequence[Path], mapping: str | None = None, hear: Callable[[Report], None] | None = None
) -> dict[str, Any]:
    """The report of a file, as an upload of it would have it; `hear` hears what was found so far."""
    with _workshop(file) as task:
        others: dict[str, Path] = {}
        for number, other in enumerate(against):
            with _workshop(other) as beside:
                _check(beside)
                others[other.name] = (beside.side / "hashes").rename(task.side / f"against-{number}")
        return _check(replace(task, against=others, mapping=_mapping(mapping)), hear).report.model_dump(mode="json")


def fix(file: Path, output: Path, mapping: str | None = None) -> dict[str, Any]:
    """Write the good rows of a file, each once, and tell what was left out. Raises: DatasetRejected where none is left."""
    from luthier.datasets.fixing import dropped_of

    with _workshop(file) as task:
        checked = _check(replace(task, mapping=_mapping(mapping), drop=True, distinct=True))
        report = _good(checked)
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


def preview(file: Path, base_model: str, wish: Mapping[str, Any], mapping: str | None = None) -> dict[str, Any]:
    """What is learned of rows of a file, as it would be stored. Raises: DatasetRejected; FieldInvalid (method); usage."""
    from luthier.datasets import previewing
    from luthier.datasets.rendering import Renderer
    from luthier.datasets.samples import Index, read_bytes

    wanted = previewing.Wish(base_model=base_model, **wish)
    folder, context = _base(base_model)
    with _workshop(file) as task:
        report = _good(_check(replace(task, mapping=_mapping(mapping))))
        known = previewing.Known(base_model, context, report.methods, report.usable_rows)
        index, rows = task.side / "index", task.rows
        with index.open("rb") as stream, rows.open("rb") as stored:
            places = Index(stream, index.stat().st_size, rows.stat().st_size).after(wanted.line or 0, wanted.rows)
            shown = list(read_bytes(stored, places))
    return previewing.preview(shown, Renderer.load(folder), known, wanted).model_dump(mode="json")


def _base(base_model: str) -> tuple[Path, int]:
    """Where its tokenizer lies, and its context. Raises: usage for a base that only a server knows."""
    folder = TINY_FOLDER if base_model == TINY else Path(base_model)
    if not (folder / "tokenizer.json").is_file():
        raise usage(f"Of a file here, --base-model is {TINY} or a folder with a tokenizer.json; upload the file for other bases.")
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        return folder, int(config.get("text_config", config).get("max_position_embeddings", 2048))
    except (OSError, ValueError, TypeError, AttributeError):
        raise usage(f"{folder / 'config.json'} does not say how long the base's context is.") from None


def _good(checked: Checked) -> Report:
    """Raises: DatasetRejected."""
    report = checked.report
    if report.errors:
        first = next(finding for finding in report.findings if finding.severity == "error")
        raise DatasetRejected(first.message, hint=first.fix, code=first.code, details=report.model_dump(mode="json"))
    return report


def _mapping(text: str | None) -> dict[str, str]:
    from luthier.datasets.mapping import parse_mapping

    try:
        return {} if text is None else parse_mapping(text)
    except ValueError as error:
        raise usage(f"--map: {error}.") from None


@contextmanager
def _workshop(file: Path) -> Generator[Task]:
    from luthier.datasets.sandbox import Task

    if file.is_dir():
        raise usage(f"{file} is a folder; name one file.")
    if not file.exists():
        raise usage(f"There is no file {file}.")
    if not file.is_file():
        raise usage(f"{file} is no ordinary file: it is looked at more than once.")
    with tempfile.TemporaryDirectory(prefix="luthier-check-") as folder:
        yield Task(file, Path(folder) / "rows", Path(folder))


def _check(task: Task, hear: Callable[[Report], None] | None = None) -> Checked:
    from luthier.datasets.sandbox import Ruler, Sandbox

    # The shipped base measures: another one's tokenizer may have to be fetched first, and this needs no network.
    checked = Sandbox().check(task, Ruler(TINY, TINY_FOLDER, 1024), hear=hear)
    if checked is None:
        raise usage("The check was ended.")
    return checked
