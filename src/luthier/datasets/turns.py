"""Where the assistant's turns stand in a rendered conversation: from the end of the generation prompt to the end-of-turn token.

That is exactly what the model must write when it is served: the prompt ends with the same text, and generation ends at the
same token. What a template puts after the end-of-turn token (often a line break) is never generated and carries no loss.

Two ways, both checked. Where the generation prompt holds a special token (`<|im_start|>assistant\\n`), no text of a row can
spell it, so each occurrence is one assistant turn. For other templates (`[INST]`, `Assistant:`) the conversation is rendered
a second time with known words in place of the answers, and the two texts are laid side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from luthier.datasets.examples import Message
from luthier.datasets.templates import ChatTemplate
from luthier.datasets.tokens import Tokens
from luthier.errors import Invalid

Span = tuple[int, int]


class Turns:
    """Finds turns in what one template renders. Raises: Invalid `template` at once for a template that cannot be trained on."""

    def __init__(self, template: ChatTemplate, tokens: Tokens) -> None:
        self._template = template
        self._tokens = tokens
        self._ends: frozenset[str] = frozenset()
        asked = {"role": "user", "content": "zqQuestion"}
        answered = {"role": "assistant", "content": "zqAnswer"}
        self.end_token = self._end_of(template.render([asked, answered], None))
        self._ends = frozenset({self.end_token, *([eos] if (eos := tokens.named.get("eos_token")) else [])})
        self._opening = self._opening_of(template.render([asked], None), template.render([asked], None, prompt=True))
        self._opening_is_special = tokens.special.search(self._opening) is not None
        self.spans([asked, answered, asked, answered], None, template.render([asked, answered, asked, answered], None))

    def spans(self, messages: Sequence[Message], tools: Sequence[Any] | None, text: str) -> list[Span]:
        """The span in `text`, the rendered conversation, of each assistant message, end-of-turn token included.

        Raises: Invalid `template` where they cannot be told for certain.
        """
        answers = [message for message in messages if message["role"] == "assistant"]
        found = None
        if self._opening_is_special and text.count(self._opening) == len(answers):
            found = self._by_opening(text)
        if found is None or not _covers(text, found, answers):
            found = self._by_outline(messages, tools, text, answers)
            if not _covers(text, found, answers):
                raise _unclear("an answer is missing from what it renders")
        return found

    def _by_opening(self, text: str) -> list[Span] | None:
        found: list[Span] = []
        at = text.find(self._opening)
        while at >= 0:
            start = at + len(self._opening)
            end = self._end_after(text, start)
            if end is None:
                return None
            found.append((start, end))
            at = text.find(self._opening, end)
        return found

    def _by_outline(
        self, messages: Sequence[Message], tools: Sequence[Any] | None, text: str, answers: Sequence[Message]
    ) -> list[Span]:
        root = "zqTurn"
        while root in text:
            root += "z"
        known = iter(f"{root}{number}q" for number in range(len(answers)))
        outline = self._template.render(
            [{**message, "content": next(known)} if message["role"] == "assistant" else message for message in messages], tools
        )
        found: list[Span] = []
        at = end = 0
        for number in range(len(answers)):
            spot = outline.find(f"{root}{number}q", at)
            if spot < 0:
                raise _unclear("it does not show every answer")
            between = outline[at:spot]
            if not text.startswith(between, end):
                raise _unclear("it writes a turn differently when another turn changes")
            opened = between.rfind(self._opening) if self._opening else -1
            start = end + (opened + len(self._opening) if opened >= 0 else len(between))
            stops, stop = self._end_after(text, end + len(between)), self._end_after(outline, spot)
            if stops is None or stop is None:
                raise _unclear("an answer has no end-of-turn token")
            found.append((start, stops))
            at, end = stop, stops
        if outline[at:] != text[end:]:
            raise _unclear("it writes a turn differently when another turn changes")
        return found

    def _opening_of(self, closed: str, opened: str) -> str:
        """The generation prompt: where the two texts part, back to the start of a special token that lies across."""
        apart = (number for number, (one, other) in enumerate(zip(closed, opened, strict=False)) if one != other)
        at = next(apart, min(len(closed), len(opened)))
        across = (match.start() for match in self._tokens.special.finditer(opened) if match.start() < at < match.end())
        return opened[next(across, at) :]

    def _end_after(self, text: str, start: int) -> int | None:
        """Where the first end-of-turn token at or after `start` ends."""
        for match in self._tokens.special.finditer(text, start):
            if match.group() in self._ends:
                return match.end()
        return None

    def _end_of(self, probe: str) -> str:
        """The special token right after an answer."""
        if probe.count("zqAnswer") != 1:
            raise _unclear("it does not show the answer exactly once")
        rest = probe[probe.index("zqAnswer") + len("zqAnswer") :].lstrip()
        match = self._tokens.special.match(rest)
        if match is None:
            raise _unclear("no end-of-turn token follows an answer")
        return match.group()


def _covers(text: str, spans: Sequence[Span], answers: Sequence[Mapping[str, Any]]) -> bool:
    """Whether each span holds its own answer (or what the template keeps of it: some drop the thinking before `</think>`)."""
    return len(spans) == len(answers) and all(
        answer["content"].rpartition("</think>")[2].strip() in text[start:end]
        for (start, end), answer in zip(spans, answers, strict=True)
    )


def _unclear(why: str) -> Invalid:
    return Invalid(
        f"The tokens to learn cannot be found in what the base's chat template renders: {why}.",
        hint="Use a base whose template ends each answer with a special token, or prompt/completion rows.",
        code="template",
    )
