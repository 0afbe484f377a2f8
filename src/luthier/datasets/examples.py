"""One training example, and why a row is not one."""

from __future__ import annotations

from collections.abc import Mapping
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

    def canonical(self) -> dict[str, Any]:
        """The row as `processed/rows.jsonl` holds it: reads back as the same example."""
        if self.prompt is not None:
            return {"prompt": self.prompt, "completion": self.completion}
        row: dict[str, Any] = {"messages": list(self.messages)}
        return {**row, "tools": list(self.tools)} if self.tools else row


@dataclass(frozen=True, slots=True)
class Remark:
    """A warning: the row is used all the same."""

    code: str
    message: str
    fix: str


@dataclass(slots=True)
class Parsed:
    """A record that can be trained on, and what is odd about it."""

    line: int
    schema_name: str
    example: Example
    remarks: list[Remark] = field(default_factory=list[Remark])


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

    def __str__(self) -> str:
        where = "" if self.line is None else f"Line {self.line}: "
        return f"{where}{self.message} {self.hint}"
