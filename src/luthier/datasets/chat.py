"""Conversations: the messages and tools of a row, checked and brought into one form.

The form: every message has `role` and `content` as text; the arguments of a tool call are an object, as templates want them
(OpenAI writes them as a string of JSON); absent and null fields are gone; fields that no template reads are gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from luthier.datasets.examples import MAX_DEPTH, BadRow, Message, Remark, is_learned
from luthier.datasets.strict_json import depth_of, parse

ROLES = frozenset({"system", "user", "assistant", "tool"})
_KNOWN = "system, user, assistant, tool, in small letters (human is user; gpt, bot and model are assistant)"
_PLAIN = frozenset({"role", "content"})
_FIELDS = _PLAIN | {"tool_calls", "function_call", "name", "tool_call_id", "weight", "loss_weight"}
_ARGUMENTS_DEPTH = MAX_DEPTH - 8
"""Arguments that came as a string lie deeper once they are an object, and must still be readable then."""


@dataclass(slots=True)
class Notes:
    """What is found in one row: remarks are collected, the first error ends the reading."""

    line: int | None
    remarks: list[Remark] = field(default_factory=list[Remark])
    about: str = ""
    """What goes before each message, where a row holds more than one conversation."""
    unread: set[str] = field(default_factory=set[str])
    """Fields of its messages that no template reads."""

    def wrong(self, code: str, message: str, fix: str) -> BadRow:
        return BadRow(self.line, code, self.about + message, fix)

    def remark(self, code: str, message: str, fix: str) -> None:
        self.remarks.append(Remark(code, self.about + message, fix))


def with_system(notes: Notes, row: Mapping[str, Any]) -> Any:
    """The messages of a row that may hold its system message beside them, as Anthropic has it."""
    messages, system = row["messages"], row.get("system")
    if not system or not isinstance(messages, list):
        return messages
    first = cast("list[Any]", messages)[0] if messages else None
    if isinstance(first, dict) and cast("dict[str, Any]", first).get("role") == "system":
        notes.remark("bad_value", "The row has `system` and a system message: the message is read.", "Keep one of them.")
        return cast("list[Any]", messages)
    return [{"role": "system", "content": system}, *cast("list[Any]", messages)]


def read_messages(notes: Notes, messages: Any, *, after: str | None = None) -> tuple[Message, ...]:
    """All messages in one form; `after` is the role of the message before them. Raises: BadRow."""
    if not isinstance(messages, list):
        raise notes.wrong("bad_type", "`messages` is not a list.", 'Write a list of objects: [{"role": ..., "content": ...}].')
    read = tuple(_message(notes, number, message) for number, message in enumerate(cast("list[Any]", messages)))
    check_order(notes, read, after)
    _check_results(notes, read)
    return read


def _check_results(notes: Notes, messages: Sequence[Message]) -> None:
    """Results say which call they answer; where both say it, it must be a call that was made."""
    made: set[Any] = set()
    for number, message in enumerate(messages, 1):
        made.update(call["id"] for call in message.get("tool_calls", ()) if "id" in call)
        if made and message["role"] == "tool" and message.get("tool_call_id") not in {*made, None}:
            said = f"Message {number} is the result of a tool call that was not made."
            notes.remark("tool_result", said, "Give it the `tool_call_id` that the call has as `id`.")


def read_tools(notes: Notes, tools: Any, messages: Sequence[Message]) -> tuple[Mapping[str, Any], ...] | None:
    """The tools of a row, or None; a called tool that is not among them is remarked. Raises: BadRow."""
    if tools is not None and not isinstance(tools, list):
        raise notes.wrong("bad_type", "`tools` is not a list.", 'Write a list: [{"type": "function", "function": {...}}].')
    offered = cast("list[Any]", tools or [])
    names = {_tool_name(notes, tool) for tool in offered}
    for message in messages:
        for call in message.get("tool_calls", ()):
            if call["function"]["name"] not in names:
                notes.remark("tool_unknown", "A tool is called that `tools` does not list.", "List every tool that is called.")
                return tuple(offered) or None
    return tuple(offered) or None


def check_target(notes: Notes, messages: Sequence[Message]) -> None:
    """There is an answer to learn, and none is empty. Raises: BadRow."""
    learned = False
    for message in messages:
        if is_learned(message):
            if not message["content"].strip() and "tool_calls" not in message:
                raise notes.wrong("empty_content", "An assistant message is empty: there is nothing to learn.", "Remove the row.")
            learned = True
    if not learned:
        raise notes.wrong("no_target", "No assistant message: there is nothing to learn.", "Add the answer, or remove the row.")
    if messages[-1]["role"] != "assistant":
        notes.remark(
            "last_not_assistant", "The last message is not the assistant's: nothing is learned from it.", "Add the answer."
        )


def _message(notes: Notes, number: int, message: Any) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise notes.wrong("bad_type", f"Message {number + 1} is not an object.", "Write an object with `role` and `content`.")
    given = cast("dict[str, Any]", message)
    role = _role(notes, number, given)
    content = given.get("content")
    if type(content) is str and given.keys() == _PLAIN:
        read: dict[str, Any] = {"role": role, "content": content}
    else:
        read = _full_message(notes, number, role, given)
    if role == "user" and not read["content"].strip():
        notes.remark("empty_content", f"Message {number + 1}, of the user, is empty.", "Write what was asked, or remove the row.")
    return read


def _role(notes: Notes, number: int, message: dict[str, Any]) -> str:
    role = message.get("role")
    if type(role) is str and role in ROLES:
        return role
    if role is None:
        raise notes.wrong("missing_role", f"Message {number + 1} has no role.", f"The roles are {_KNOWN}.")
    if role == "developer":
        return "system"
    raise notes.wrong("roles", f"Message {number + 1} has a role that is not known.", f"The roles are {_KNOWN}.")


def _full_message(notes: Notes, number: int, role: str, given: dict[str, Any]) -> dict[str, Any]:
    if given.get("function_call") is not None:
        raise notes.wrong("bad_value", "`function_call` is the old form of a tool call.", "Write it as `tool_calls`.")
    read: dict[str, Any] = {"role": role}
    calls = _tool_calls(notes, number, given.get("tool_calls"))
    if calls and role != "assistant":
        raise notes.wrong("bad_value", f"Message {number + 1} has `tool_calls` but is not the assistant's.", "Move them there.")
    read["content"] = _content(notes, number, given.get("content"), may_lack=bool(calls))
    if calls:
        read["tool_calls"] = calls
    for name in ("name", "tool_call_id"):
        value = given.get(name)
        if value is not None:
            if type(value) is not str:
                raise notes.wrong("bad_type", f"`{name}` of message {number + 1} is not a text.", "Write it in quotes.")
            read[name] = value
    notes.unread |= {f"messages.{name}" for name in given.keys() - _FIELDS if given[name] is not None}
    if given.get("weight") is not None:
        _weigh(notes, read, given["weight"])
    elif role == "assistant" and given.get("loss_weight") is not None:
        _weigh(notes, read, given["loss_weight"])
    return read


def _weigh(notes: Notes, read: dict[str, Any], weight: Any) -> None:
    if isinstance(weight, bool) or weight not in (0, 1):
        raise notes.wrong("bad_value", "`weight` is neither 0 nor 1.", "1 learns an assistant message, 0 only shows it.")
    if read["role"] == "assistant":
        read["weight"] = int(weight)
    else:
        notes.remark("bad_value", "`weight` is only for the assistant's messages.", "Leave it out elsewhere.")


def _content(notes: Notes, number: int, content: Any, *, may_lack: bool) -> str:
    if type(content) is str:
        return content
    if content is None:
        if may_lack:
            return ""
        raise notes.wrong("missing_field", f"Message {number + 1} has no content.", "Write the text, or remove the message.")
    if not isinstance(content, list):
        raise notes.wrong("bad_type", f"The content of message {number + 1} is not a text.", "Write it in quotes.")
    texts: list[str] = []
    for part in cast("list[Any]", content):
        if not isinstance(part, dict):
            raise notes.wrong(
                "bad_type", f"A content part of message {number + 1} is not an object.", "Write objects with `type`."
            )
        fields = cast("dict[str, Any]", part)
        if fields.get("type", "text") != "text":
            raise notes.wrong(
                "bad_value", f"Message {number + 1} holds a part that is not text.", "Only parts of type text are read."
            )
        text = fields.get("text", fields.get("value"))
        if type(text) is not str:
            raise notes.wrong("bad_type", f"A text part of message {number + 1} has no text.", "Write it in quotes.")
        texts.append(text)
    return "".join(texts)


def _tool_calls(notes: Notes, number: int, calls: Any) -> list[dict[str, Any]]:
    if calls is None:
        return []
    if not isinstance(calls, list):
        raise notes.wrong("bad_type", f"`tool_calls` of message {number + 1} is not a list.", "Write a list of calls.")
    return [_tool_call(notes, number, call) for call in cast("list[Any]", calls)]


def _tool_call(notes: Notes, number: int, call: Any) -> dict[str, Any]:
    fields = cast("dict[str, Any]", call) if isinstance(call, dict) else {}
    function = fields.get("function", fields)
    name = cast("dict[str, Any]", function).get("name") if isinstance(function, dict) else None
    if type(name) is not str or not name:
        raise notes.wrong(
            "bad_type",
            f"A tool call of message {number + 1} names no function.",
            'Write {"type": "function", "function": {"name": ..., "arguments": ...}}.',
        )
    arguments = _arguments(notes, number, cast("dict[str, Any]", function).get("arguments"))
    read: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": arguments}}
    if type(fields.get("id")) is str:
        read["id"] = fields["id"]
    return read


def _arguments(notes: Notes, number: int, arguments: Any) -> dict[str, Any]:
    value = {} if arguments is None or arguments == "" else arguments
    for _ in range(2):
        if type(value) is str:
            try:
                value = parse(0, value.encode())
            except BadRow as bad:
                raise notes.wrong(
                    "tool_args", f"The arguments of a tool call of message {number + 1} are not JSON: {bad.message}", bad.hint
                ) from None
            if type(value) is str:
                notes.remark("tool_args", f"Arguments of message {number + 1} are encoded twice.", "Encode them once.")
    if not isinstance(value, dict):
        raise notes.wrong(
            "tool_args", f"The arguments of a tool call of message {number + 1} are not an object.", "Write one JSON object."
        )
    if depth_of(value) > _ARGUMENTS_DEPTH:
        raise notes.wrong(
            "too_deep", f"The arguments of a tool call of message {number + 1} nest too deep.", "Flatten them, or remove the row."
        )
    return cast("dict[str, Any]", value)


def _tool_name(notes: Notes, tool: Any) -> str:
    fields = cast("dict[str, Any]", tool) if isinstance(tool, dict) else {}
    function = fields.get("function", fields)
    name = cast("dict[str, Any]", function).get("name") if isinstance(function, dict) else None
    if type(name) is not str:
        raise notes.wrong("bad_type", "An entry of `tools` names no function.", 'Write {"type": "function", "function": {...}}.')
    return name


def check_order(notes: Notes, messages: Sequence[Message], before: str | None) -> None:
    """System first, tool results after a call; the rest is only remarked. Raises: BadRow."""
    for number, message in enumerate(messages):
        role = message["role"]
        if role == "system" and before not in {None, "system"}:
            raise notes.wrong("roles", f"Message {number + 1} is the system's, but not the first.", "Put it at the start.")
        called = before == "tool" or (before == "assistant" and number and "tool_calls" in messages[number - 1])
        if role == "tool" and not called:
            raise notes.wrong(
                "roles",
                f"Message {number + 1} is a tool's result, but no tool was called before it.",
                "Add the call as `tool_calls`.",
            )
        if role != "tool" and number and messages[number - 1].get("tool_calls"):
            said = f"The tool that message {number} calls gives no result."
            notes.remark("tool_result", said, "Add it after the call, as a message of the role tool.")
        elif role == before and role in {"user", "assistant"}:
            notes.remark("roles", f"Messages {number} and {number + 1} are of the same role.", "Join them into one.")
        elif role == "assistant" and before is None and len(messages) > 1:
            notes.remark("roles", "The conversation starts with the assistant.", "Start with the user's message.")
        before = role
