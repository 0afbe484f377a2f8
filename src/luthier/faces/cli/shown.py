"""What reaches the terminal: data on stdout, talk on stderr, and nothing in either that could steer the terminal."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TextIO

# Escape sequences as terminals read them: CSI; OSC, DCS and their kin up to their end (or, unended, up to the line's);
# then everything of two characters. https://ecma-international.org/publications-and-standards/standards/ecma-48/
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)
_CONTROL = dict.fromkeys(
    [*range(9), *range(11, 32), *range(127, 160), 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
)


def clean(text: object) -> str:
    """`text` without escape sequences, control characters (newline and tab stay) and marks that turn its direction.

    >>> clean("a\\x1b[31mb\\x1b]52;c;ZXZpbA==\\x07c\\rd")
    'abcd'
    """
    return _ESCAPES.sub("", str(text)).translate(_CONTROL)


def out(text: str, *, end: str = "\n") -> None:
    """Data, to stdout. Whoever stopped reading (`| head`) has what they wanted: the command ends with 0."""
    _write(sys.stdout, text + end)


def talk(text: str = "") -> None:
    """Talk, to stderr."""
    _write(sys.stderr, text + "\n")


def out_json(value: Any) -> None:
    """One JSON document on one line, in ASCII: no terminal can be steered by it, and no locale is too small."""
    out(json.dumps(plain(value)))


def plain(value: Any) -> Any:
    """An answer of the SDK as dicts and lists."""
    raw = getattr(value, "raw", None)
    if isinstance(raw, dict):
        return raw
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns, aligned; where the terminal is too narrow for them, a block of `header  value` lines for each row.

    In a pipe nothing is folded or cut: whoever reads it there wants all of it.
    """
    cells = [[clean("-" if cell is None else cell).replace("\n", " ") for cell in row] for row in rows]
    widths = [max(len(line[column]) for line in [list(headers), *cells]) for column in range(len(headers))]
    if sys.stdout.isatty() and sum(widths) + 2 * len(widths) - 2 > shutil.get_terminal_size().columns:
        return "\n\n".join(pairs(zip(headers, row, strict=True)) for row in cells)
    lines = [list(headers), *cells]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def pairs(items: Iterable[tuple[str, object]]) -> str:
    """`name  value`, a line each; what is None is left out."""
    known = [(name, clean(value).replace("\n", " ")) for name, value in items if value is not None]
    width = max((len(name) for name, _ in known), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in known)


def duration(seconds: float | None) -> str:
    """
    >>> duration(7), duration(83.4), duration(7384)
    ('7 s', '1 min 23 s', '2 h 3 min')
    """
    if seconds is None:
        return "?"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: float | None) -> str:
    """
    >>> size(812), size(1536), size(5 * 1024**3)
    ('812 B', '1.5 KiB', '5.0 GiB')
    """
    if count is None:
        return "?"
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    power = 0
    while count >= 1024 and power < len(units) - 1:
        count /= 1024
        power += 1
    return f"{count:.0f} {units[power]}" if power == 0 else f"{count:.1f} {units[power]}"


def dollars(amount: object) -> str:
    """A decimal string as money: cents, and more digits only where they say something.

    >>> dollars("0.000000"), dollars("1493.500000"), dollars("0.000123"), dollars("-1.5")
    ('$0.00', '$1,493.50', '$0.000123', '-$1.50')
    """
    text = clean(amount)
    whole, _, cents = text.removeprefix("-").partition(".")
    thousands = f"{int(whole):,}" if whole.isdecimal() else whole
    return f"{'-' * text.startswith('-')}${thousands}.{cents.rstrip('0').ljust(2, '0')}"


def moment(text: object) -> str:
    """An RFC 3339 time without its fractions."""
    return re.sub(r"\.\d+", "", clean(text)).replace("T", " ") if text else "-"


def each_written(write: Callable[[str], None], pieces: Iterable[str]) -> str:
    """Write pieces as they come, cleaned character by character (a sequence may span two), and return the whole."""
    seen: list[str] = []
    for piece in pieces:
        safe = piece.translate(_CONTROL)
        seen.append(safe)
        write(safe)
    return "".join(seen)


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        # At exit Python flushes once more: into nowhere then, so that it has nothing to complain about.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise SystemExit(0) from None
