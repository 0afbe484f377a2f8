"""Rows that hold no answer to copy: pairs of answers, rated answers, and prompts that are answered in training.

A prompt is a list of messages or a text. Lists go through the base's chat template; texts go through none, like the rows of
`prompt` and `completion`. Where only one side is a list, a text is the message that belongs there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NoReturn, cast

from luthier.datasets.chat import Notes, read_messages, read_tools, with_system
from luthier.datasets.examples import MAX_DEPTH, Example, Message, Pair, Prompt, Rated
from luthier.datasets.strict_json import depth_of
from luthier.datasets.transcripts import is_transcript, messages_of

_PROMPT = frozenset({"prompt", "tools", "item"})


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer as the row has it, what the row calls it, and whether it is to be made likelier."""

    name: str
    given: Any
    good: bool


def pair(notes: Notes, row: dict[str, Any]) -> Pair:
    """`prompt`, `chosen`, `rejected`: texts or lists of messages. Raises: BadRow."""
    prompt = _given(notes, row, "prompt")
    answers = _answers(notes, row, "chosen", "rejected")
    if isinstance(answers[0].given, list) != isinstance(answers[1].given, list):
        raise notes.wrong("mixed_schema", "One answer is a text, the other a list.", "Write both as texts, or both as lists.")
    if _repeats(prompt, answers):
        return whole_pair(notes, row)
    return _pair(notes, prompt, answers, row.get("tools"))


def whole_pair(notes: Notes, row: dict[str, Any]) -> Pair:
    """`chosen` and `rejected` as whole conversations: what they share, up to the answer, is the prompt. Raises: BadRow."""
    chosen, rejected = _whole(notes, row, "chosen"), _whole(notes, row, "rejected")
    shared = _shared(chosen, rejected)
    if not shared or _leaves_the_prompt(chosen[shared:]) or _leaves_the_prompt(rejected[shared:]):
        _prompts_differ(notes)
    answers = [_Answer("chosen", list(chosen[shared:]), good=True), _Answer("rejected", list(rejected[shared:]), good=False)]
    return _pair(notes, list(chosen[:shared]), answers, row.get("tools"))


def openai_pair(notes: Notes, row: dict[str, Any]) -> Pair:
    """`input`, `preferred_output`, `non_preferred_output`, each output one message of the assistant. Raises: BadRow."""
    asked = _given(notes, row, "input")
    if not isinstance(asked, dict) or not isinstance(cast("dict[str, Any]", asked).get("messages"), list):
        raise notes.wrong("bad_type", "`input` holds no list `messages`.", 'Write {"messages": [...]}.')
    answers = _answers(notes, row, "preferred_output", "non_preferred_output")
    for answer in answers:
        if not isinstance(answer.given, list):
            raise notes.wrong("bad_type", f"`{answer.name}` is not a list.", 'Write [{"role": "assistant", "content": ...}].')
        if len(cast("list[Any]", answer.given)) != 1:
            raise notes.wrong("bad_value", f"`{answer.name}` does not hold exactly one message.", "Write the one answer.")
    fields = cast("dict[str, Any]", asked)
    return _pair(notes, fields["messages"], answers, fields.get("tools"))


def rated(notes: Notes, row: dict[str, Any]) -> Rated:
    """`prompt`, `completion` and whether that was good, `label`. Raises: BadRow."""
    label = row.get("label")
    if label is None:
        raise notes.wrong("missing_label", "The row lacks `label`.", "Write true for a good answer, false for a bad one.")
    if not isinstance(label, bool):
        raise notes.wrong("bad_type", "`label` is neither true nor false.", "Write true or false, without quotes.")
    answer = _Answer("completion", _given(notes, row, "completion"), good=label)
    (example,) = _examples(notes, _given(notes, row, "prompt"), [answer], row.get("tools"))
    return Rated(example, label, notes.line)


def prompt(notes: Notes, row: dict[str, Any]) -> Prompt:
    """`prompt`; all other fields are for the grader, or those inside `item` where nothing else is there. Raises: BadRow."""
    item = {name: value for name, value in row.items() if name not in {"prompt", "tools"}}
    if row.keys() <= _PROMPT and isinstance(row.get("item"), dict):
        item = row["item"]
    return _prompt(notes, _given(notes, row, "prompt"), row.get("tools"), item)


