"""Columns by the names that they should have: `prompt=question,completion=answer`. `a+b` joins two by a line break."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from luthier.datasets.examples import BadRow

MAX_MAPPED = 16
_TARGET = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}", re.ASCII)
_SOURCE = re.compile(r"[^=,\x00-\x1f]{1,200}")
_TEXTS = frozenset({"prompt", "completion", "chosen", "rejected", "text", "instruction", "input", "output", "system"})
_ASKED = ("prompt", "question", "query", "instruction", "problem", "input")
_ANSWERED = ("completion", "answer", "response", "output", "solution", "reply", "target")
_READ = ("text", "sentence", "utterance", "review", "comment", "content", "message", "body", "question", "query", "input")
_LABELS = ("label", "category", "class", "intent", "sentiment", "topic", "tag", "label_text")
_BETTER = ("chosen", "preferred", "better", "winner", "accepted", "chosen_response", "response_chosen")
_WORSE = ("rejected", "dispreferred", "worse", "loser", "rejected_response", "response_rejected")
# In this order: rows that hold the names of an earlier one are hardly meant as a later one.
_FITS: tuple[Mapping[str, tuple[str, ...]], ...] = (
    {"prompt": _ASKED, "chosen": _BETTER, "rejected": _WORSE},
    {"text": _READ, "label": _LABELS},
    {"prompt": _ASKED, "completion": _ANSWERED},
    {"messages": ("conversation", "dialog", "dialogue", "chat", "turns")},
    {"text": ("content", "document", "article", "passage", "body")},
)


def parse_mapping(text: str) -> dict[str, str]:
    """`target=source` by commas. Raises: ValueError, in words for a user.

    >>> parse_mapping("prompt=question, completion=answer")
    {'prompt': 'question', 'completion': 'answer'}
    """
    found: dict[str, str] = {}
    for pair in text.split(","):
        target, equals, source = (part.strip() for part in pair.partition("="))
        if not equals or not _TARGET.fullmatch(target) or not _SOURCE.fullmatch(source):
            raise ValueError("It is not of the form prompt=question,completion=answer")
        if target in found:
            raise ValueError("It names a field twice")
        found[target] = source
    if len(found) > MAX_MAPPED:
        raise ValueError(f"It names more than {MAX_MAPPED} fields")
    return found


def written(mapping: Mapping[str, str]) -> str:
    """As `parse_mapping` reads it.

    >>> written({"prompt": "question", "completion": "answer"})
    'prompt=question,completion=answer'
    """
    return ",".join(f"{target}={source}" for target, source in mapping.items())


def mapped(mapping: Mapping[str, str], line: int, row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its fields renamed; what is not mentioned stays. Raises: BadRow `missing_field`, `bad_type`."""
    taken = {part for source in mapping.values() for part in source.split("+") if part in row}
    found = {name: value for name, value in row.items() if name not in taken}
    for target, source in mapping.items():
        parts = [_of(line, row, target, part) for part in source.split("+")] if "+" in source and source not in row else None
        value = _of(line, row, target, source) if parts is None else "\n".join(_text(line, target, part) for part in parts)
        # A number where a text belongs is meant as it is written.
        found[target] = str(value) if target in _TEXTS and type(value) in {int, float} else value
    return found


def proposed(columns: Collection[str]) -> dict[str, str] | None:
    """What the columns probably are; None where that is not clear.

    >>> proposed(["text", "category"]), proposed(["Question", "Answer"]), proposed(["a", "b"])
    ({'label': 'category'}, {'prompt': 'Question', 'completion': 'Answer'}, None)
    """
    by_name = {column.strip().lower(): column for column in columns}
    for fit in _FITS:
        found: dict[str, str] = {}
        for target, names in fit.items():
            there = [by_name[name] for name in names if name in by_name and by_name[name] not in found.values()]
            if target in by_name:
                there = [by_name[target]]
            if len(there) == 1:
                found[target] = there[0]
        if len(found) == len(fit):
            return {target: source for target, source in found.items() if target != source} or None
    return None


def _of(line: int, row: Mapping[str, Any], target: str, source: str) -> Any:
    for name in (source, source.strip(), source.lower()):
        if name in row:
            return row[name]
    raise BadRow(
        line, "missing_field", f"The row lacks the field that `{target}` is mapped from.", "Correct the mapping, or the row."
    )


def _text(line: int, target: str, value: Any) -> str:
    if value is not None and type(value) not in {str, int, float}:
        said = f"A field that `{target}` is joined from is not a text."
        raise BadRow(line, "bad_type", said, "Join texts only.")
    return "" if value is None else str(value)
