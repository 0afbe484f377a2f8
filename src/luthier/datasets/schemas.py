"""The rows of one file, each as what it teaches. The first readable row says what all of them are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from luthier.datasets import feedback, kinds, sharegpt
from luthier.datasets.chat import Notes, check_target, read_messages, read_tools, with_system
from luthier.datasets.examples import Example, Parsed, Row
from luthier.datasets.feedback import text_of
from luthier.datasets.labelled import labelled_image, labelled_text
from luthier.datasets.mapping import mapped

MAX_WEIGHT = 1000
MAX_FIELD = 100
MAX_SOURCE = 100
"""Characters of the name of where rows are from."""


_EMPTY_CELLS = frozenset({"nan", "NaN", "NULL", "null", "<NA>", "#N/A"})


class Reader:
    """Reads the rows of one file: its first readable row says what all of them are."""

    def __init__(self, mapping: Mapping[str, str] | None = None) -> None:
        self._mapping = mapping or {}
        self._kind: str | None = None
        self._first_line = 0

    @property
    def kind(self) -> str | None:
        """What the rows are, once one was read."""
        return self._kind

    def read(self, line: int, row: Any) -> Parsed:
        """The row as what it teaches, with remarks. Raises: BadRow."""
        notes = Notes(line)
        if not isinstance(row, dict):
            raise notes.wrong("row_not_object", "The row is not an object.", 'Write one JSON object a line: {"messages": [...]}.')
        fields = cast("dict[str, Any]", row)
        if self._mapping:
            fields = mapped(self._mapping, line, fields)
        kind = kinds.kind_of(fields) if self._kind is None else kinds.within(fields, self._kind)
        if kind is None:
            raise notes.wrong(*kinds.missing(fields, self._kind))
        if self._kind is None:
            self._kind, self._first_line = kind, line
        elif kind != self._kind:
            raise notes.wrong(
                "schema_mismatch",
                f"This row is {kinds.KINDS[kind].noun}, but line {self._first_line} is {kinds.KINDS[self._kind].noun}.",
                "Put each kind of rows into a file of its own.",
            )
        row = _READERS[kind](notes, fields)
        return Parsed(line, kind, row, notes.remarks, _source(fields), _unread(notes, fields, kind))


def _unread(notes: Notes, row: dict[str, Any], kind: str) -> set[str]:
    """What is not learned of a row; what changes all of an answer is remarked, too."""
    names = kinds.unread(row, kind)
    if "system" in names and row["system"]:
        said = f"`system` is not read beside {kinds.KINDS[kind].fields[0]}."
        notes.remark("unread_field", said, "Put it into the prompt: a list of messages, of which the first is the system's.")
    return {name for name in [*names, *notes.unread] if len(name) <= MAX_FIELD and name.isprintable()}


def _source(row: dict[str, Any]) -> str | None:
    source = row.get("source")
    return source if isinstance(source, str) and 0 < len(source) <= MAX_SOURCE and source.isprintable() else None


def _chat(notes: Notes, row: dict[str, Any]) -> Example:
    if row.get("functions") is not None:
        raise notes.wrong("bad_value", "`functions` is the old form of `tools`.", "Write them as `tools`.")
    messages = read_messages(notes, with_system(notes, row))
    tools = read_tools(notes, row.get("tools"), messages)
    check_target(notes, messages)
    return Example(messages=messages, tools=tools, line=notes.line, weight=_weight(notes, row))


def _sharegpt(notes: Notes, row: dict[str, Any]) -> Example:
    messages = read_messages(notes, sharegpt.messages_of(notes, row))
    tools = read_tools(notes, sharegpt.tools_of(notes, row), messages)
    check_target(notes, messages)
    return Example(messages=messages, tools=tools, line=notes.line, weight=_weight(notes, row))


def _text(notes: Notes, row: dict[str, Any]) -> Example:
    """All of the text is learned: a completion of nothing."""
    text = text_of(notes, row, "text")
    _answer(notes, text, "text")
    return Example(prompt="", completion=text, line=notes.line, weight=_weight(notes, row))


def _prompt_completion(notes: Notes, row: dict[str, Any]) -> Example:
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        return _conversational(notes, row)
    prompt, completion = text_of(notes, row, "prompt"), text_of(notes, row, "completion")
    _answer(notes, completion, "completion")
    if not prompt.strip():
        notes.remark("empty_content", "The prompt is empty.", "Write what the completion answers, or remove the row.")
    return Example(prompt=prompt, completion=completion, line=notes.line, weight=_weight(notes, row))


def _conversational(notes: Notes, row: dict[str, Any]) -> Example:
    """Prompt and completion as lists of messages: one conversation, of which only the completion is learned."""
    shown = len(row["prompt"])
    messages = read_messages(notes, row["prompt"] + row["completion"])
    tools = read_tools(notes, row.get("tools"), messages)
    weighed = tuple(
        {**message, "weight": 0} if number < shown and message["role"] == "assistant" else message
        for number, message in enumerate(messages)
    )
    check_target(notes, weighed)
    return Example(messages=weighed, tools=tools, line=notes.line, weight=_weight(notes, row))


def _alpaca(notes: Notes, row: dict[str, Any]) -> Example:
    """Instruction and input become the user's message (joined by a line break), output the assistant's."""
    instruction, output = text_of(notes, row, "instruction"), text_of(notes, row, "output")
    more = "" if row.get("input") is None else text_of(notes, row, "input")
    system = "" if row.get("system") is None else text_of(notes, row, "system")
    _answer(notes, output, "output")
    asked = f"{instruction}\n{more}" if more else instruction
    if not asked.strip():
        notes.remark("empty_content", "The instruction is empty.", "Write what the output answers, or remove the row.")
    before: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    turns = [*before, *_history(notes, row.get("history")), {"role": "user", "content": asked}]
    messages = (*turns, {"role": "assistant", "content": output})
    check_target(notes, messages)
    return Example(messages=messages, line=notes.line, weight=_weight(notes, row))


def _history(notes: Notes, history: Any) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    for pair in cast("list[Any]", history) if isinstance(history, list) else [history] if history else []:
        if not isinstance(pair, list) or [type(text) for text in cast("list[Any]", pair)] != [str, str]:
            raise notes.wrong("bad_type", "`history` is not a list of pairs of texts.", 'Write [["question", "answer"], ...].')
        asked, answered = cast("list[str]", pair)
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return turns


def _weight(notes: Notes, row: dict[str, Any]) -> float:
    weight = row.get("weight")
    if weight is None:
        return 1.0
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or weight != weight:  # noqa: PLR0124  # NaN
        raise notes.wrong("bad_value", "The row's `weight` is not a number.", "1 is an ordinary row, 0.5 counts half.")
    if not 0 <= weight <= MAX_WEIGHT:
        raise notes.wrong(
            "bad_value", f"The row's `weight` is below 0 or above {MAX_WEIGHT:,}.", "1 is an ordinary row, 0.5 counts half."
        )
    if weight == 0:
        notes.remark(
            "zero_weight", "The row's `weight` is 0: nothing is learned from it.", "Remove the row, unless this is meant."
        )
    return float(weight)


def _answer(notes: Notes, text: str, name: str) -> None:
    if not text.strip():
        raise notes.wrong(
            "empty_content", f"`{name}` is empty: there is nothing to learn.", "Write the answer, or remove the row."
        )
    if text.strip() in _EMPTY_CELLS:
        said = f"`{name}` is the word by which programs write an empty cell."
        notes.remark("empty_word", said, "Write the answer, or remove the row.")


_READERS: dict[str, Callable[[Notes, dict[str, Any]], Row]] = {
    "chat": _chat,
    "prompt_completion": _prompt_completion,
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "text": _text,
    "pairs": feedback.pair,
    "whole_pairs": feedback.whole_pair,
    "openai_pairs": feedback.openai_pair,
    "rated": feedback.rated,
    "prompts": feedback.prompt,
    "openai_prompts": feedback.openai_prompt,
    "labelled": labelled_text,
    "images": labelled_image,
}
