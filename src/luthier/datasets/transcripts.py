"""Conversations that are written as one text: `\\n\\nHuman: ...\\n\\nAssistant: ...`, as HH-RLHF has them."""

from __future__ import annotations

import re
from typing import Any

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def is_transcript(text: Any) -> bool:
    return type(text) is str and text.startswith("\n\nHuman:")


def messages_of(text: str) -> list[dict[str, Any]]:
    """The turns of a transcript, without the spaces around them.

    >>> messages_of("\\n\\nHuman: Hi\\n\\nAssistant: Yes?")
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Yes?'}]
    """
    _, *parts = _TURN.split(text)
    return [{"role": _ROLES[speaker], "content": said.strip()} for speaker, said in zip(parts[::2], parts[1::2], strict=True)]
