"""Calls of tools in what a model wrote: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, as it was taught to."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
OPENS = "<tool_call>"


@dataclass(frozen=True)
class ToolCall:
    """A function that the model wants called; arguments as JSON text."""

    name: str
    arguments: str


def calls_in(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """The text around the calls, and the calls. What is no whole call stays text.

    >>> calls_in('Wait.<tool_call>{"name": "now", "arguments": {"zone": "UTC"}}</tool_call>')
    ('Wait.', (ToolCall(name='now', arguments='{"zone": "UTC"}'),))
    """
    rest, found = taken_out(text)
    return rest.strip() if found else text, found


def taken_out(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """The same, with the blanks around the calls: what comes before the first stands at its place."""
    found: list[ToolCall] = []

    def taken(match: re.Match[str]) -> str:
        call = _call(match[1])
        if call is None:
            return match[0]
        found.append(call)
        return ""

    return _CALL.sub(taken, text), tuple(found)


def _call(text: str) -> ToolCall | None:
    try:
        called = json.loads(text)
    except ValueError:
        return None
    name, arguments = called.get("name"), called.get("arguments", {})
    if not isinstance(name, str):
        return None
    return ToolCall(name, arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False))
