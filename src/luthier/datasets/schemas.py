"""Which kind of rows a file holds, and a row of each kind as an example.

Kinds that another method learns from are recognised to be refused by name: training on their wrong field would go unnoticed.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any, cast

from luthier.datasets.chat import Notes, check_target, read_messages, read_tools
from luthier.datasets.examples import Example, Parsed

_READ = "SFT reads chat (`messages`), `prompt` + `completion`, or Alpaca (`instruction`, `output`)"
_NOUNS = {
    "chat": "chat (`messages`)",
    "prompt_completion": "`prompt` and `completion`",
    "alpaca": "Alpaca (`instruction`, `output`)",
}
# Sets of fields that give a kind away, the most telling first: (fields, what it is, what to do).
_REFUSED: tuple[tuple[Set[str], str, str], ...] = (
    ({"chosen", "rejected"}, "preference pairs", f"They are for the method dpo, which comes later; {_READ}."),
    ({"preferred_output"}, "preference pairs", f"They are for the method dpo, which comes later; {_READ}."),
    ({"conversations"}, "ShareGPT rows", "Rename `conversations` to `messages`, `from`/`value` to `role`/`content`."),
    ({"question", "answer"}, "questions with a reference answer", "Rename `question` to `prompt` and `answer` to `completion`."),
    ({"prompt", "answer"}, "prompts with a reference answer", f"They are for the method grpo, which comes later; {_READ}."),
    ({"text", "label"}, "labelled texts", f"They are for the method classifier, which comes later; {_READ}."),
    ({"text"}, "plain texts", f"Give an answer to learn: {_READ}."),
)


def schema_of(row: dict[str, Any]) -> str | None:
    """The kind of a row by its fields, or None."""
    if "chosen" in row and "rejected" in row:
        return None
    if "messages" in row:
        return "chat"
    if "prompt" in row and "completion" in row:
        return "prompt_completion"
    return "alpaca" if "instruction" in row and "output" in row else None


class Reader:
    """Reads the rows of one file: its first readable row says what all of them are."""

    def __init__(self) -> None:
        self._schema: str | None = None
        self._first_line = 0

    def read(self, line: int, row: Any) -> Parsed:
        """The row as an example, with remarks. Raises: BadRow."""
        notes = Notes(line)
        if not isinstance(row, dict):
            raise notes.wrong("row_not_object", "The row is not an object.", 'Write one JSON object a line: {"messages": [...]}.')
        fields = cast("dict[str, Any]", row)
        schema = schema_of(fields)
        if schema is None:
            raise self._unknown(notes, fields)
        if self._schema is None:
            self._schema, self._first_line = schema, line
        elif schema != self._schema:
            raise notes.wrong(
                "schema_mismatch",
                f"This row is {_NOUNS[schema]}, but line {self._first_line} is {_NOUNS[self._schema]}.",
                "Put each kind of rows into a file of its own.",
            )
        return Parsed(line, schema, _READERS[schema](notes, fields), notes.remarks)

    def _unknown(self, notes: Notes, row: dict[str, Any]) -> Exception:
        for fields, noun, fix in _REFUSED:
            if fields <= row.keys():
                return notes.wrong("missing_field", f"These are {noun}.", fix)
        missing = _MISSING.get(self._schema or "", "`messages`, or `prompt` and `completion`, or `instruction` and `output`")
        return notes.wrong("missing_field", f"The row lacks {missing}.", f"{_READ}.")


_MISSING = {"chat": "`messages`", "prompt_completion": "`prompt` or `completion`", "alpaca": "`instruction` or `output`"}


def _chat(notes: Notes, row: dict[str, Any]) -> Example:
    if row.get("functions") is not None:
        raise notes.wrong("bad_value", "`functions` is the old form of `tools`.", "Write them as `tools`.")
    messages = read_messages(notes, row["messages"])
    tools = read_tools(notes, row.get("tools"), messages)
    check_target(notes, messages)
    return Example(messages=messages, tools=tools, line=notes.line)


def _prompt_completion(notes: Notes, row: dict[str, Any]) -> Example:
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        return _conversational(notes, row)
    prompt, completion = _text(notes, row, "prompt"), _text(notes, row, "completion")
    _answer(notes, completion, "completion")
    if not prompt.strip():
        notes.remark("empty_content", "The prompt is empty.", "Write what the completion answers, or remove the row.")
    return Example(prompt=prompt, completion=completion, line=notes.line)


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
    return Example(messages=weighed, tools=tools, line=notes.line)


def _alpaca(notes: Notes, row: dict[str, Any]) -> Example:
    """Instruction and input become the user's message (joined by a line break), output the assistant's."""
    instruction, output = _text(notes, row, "instruction"), _text(notes, row, "output")
    more = "" if row.get("input") is None else _text(notes, row, "input")
    system = "" if row.get("system") is None else _text(notes, row, "system")
    _answer(notes, output, "output")
    asked = f"{instruction}\n{more}" if more else instruction
    if not asked.strip():
        notes.remark("empty_content", "The instruction is empty.", "Write what the output answers, or remove the row.")
    before: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    turns = [*before, *_history(notes, row.get("history")), {"role": "user", "content": asked}]
    return Example(messages=(*turns, {"role": "assistant", "content": output}), line=notes.line)


def _history(notes: Notes, history: Any) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    for pair in cast("list[Any]", history or []):
        if not isinstance(pair, list) or [type(text) for text in cast("list[Any]", pair)] != [str, str]:
            raise notes.wrong("bad_type", "`history` is not a list of pairs of texts.", 'Write [["question", "answer"], ...].')
        asked, answered = cast("list[str]", pair)
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return turns


def _text(notes: Notes, row: dict[str, Any], name: str) -> str:
    value = row[name]
    if type(value) is str:
        return value
    if value is None:
        raise notes.wrong("missing_field", f"`{name}` is null.", "Write the text, or remove the row.")
    raise notes.wrong("bad_type", f"`{name}` is not a text.", "Write it in quotes.")


def _answer(notes: Notes, text: str, name: str) -> None:
    if not text.strip():
        raise notes.wrong(
            "empty_content", f"`{name}` is empty: there is nothing to learn.", "Write the answer, or remove the row."
        )


_READERS: dict[str, Callable[[Notes, dict[str, Any]], Example]] = {
    "chat": _chat,
    "prompt_completion": _prompt_completion,
    "alpaca": _alpaca,
}
