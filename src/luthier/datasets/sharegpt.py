"""Conversations as ShareGPT has them: `conversations` of `from` and `value`, tools and their results among the turns."""

from __future__ import annotations

from typing import Any, cast

from luthier.datasets.chat import Notes
from luthier.datasets.examples import BadRow
from luthier.datasets.strict_json import parse

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "system": "system",
    "function_call": "function_call",
    "tool_call": "function_call",
    "observation": "tool",
    "tool": "tool",
    "function_response": "tool",
}
_KNOWN = "human, gpt, system, function_call, observation"


def messages_of(notes: Notes, row: dict[str, Any]) -> list[Any]:
    """The turns as OpenAI writes them, the row's `system` before them. Raises: BadRow."""
    turns = row["conversations"]
    if not isinstance(turns, list):
        raise notes.wrong("bad_type", "`conversations` is not a list.", 'Write [{"from": "human", "value": ...}, ...].')
    system = row.get("system")
    before = [{"role": "system", "content": system}] if system else []
    return [*before, *(_message(notes, number, turn) for number, turn in enumerate(cast("list[Any]", turns), 1))]


def tools_of(notes: Notes, row: dict[str, Any]) -> Any:
    """The row's `tools`, which are often JSON in a text. Raises: BadRow."""
    tools = row.get("tools")
    return _parsed(notes, tools, "`tools`") if isinstance(tools, str) and tools.strip() else tools or None


def _message(notes: Notes, number: int, turn: Any) -> Any:
    if not isinstance(turn, dict):
        raise notes.wrong("bad_type", f"Turn {number} is not an object.", "Write an object with `from` and `value`.")
    fields = cast("dict[str, Any]", turn)
    if "from" not in fields and "role" in fields:
        return fields
    role = _ROLES.get(str(fields.get("from")).lower())
    if role is None:
        code = "missing_role" if fields.get("from") is None else "roles"
        raise notes.wrong(code, f"Turn {number} has no `from` that is known.", f"Known are {_KNOWN}.")
    value = fields.get("value")
    if role == "function_call":
        calls = _parsed(notes, value, f"The call of turn {number}") if isinstance(value, str) else value
        listed = cast("list[Any]", calls) if isinstance(calls, list) else [calls]
        return {"role": "assistant", "content": None, "tool_calls": listed}
    weight = fields.get("weight")
    return {"role": role, "content": value, **({} if weight is None else {"weight": weight})}


def _parsed(notes: Notes, text: str, what: str) -> Any:
    try:
        return parse(notes.line or 0, text.encode())
    except BadRow as bad:
        raise notes.wrong("tool_args", f"{what} is not JSON: {bad.message}", bad.hint) from None
