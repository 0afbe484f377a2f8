"""Rows and differences of datasets as text for people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from luthier.faces.cli.shown import clean, pairs

_MOST_SHOWN = 10
_BLOCKS = " ▁▂▃▄▅▆▇█"


def sample_text(sample: Mapping[str, Any]) -> str:
    """One row, with what was remarked of it."""
    head = f"line {sample['line']} ({sample['bytes']:,} bytes)"
    remarks = [f"  {each['code']}: {each['message']}" for each in sample.get("findings") or ()]
    row = sample["row"]
    turns = row.get("messages") if isinstance(row, Mapping) else None
    if turns:
        body = [f"  {turn['role']:>9}: {turn['content']}" for turn in turns]
    else:
        body = [f"  {name:>9}: {_told(value)}" for name, value in row.items()]
    return clean("\n".join([head, *remarks, *body]))


def bars(spread: Mapping[str, Any]) -> str:
    """Distributions as rows of small bars: from the least to the most, one bar a bin."""
    lengths = {f"{name} tokens": value for name, value in (spread.get("tokens") or {}).items()}
    lengths |= {name: spread.get(name) for name in ("turns", "loss_share")}
    lines = [
        f"{name.replace('_', ' '):18} {_drawn([each['rows'] for each in value['histogram']])}  {value['min']} to {value['max']}"
        for name, value in lengths.items()
        if value and value["histogram"]
    ]
    for name in ("languages", "labels", "sources"):
        counted = Counter[str](dict(spread.get(name) or {}))
        if counted:
            lines.append(f"{name:18} {', '.join(f'{key} {rows:,}' for key, rows in counted.most_common(_MOST_SHOWN))}")
    if vocabulary := spread.get("vocabulary"):
        lines.append(f"{'vocabulary':18} {vocabulary['seen']:,} of {vocabulary['size']:,} tokens seen")
    return clean("\n".join(lines))


def difference_text(found: Mapping[str, Any]) -> str:
    """What became of the rows, and how far distributions moved."""
    facts = pairs(
        [
            ("same", f"{found['same']:,} rows"),
            ("added", _some(found["added"])),
            ("dropped", _some(found["dropped"])),
            ("changed", f"{found['changed_rows']:,} rows{_lines([each['line'] for each in found['changed']])}"),
        ]
    )
    moved = [f"{each['distribution']:10} moved by {each['stability_index']:.3f}" for each in found.get("shifts") or ()]
    return "\n".join([facts, *map(clean, moved)])


def fixed_text(fixed: Mapping[str, Any]) -> str:
    """What a cleaned version left out."""
    kinds = ", ".join(f"{count:,} {code}" for code, count in fixed["counts"].items()) or "none"
    lines = [f"  line {each['line'] or '-'}: {each['code']}: {each['message']}" for each in fixed["dropped"][:_MOST_SHOWN]]
    more = [f"  ... and {fixed['dropped_rows'] - len(lines):,} more"] if fixed["dropped_rows"] > len(lines) else []
    return clean("\n".join([f"Left out: {fixed['dropped_rows']:,} rows ({kinds}).", *lines, *more]))


def _drawn(counts: list[int]) -> str:
    """
    >>> _drawn([0, 1, 4, 8])
    ' ▁▄█'
    """
    most = max(counts) or 1
    return "".join(_BLOCKS[-(-count * (len(_BLOCKS) - 1) // most)] for count in counts)


def _told(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(getattr(value, "raw", value), ensure_ascii=False, default=list)


def _some(changes: Mapping[str, Any]) -> str:
    return f"{changes['rows']:,} rows{_lines(changes['lines'])}"


def _lines(lines: list[int]) -> str:
    shown = ", ".join(str(line) for line in lines[:_MOST_SHOWN])
    return f" (line {shown}{', ...' if len(lines) > _MOST_SHOWN else ''})" if lines else ""
