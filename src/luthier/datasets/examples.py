"""What a row teaches: an answer, a pair of answers, a rated answer, a prompt, or a class; and why a row does none of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_RECORD_BYTES = 1024 * 1024
MAX_DEPTH = 32

Message = Mapping[str, Any]
"""`role`, `content` (always text), and where they apply `tool_calls` (arguments: an object), `tool_call_id`, `name`, `weight`."""


@dataclass(frozen=True, slots=True)
class Example:
    """A row in the one form that training reads: a conversation, or a prompt with its completion (then `prompt` is not None)."""

    messages: tuple[Message, ...] = ()
    tools: tuple[Mapping[str, Any], ...] | None = None
    prompt: str | None = None
    completion: str | None = None
    line: int | None = None
    weight: float = 1.0
    """How much its loss counts beside that of other rows."""

    def canonical(self) -> dict[str, Any]:
        """The row as `processed/rows.jsonl` holds it: reads back as the same example."""
        weight = {} if self.weight == 1 else {"weight": self.weight}
        if self.prompt is not None:
            return {"prompt": self.prompt, "completion": self.completion, **weight}
        return {"messages": list(self.messages), **_listed(self.tools), **weight}

    @property
    def examples(self) -> tuple[Example, ...]:
        """What goes through the model when the row is learned."""
        return (self,)

    @property
    def shown(self) -> int:
        """How many messages come before the first that is learned."""
        return next((at for at, message in enumerate(self.messages) if is_learned(message)), len(self.messages))


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt, of which the first is better. Both examples start with that prompt and learn only the answer."""

    chosen: Example
    rejected: Example
    line: int | None = None

    def canonical(self) -> dict[str, Any]:
        """The row as `processed/rows.jsonl` holds it, whatever its kind: reads back as the same pair."""
        return {**_asked(self.chosen), "chosen": _answered(self.chosen), "rejected": _answered(self.rejected)}

    @property
    def examples(self) -> tuple[Example, ...]:
        return (self.chosen, self.rejected)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The prompt's and both answers'."""
        return (*self.chosen.messages, *self.rejected.messages[self.rejected.shown :])


@dataclass(frozen=True, slots=True)
class Rated:
    """An answer that was found good or bad. The example learns only the answer."""

    example: Example
    label: bool
    line: int | None = None

    def canonical(self) -> dict[str, Any]:
        """The row as `processed/rows.jsonl` holds it: reads back as the same."""
        return {**_asked(self.example), "completion": _answered(self.example), "label": self.label}

    @property
    def examples(self) -> tuple[Example, ...]:
        return (self.example,)

    @property
    def messages(self) -> tuple[Message, ...]:
        return self.example.messages


@dataclass(frozen=True, slots=True)
class Prompt:
    """What answers are sampled for: a conversation, or a text (then `text` is not None)."""

    item: Mapping[str, Any]
    """The other fields of the row as they were: what a grader knows as `item`."""
    messages: tuple[Message, ...] = ()
    tools: tuple[Mapping[str, Any], ...] | None = None
    text: str | None = None
    line: int | None = None

    def canonical(self) -> dict[str, Any]:
        """The row as `processed/rows.jsonl` holds it, whatever its kind: reads back as the same prompt."""
        prompt = list(self.messages) if self.text is None else self.text
        return {"prompt": prompt, **_listed(self.tools), "item": dict(self.item)}

    @property
    def examples(self) -> tuple[Example, ...]:
        """None: its answers are written in training."""
        return ()


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text or an image, and the class that it belongs to. No language model reads it."""

    label: str
    text: str | None = None
    pixels: tuple[float, ...] | None = None
    line: int | None = None

    def canonical(self) -> dict[str, Any]:
        """The row as `processed/rows.jsonl` holds it, whatever its kind: reads back as the same."""
        what = {"text": self.text} if self.pixels is None else {"image": list(self.pixels)}
        return {**what, "label": self.label}

    @property
    def examples(self) -> tuple[Example, ...]:
        return ()

    @property
    def messages(self) -> tuple[Message, ...]:
        return ()


Row = Example | Pair | Rated | Prompt | Labelled


def is_learned(message: Message) -> bool:
    """Whether the model learns to write this message."""
    return message["role"] == "assistant" and bool(message.get("weight", 1))


def _asked(example: Example) -> dict[str, Any]:
    if example.prompt is not None:
        return {"prompt": example.prompt}
    shown = example.messages[: example.shown]
    prompt = [{name: value for name, value in message.items() if name != "weight"} for message in shown]
    return {"prompt": prompt, **_listed(example.tools)}


def _answered(example: Example) -> Any:
    return list(example.messages[example.shown :]) if example.prompt is None else example.completion


def _listed(tools: tuple[Mapping[str, Any], ...] | None) -> dict[str, Any]:
    return {"tools": list(tools)} if tools else {}


@dataclass(frozen=True, slots=True)
class Remark:
    """A warning: the row is used all the same."""

    code: str
    message: str
    fix: str


@dataclass(frozen=True, slots=True)
class FileRemark:
    """A warning that is about the file, or about its first line, and not about a row."""

    line: int | None
    remark: Remark


@dataclass(slots=True)
class Parsed:
    """A record that can be trained on, and what is odd about it."""

    line: int
    schema_name: str
    row: Row
    remarks: list[Remark] = field(default_factory=list[Remark])
    source: str | None = None
    """Where the row says that it is from."""
    unread: Collection[str] = ()
    """Its fields that say nothing here."""


class BadRow(Exception):
    """A record that cannot be trained on. `line` is physical, or the number of the record in a JSON array.

    `fatal` means that nothing after it can be read either. The words never repeat what stands in the row.
    """

    def __init__(self, line: int | None, code: str, message: str, hint: str, *, fatal: bool = False) -> None:
        super().__init__(message)
        self.line = line
        self.code = code
        self.message = message
        self.hint = hint
        self.fatal = fatal

    def __reduce__(self) -> tuple[Any, ...]:
        return BadRow, (self.line, self.code, self.message, self.hint), {"fatal": self.fatal}

    def __str__(self) -> str:
        where = "" if self.line is None else f"Line {self.line}: "
        return f"{where}{self.message} {self.hint}"