def openai_prompt(notes: Notes, row: dict[str, Any]) -> Prompt:
    """`messages` that end with the user's; all other fields are for the grader. Raises: BadRow."""
    item = {name: value for name, value in row.items() if name not in {"messages", "tools"}}
    given = _given(notes, row, "messages")
    if not isinstance(given, list):
        raise notes.wrong("bad_type", "`messages` is not a list.", 'Write a list of objects: [{"role": ..., "content": ...}].')
    return _prompt(notes, with_system(notes, row), row.get("tools"), item)


def text_of(notes: Notes, row: Mapping[str, Any], name: str) -> str:
    """A field that must be a text. Raises: BadRow."""
    value = _given(notes, row, name)
    if type(value) is not str:
        raise notes.wrong("bad_type", f"`{name}` is not a text.", "Write it in quotes.")
    return value


def _given(notes: Notes, row: Mapping[str, Any], name: str) -> Any:
    if name not in row:
        raise notes.wrong("missing_field", f"The row lacks `{name}`.", "Write it, or remove the row.")
    if row[name] is None:
        raise notes.wrong("missing_field", f"`{name}` is null.", "Write the text, or remove the row.")
    return row[name]


# -- prompts -----------------------------------------------------------------------------------------------------------


def _prompt(notes: Notes, given: Any, tools: Any, item: Mapping[str, Any]) -> Prompt:
    if depth_of(item) > MAX_DEPTH - 1:
        raise notes.wrong("too_deep", "The fields for the grader nest too deep.", "Flatten them.")
    if type(given) is str:
        if not given.strip():
            raise notes.wrong("empty_content", "The prompt is empty: there is nothing to answer.", "Write it, or remove the row.")
        return Prompt(item, text=given, line=notes.line)
    messages = _asked(notes, given)
    if all(not message["content"].strip() for message in messages if message["role"] == "user"):
        raise notes.wrong("empty_content", "The user's messages are empty.", "Write what is asked, or remove the row.")
    return Prompt(item, messages=messages, tools=read_tools(notes, tools, messages), line=notes.line)


def _asked(notes: Notes, given: Any) -> tuple[Message, ...]:
    """A prompt as messages, none of which is learned. Raises: BadRow."""
    if not isinstance(given, list):
        raise notes.wrong("bad_type", "The prompt is neither a text nor a list of messages.", "Write one of these.")
    if not given:
        raise notes.wrong("empty_content", "The prompt holds no message.", "Write what is asked, or remove the row.")
    messages = _unweighted(read_messages(notes, given))
    if messages[-1]["role"] not in {"user", "tool"}:
        raise notes.wrong(
            "last_not_user", "The last message of the prompt is not the user's.", "End it with what is to be answered."
        )
    return messages


# -- answers -----------------------------------------------------------------------------------------------------------


def _answers(notes: Notes, row: Mapping[str, Any], chosen: str, rejected: str) -> list[_Answer]:
    return [_Answer(chosen, _given(notes, row, chosen), good=True), _Answer(rejected, _given(notes, row, rejected), good=False)]


def _pair(notes: Notes, prompt: Any, answers: Sequence[_Answer], tools: Any) -> Pair:
    chosen, rejected = _examples(notes, prompt, answers, tools)
    if chosen == rejected:
        said = "Both answers are the same: nothing is learned from the pair."
        notes.remark("no_preference", said, "Remove the row, or change one of them.")
    return Pair(chosen, rejected, notes.line)


def _examples(notes: Notes, prompt: Any, answers: Sequence[_Answer], tools: Any) -> list[Example]:
    """The prompt with each answer, of which only the answer is learned. Raises: BadRow."""
    if type(prompt) is str and all(type(answer.given) is str for answer in answers):
        if not prompt.strip():
            notes.remark("empty_content", "The prompt is empty.", "Write what is answered, or remove the row.")
        for answer in answers:
            _check_filled(notes, answer, filled=bool(answer.given.strip()))
        return [Example(prompt=prompt, completion=answer.given, line=notes.line) for answer in answers]
    asked = _asked(notes, [{"role": "user", "content": prompt}] if type(prompt) is str else prompt)
    turns = [_turn(notes, answer, asked[-1]["role"]) for answer in answers]
    offered = read_tools(notes, tools, [*asked, *chain.from_iterable(turns)])
    shown = [{**message, "weight": 0} if message["role"] == "assistant" else message for message in asked]
    return [Example(messages=(*shown, *turn), tools=offered, line=notes.line) for turn in turns]


