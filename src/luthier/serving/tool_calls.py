"""Calls of tools in what a model wrote: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, as it was taught to."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from luthier.errors import FieldInvalid

_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
_CUT = re.compile(r'<tool_call>\s*\{\s*"name"\s*:\s*"(?P<name>[^"\\]+)"\s*,\s*"arguments"\s*:\s*(?P<arguments>.*)', re.DOTALL)
"""A call that the answer's length has ended."""
OPENS, CLOSES = "<tool_call>", "</tool_call>"
_COMPACT = {"whitespace_pattern": " ?"}
"""As models write calls: on one line. A model that never saw one would fill its answer with indents."""
_REFERENCE = re.compile(r"#/(?P<place>\$defs|definitions)/")


@dataclass(frozen=True)
class ToolCall:
    """A function that the model wants called; arguments as JSON text."""

    name: str
    arguments: str


def calls_in(text: str, *, cut: bool = False) -> tuple[str, tuple[ToolCall, ...]]:
    """The text around the calls, and the calls. What is no whole call stays text; of an answer that its length has `cut`, the
    last call may lack the end of its arguments.

    >>> calls_in('Wait.<tool_call>{"name": "now", "arguments": {"zone": "UTC"}}</tool_call>')
    ('Wait.', (ToolCall(name='now', arguments='{"zone": "UTC"}'),))
    >>> calls_in('<tool_call>{"name": "now", "arguments": {"zone": "U', cut=True)
    ('', (ToolCall(name='now', arguments='{"zone": "U'),))
    >>> calls_in('<tool_call>{"name": "now", "arguments": {}}', cut=True)
    ('', (ToolCall(name='now', arguments='{}'),))
    """
    rest, found = taken_out(text, cut=cut)
    return rest.strip() if found else text, found


def taken_out(text: str, *, cut: bool = False) -> tuple[str, tuple[ToolCall, ...]]:
    """The same, with the blanks around the calls: what comes before the first stands at its place."""
    found: list[ToolCall] = []

    def taken(match: re.Match[str]) -> str:
        call = _call(match[1])
        if call is None:
            return match[0]
        found.append(call)
        return ""

    rest = _CALL.sub(taken, text)
    last = _CUT.search(rest) if cut else None
    if last is not None:
        found.append(ToolCall(last["name"], _begun(last["arguments"])))
        rest = rest[: last.start()]
    return rest, tuple(found)


def _call(text: str) -> ToolCall | None:
    try:
        called = json.loads(text)
    except (ValueError, RecursionError):
        return None
    name, arguments = called.get("name"), called.get("arguments", {})
    if not isinstance(name, str):
        return None
    return ToolCall(name, arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False))


def _begun(arguments: str) -> str:
    """Arguments up to their end, if they have come to it."""
    try:
        return arguments[: json.JSONDecoder().raw_decode(arguments)[1]]
    except (ValueError, RecursionError):
        return arguments


def schema_of_a_call(tools: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """JSON schema of a call of one of the tools that are named, with its own arguments. Raises: FieldInvalid.

    >>> json.loads(schema_of_a_call([{"type": "function", "function": {"name": "now"}}], ["now"]))["anyOf"][0]["required"]
    ['name', 'arguments']
    """
    offered = {str(each.get("name")): each for each in map(_function, tools)}
    if any(name not in offered for name in names):
        raise FieldInvalid("There is no tool of the name that must be called.", hint="List it in `tools`.", param="tool_choice")
    calls: list[dict[str, Any]] = []
    shared: dict[str, Any] = {}
    for number, name in enumerate(names):
        arguments = _moved(offered[name].get("parameters") or {"type": "object"}, number)
        for place in ("$defs", "definitions"):
            shared |= {f"{number}.{key}": value for key, value in (arguments.pop(place, None) or {}).items()}
        fields = {"name": {"const": name}, "arguments": arguments}
        calls.append({"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False})
    return json.dumps({"anyOf": calls, "$defs": shared, "x-guidance": _COMPACT})


def _function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = tool.get("function")
    return cast("Mapping[str, Any]", inner) if isinstance(inner, dict) else tool


def _moved(schema: Any, number: int) -> Any:
    """The schema of tool `number`, with what it refers to in the `$defs` that all of them share."""
    if isinstance(schema, list):
        return [_moved(each, number) for each in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(value, number) for key, value in cast("dict[str, Any]", schema).items()}
    if isinstance(reference := moved.get("$ref"), str):
        moved["$ref"] = _REFERENCE.sub(f"#/$defs/{number}.", reference)
    return moved
