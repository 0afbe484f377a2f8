"""What will be learned, as text: colours on a terminal, the marks of a word diff elsewhere."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from luthier.faces.cli.shown import clean

_COLOURS = {"shown": ("\x1b[2m", "\x1b[0m"), "learned": ("\x1b[1;32m", "\x1b[0m"), "cut": ("\x1b[9;31m", "\x1b[0m")}
_MARKS = {"shown": ("", ""), "learned": ("{+", "+}"), "cut": ("[-", "-]")}


def preview_text(found: Mapping[str, Any], *, tokens: bool = False, coloured: bool | None = None) -> str:
    """Rows with their tokens. coloured: by default only on a terminal, and not where NO_COLOR is set."""
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR") if coloured is None else coloured
    marks = _COLOURS if coloured else _MARKS
    named = ", ".join(f"{before}{kind}{after}" for kind, (before, after) in marks.items())
    head = f"{found['method']} on {found['base_model']}, at most {found['max_seq_len']:,} tokens a row; tokens are {named}."
    rows = [text for row in found["data"] for text in _row(row, marks, tokens=tokens)]
    return "\n\n".join([clean(head) if not coloured else head, *rows, *_packing(found["packing"])])


def _row(row: Mapping[str, Any], marks: Mapping[str, tuple[str, str]], *, tokens: bool) -> Iterable[str]:
    label = row.get("label")
    about = [f"weight {row['weight']:g}"] if row["weight"] != 1 else []
    about += [] if label is None else ["a good answer" if label else "a bad answer"]
    about += [f"LEFT OUT: {row['left_out']}"] if row["left_out"] else []
    for part in row["parts"]:
        facts = [
            f"{part['length']:,} tokens, {part['learned']:,} learned",
            *([f"{part['cut']:,} cut"] if part["cut"] else []),
            *about,
        ]
        body = _listed(part["tokens"], marks) if tokens else _joined(part["tokens"], marks)
        more = f"\n... and {part['hidden']:,} more tokens" if part["hidden"] else ""
        name = "" if part["name"] == "row" else f", {part['name']}"
        yield f"line {row['line']}{name}: {clean('; '.join(facts))}\n{body}{more}"


def _joined(tokens: Iterable[Mapping[str, Any]], marks: Mapping[str, tuple[str, str]]) -> str:
    pieces: list[str] = []
    for kind, group in groupby(tokens, _kind):
        before, after = marks[kind]
        pieces.append(f"{before}{clean(''.join(token['text'] for token in group))}{after}")
    return "".join(pieces)


def _listed(tokens: Iterable[Mapping[str, Any]], marks: Mapping[str, tuple[str, str]]) -> str:
    lines: list[str] = []
    for number, token in enumerate(tokens):
        before, after = marks[_kind(token)]
        lines.append(f"{number:>6} {token['id']:>7}  {before}{clean(json.dumps(token['text'], ensure_ascii=False))}{after}")
    return "\n".join(lines)


def _kind(token: Mapping[str, Any]) -> str:
    return "cut" if token["cut"] else "learned" if token["loss"] else "shown"


def _packing(packing: Mapping[str, Any] | None) -> Iterable[str]:
    if packing is None:
        return
    limits = f"{packing['rows_per_pass']:,} rows and {packing['tokens_per_pass']:,} tokens"
    passes = [f"  {_lines(each['lines'])}: {each['tokens']:,} tokens" for each in packing["passes"]]
    yield "\n".join([f"Packed together, at most {limits} a pass (a run draws its own order):", *passes])


def _lines(numbers: Sequence[int]) -> str:
    return f"line{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