def _turn(notes: Notes, answer: _Answer, after: str) -> tuple[Message, ...]:
    """One turn: messages of the assistant, with tools' results between them. Raises: BadRow."""
    given: Any = [{"role": "assistant", "content": answer.given}] if type(answer.given) is str else answer.given
    if not isinstance(given, list):
        raise notes.wrong("bad_type", f"`{answer.name}` is neither a text nor a list of messages.", "Write one of these.")
    within = Notes(notes.line, notes.remarks, f"In `{answer.name}`: ", notes.unread)
    turn = _unweighted(read_messages(within, given, after=after))
    if not turn or turn[0]["role"] != "assistant" or turn[-1]["role"] != "assistant" or _holds(turn, "user"):
        said = f"`{answer.name}` is not a turn of the assistant's."
        raise notes.wrong("bad_value", said, "Put what comes before the answer into the prompt.")
    said_nothing = any(
        not message["content"].strip() and "tool_calls" not in message for message in turn if message["role"] == "assistant"
    )
    _check_filled(notes, answer, filled=not said_nothing)
    return turn


def _check_filled(notes: Notes, answer: _Answer, *, filled: bool) -> None:
    """What is to be made likelier must not be empty; what is to be made less likely may be. Raises: BadRow."""
    if filled:
        return
    if answer.good:
        raise notes.wrong("empty_content", f"`{answer.name}` is empty.", "Write the answer, or remove the row.")
    notes.remark("empty_content", f"`{answer.name}` is empty.", "Remove the row, unless silence is what should be unlearned.")


def _unweighted(messages: Sequence[Message]) -> tuple[Message, ...]:
    return tuple({name: value for name, value in message.items() if name != "weight"} for message in messages)


def _holds(messages: Sequence[Message], role: str) -> bool:
    return any(message["role"] == role for message in messages)


# -- whole conversations -----------------------------------------------------------------------------------------------


def _repeats(prompt: Any, answers: Sequence[_Answer]) -> bool:
    """Whether the answers are whole conversations that start with the prompt once more."""
    asked = [{"role": "user", "content": prompt}] if type(prompt) is str else prompt
    if not isinstance(asked, list) or not asked:
        return False
    opening = cast("list[Any]", asked)
    return all(
        isinstance(answer.given, list) and cast("list[Any]", answer.given)[: len(opening)] == opening for answer in answers
    )


def _whole(notes: Notes, row: Mapping[str, Any], name: str) -> tuple[Message, ...]:
    given = _given(notes, row, name)
    if is_transcript(given):
        given = messages_of(given)
    if type(given) is str:
        raise notes.wrong(
            "missing_field",
            f"`{name}` is a text, and there is no `prompt`.",
            "Write `prompt`, and in the answers what follows it.",
        )
    return _unweighted(read_messages(Notes(notes.line, about=f"In `{name}`: ", unread=notes.unread), given))


def _shared(chosen: Sequence[Message], rejected: Sequence[Message]) -> int:
    """How many messages both start with, up to where an answer begins."""
    apart = (at for at, (one, other) in enumerate(zip(chosen, rejected, strict=False)) if one != other)
    shared = next(apart, min(len(chosen), len(rejected)))
    while shared and chosen[shared - 1]["role"] == "assistant":
        shared -= 1
    return shared


def _leaves_the_prompt(answer: Sequence[Message]) -> bool:
    return not answer or answer[0]["role"] != "assistant" or _holds(answer, "user")


def _prompts_differ(notes: Notes) -> NoReturn:
    raise notes.wrong(
        "prompts_differ",
        "The two conversations differ before the last answer, so they are no answers to one prompt.",
        "Write the same messages in both, and two answers after them; or remove the row.",
    )
