"""What rows a file can hold, by their fields, and which methods learn from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from luthier.datasets.mapping import proposed, written
from luthier.datasets.rules import FIELD


@dataclass(frozen=True, slots=True)
class Kind:
    """What rows are called, the fields that they need, the methods that learn from them, and what else is read of them."""

    noun: str
    fields: tuple[str, ...]
    methods: tuple[str, ...]
    also: frozenset[str] | None = frozenset()
    """None where all of a row is read: by a grader."""


_PAIRS = ("dpo", "orpo")
_WEIGHT, _TOOLS = frozenset({"weight"}), frozenset({"tools"})
KINDS: Mapping[str, Kind] = {
    "chat": Kind("chat (`messages`)", ("messages",), ("sft",), _WEIGHT | _TOOLS | {"system", "functions"}),
    "prompt_completion": Kind("`prompt` and `completion`", ("prompt", "completion"), ("sft",), _WEIGHT | _TOOLS),
    "alpaca": Kind(
        "Alpaca (`instruction`, `output`)", ("instruction", "output"), ("sft",), _WEIGHT | {"input", "system", "history"}
    ),
    "sharegpt": Kind("ShareGPT (`conversations`)", ("conversations",), ("sft",), _WEIGHT | _TOOLS | {"system"}),
    "text": Kind("plain texts (`text`)", ("text",), ("sft",), _WEIGHT),
    "pairs": Kind("preference pairs (`prompt`, `chosen`, `rejected`)", ("prompt", "chosen", "rejected"), _PAIRS, _TOOLS),
    "whole_pairs": Kind("preference pairs (`chosen`, `rejected`)", ("chosen", "rejected"), _PAIRS, _TOOLS),
    "openai_pairs": Kind(
        "preference pairs (`input`, `preferred_output`, `non_preferred_output`)",
        ("input", "preferred_output", "non_preferred_output"),
        _PAIRS,
    ),
    "rated": Kind("rated answers (`prompt`, `completion`, `label`)", ("prompt", "completion", "label"), ("kto",), _TOOLS),
    "prompts": Kind("prompts to be answered (`prompt` and fields for a grader)", ("prompt",), ("grpo",), None),
    "openai_prompts": Kind(
        "prompts to be answered (`messages` that end with the user's, and fields for a grader)", ("messages",), ("grpo",), None
    ),
    "labelled": Kind("labelled texts (`text`, `label`)", ("text", "label"), ("classifier",)),
    "images": Kind("labelled images (`image`, `label`)", ("image", "label"), ("classifier",)),
}

_WANTED = {
    "sft": "chat (`messages`), `prompt` + `completion`, Alpaca (`instruction`, `output`), ShareGPT (`conversations`) or `text`",
    "dpo": "pairs: `prompt`, `chosen` and `rejected`, or OpenAI's preference format",
    "orpo": "pairs: `prompt`, `chosen` and `rejected`, or OpenAI's preference format",
    "kto": "rated answers: `prompt`, `completion` and `label` (true or false)",
    "grpo": "prompts: `prompt` and the fields that the grader reads",
    "classifier": "labelled texts (`text`, `label`) or images (`image`, `label`)",
}
FIELDS = frozenset(
    {name for kind in KINDS.values() for name in kind.fields}
    | {"input", "system", "history", "tools", "weight", "item", "reference_answer"}
)
"""Names of fields that mean something here."""
# Fields of a chat row that say nothing about what it is for.
_ABOUT = frozenset(
    {"messages", "tools", "functions", "parallel_tool_calls", "weight", "id", "uuid", "metadata", "source", "user", "model"}
)


def kind_of(row: Mapping[str, Any]) -> str | None:
    """The kind of a row by its fields, or None.

    >>> kind_of({"prompt": "1 + 1 =", "chosen": "2", "rejected": "3"}), kind_of({"prompt": "1 + 1 =", "answer": "2"})
    ('pairs', 'prompts')
    """
    if "preferred_output" in row or "non_preferred_output" in row:
        return "openai_pairs"
    if "chosen" in row and "rejected" in row:
        return "pairs" if "prompt" in row else "whole_pairs"
    if "messages" in row:
        return "openai_prompts" if _asks(row) else "chat"
    if "prompt" in row and "completion" in row:
        return "rated" if _rates(row.get("label")) else "prompt_completion"
    if "instruction" in row and "output" in row:
        return "alpaca"
    if "label" in row and ("text" in row or "image" in row) and "prompt" not in row:
        return "images" if "image" in row else "labelled"
    if "conversations" in row:
        return "sharegpt"
    if "prompt" in row:
        return "pairs" if "chosen" in row or "rejected" in row else "prompts"
    return "text" if "text" in row else None


def within(row: Mapping[str, Any], kind: str) -> str | None:
    """The kind of a row in a file of `kind`: where a row could be one or the other, it is what the file is."""
    found = kind_of(row)
    if "messages" in row and found in {"chat", "openai_prompts"} and kind in {"chat", "openai_prompts"}:
        return kind
    if found == "prompts" and kind in {"prompt_completion", "pairs", "rated"}:
        return None
    if (found, kind) in {("whole_pairs", "pairs"), ("text", "labelled")}:
        return None
    if found == "prompt_completion" and kind == "rated":
        return "rated"
    return found


def unread(row: Mapping[str, Any], kind: str) -> list[str]:
    """The fields of a row of this kind that say nothing here; what is null is no field.

    >>> unread({"text": "Hello.", "category": "greeting", "source": "mail"}, "text")
    ['category']
    """
    known = KINDS[kind]
    if known.also is None:
        return []
    return [
        name
        for name, value in row.items()
        if not (name in known.fields or name in known.also or name == "source" or value is None)
    ]


def missing(row: Mapping[str, Any], kind: str | None) -> tuple[str, str, str]:
    """Of a row that is of no kind: (code, what is wrong, what to do)."""
    if kind is not None:
        lacks = " and ".join(f"`{name}`" for name in KINDS[kind].fields if name not in row)
        return "missing_field", f"The row lacks {lacks}.", f"The rows of this file are {KINDS[kind].noun}."
    lacks = "`messages`, `prompt`, or `instruction` and `output`"
    fit = proposed(row.keys())
    if fit is not None:
        also = f" For grpo: `--map prompt={fit['prompt']}`." if {"prompt", "completion"} <= fit.keys() else ""
        return "missing_field", f"The row lacks {lacks}.", f"Its fields seem to fit: upload it with `--map {written(fit)}`.{also}"
    inside = next((name for name, value in row.items() if _is_rows(value)), None)
    if inside is not None:
        said = "The file is one object that holds its rows in a list."
        return "missing_field", said, f"Write that list alone, or its rows one a line (`jq -c '.[{_quoted(inside)}][]'`)."
    wanted = f"Write {_WANTED['sft']}; or {_WANTED['dpo']}; or {_WANTED['grpo']}. Or say which field is what: `--map prompt=...`."
    return "missing_field", f"The row lacks {lacks}.", wanted


def refusal(kind: str | None, method: str) -> tuple[str, str] | None:
    """Why a method cannot learn from rows of this kind, and what to do; None if it can."""
    known = KINDS.get(kind or "", Kind("rows of a kind that is not known", (), ()))
    if method in known.methods:
        return None
    instead = f"Set `method` to {' or '.join(known.methods)}, or give" if known.methods else "Give"
    return f"The method {method} cannot learn from {known.noun}.", f"{instead} a dataset of {_WANTED.get(method, 'its own')}."


def _asks(row: Mapping[str, Any]) -> bool:
    """Whether the messages are a prompt: the last is the user's, and there is something for a grader to read."""
    messages = row["messages"]
    last = cast("list[Any]", messages)[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, dict) and cast("dict[str, Any]", last).get("role") == "user" and not row.keys() <= _ABOUT


def _is_rows(value: Any) -> bool:
    """Whether a field looks like the rows of a whole file."""
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in cast("list[Any]", value))


def _quoted(name: str) -> str:
    return f'"{name}"' if FIELD.fullmatch(name) else "..."


def _rates(label: Any) -> bool:
    """Whether this was meant as a rating. A name of a class was not: such rows are learned as they are."""
    return isinstance(label, bool) or label in (0, 1) or (isinstance(label, str) and label.lower() in {"true", "false"})
