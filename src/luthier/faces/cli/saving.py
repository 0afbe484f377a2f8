"""Where downloads go: never to a path that the server named, and over nothing that is there without being asked."""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.faces.cli.edge import usage
from luthier.faces.cli.options import ask
from luthier.faces.cli.shown import clean, size, talk

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

    from luthier.faces.sdk.answers import ModelFile

Report = Callable[[str, int, int | None], None]
_NARROW, _WIDE = 40, 72
"""Columns of a terminal from which on sizes fit beside the share, and a bar and a rate beside them."""
_SHARE, _SIZES, _NUMBERS = 14, 34, 62
"""Columns that share and time take; with sizes; with bar and rate."""
_LEAST_NAME = 6


def may_replace(paths: Iterable[Path], *, force: bool) -> None:
    """Ask before files are replaced; without anybody to ask, refuse. Raises: usage, Abort."""
    there = [path for path in paths if path.is_symlink() or path.exists()]
    folders = [path for path in there if path.is_dir()]
    if folders:
        raise usage(f"{folders[0]} is a folder.")
    if not there or force:
        return
    if not sys.stdin.isatty():
        raise usage(f"{there[0]} is there already. Give --force to replace it, or another --output.")
    ask(f"{there[0]} is there already. Replace it?")


def is_the_same(path: Path, file: ModelFile) -> bool:
    """Whether it lies there already, whole: then nothing is replaced."""
    import hashlib

    if path.is_symlink() or not path.is_file() or path.stat().st_size != file.bytes:
        return False
    with path.open("rb") as there:
        return hashlib.file_digest(there, "sha256").hexdigest() == file.sha256


@contextlib.contextmanager
def parts_removed_when_full(paths: Iterable[Path]) -> Generator[None]:
    """A full disk is given back the part that did not fit. After Ctrl-C parts stay: the next call goes on from them."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            for path in paths:
                path.with_name(path.name + ".part").unlink(missing_ok=True)
        raise
    except KeyboardInterrupt:
        talk("\nInterrupted. The same command goes on from here.")
        raise


@contextlib.contextmanager
def transfer(what: str) -> Generator[Report]:
    """A progress bar on a terminal; nowhere else."""
    if not sys.stderr.isatty():
        yield lambda _name, _done, _total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    wide = console.width >= _WIDE
    room = max(1, console.width - (_NUMBERS if wide else _SIZES if console.width >= _NARROW else _SHARE))
    what = _shortened(what, room)
    with Progress(*_columns(what, console.width), console=console, transient=True) as bar:
        yield _drawn(bar, room - len(what) - 1 if wide else 0)


def _columns(what: str, width: int) -> list[ProgressColumn]:
    """What fits into one line: a bar and a rate where there is room for them, else the share that is done."""
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    label, left = TextColumn(what, markup=False), TimeRemainingColumn(compact=True)
    done, counted = TextColumn("{task.percentage:.0f}%"), TextColumn("{task.description}", markup=False)
    if width < _NARROW:
        return [label, done, left]
    if width < _WIDE:
        return [label, done, counted, left]
    return [label, BarColumn(bar_width=20), counted, TransferSpeedColumn(), left]


def _drawn(bar: Progress, room: int) -> Report:
    """`room` is how many characters of a name fit."""
    task = bar.add_task("", total=None)

    def report(name: str, done: int, total: int | None) -> None:
        named = f"{_shortened(name, room)} " if name and room >= _LEAST_NAME else ""
        counted = f"{named}{size(done)}{f' of {size(total)}' if total else ''}"
        bar.update(task, description=counted, completed=done, total=total)

    return report


def _shortened(text: str, most: int) -> str:
    text = clean(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"
