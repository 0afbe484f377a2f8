"""A conversation in the terminal, with one model or with two: answers on stdout, everything else on stderr."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import textwrap
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from luthier.errors import FieldInvalid, LuthierError, NotFound
from luthier.faces.cli.shown import clean, each_written, out, talk

if TYPE_CHECKING:
    from luthier.faces.sdk.answers import Completion
    from luthier.faces.sdk.client import Client

_COMMANDS = "/reset forgets the conversation, /save FILE keeps it, /exit ends."
_LEAST_COLUMN = 30
"""Narrower than this, answers stand below each other."""


@dataclass(frozen=True)
class Drawing:
    """How answers are drawn, and shown."""

    max_tokens: int
    temperature: float
    raw: bool


class Partner(Protocol):
    """Whom one talks to."""

    @property
    def name(self) -> str: ...

    def ask(self, question: str) -> None:
        """Ask, show the answer, and remember both. Raises: the server's refusal; nothing is remembered then."""
        ...

    def reset(self) -> None:
        """Forget what was said."""
        ...

    def rows(self) -> list[str]:
        """What was said, as rows of a chat dataset, so that a good conversation can be trained on."""
        ...


class Conversation:
    """What was said so far, with one model."""

    def __init__(self, client: Client, model: str, drawing: Drawing, system: str | None) -> None:
        self._client = client
        self.name = model
        self._drawing = drawing
        self._first = [] if system is None else [{"role": "system", "content": system}]
        self.messages = list(self._first)

    def ask(self, question: str) -> None:
        """See `Partner`; the answer is shown as it comes."""
        talk_so_far = [*self.messages, {"role": "user", "content": question}]
        with closing(self._pieces(talk_so_far)) as pieces:
            if self._drawing.raw:
                answer = "".join(_printed(piece) for piece in pieces)
            else:
                answer = each_written(lambda piece: out(piece, end=""), pieces)
        out("")
        self.remember(question, answer)

    def whole(self, question: str) -> Completion:
        """Ask, and wait for the whole answer."""
        drawing = self._drawing
        messages = [*self.messages, {"role": "user", "content": question}]
        return self._client.chat.answer(self.name, messages, max_tokens=drawing.max_tokens, temperature=drawing.temperature)

    def remember(self, question: str, answer: str) -> None:
        """Go on from here."""
        self.messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    def reset(self) -> None:
        """See `Partner`."""
        self.messages = list(self._first)

    def rows(self) -> list[str]:
        """See `Partner`."""
        return [json.dumps({"messages": self.messages}, ensure_ascii=False)]

    def _pieces(self, messages: list[dict[str, str]]) -> Generator[str]:
        drawing = self._drawing
        stream = self._client.chat.stream(self.name, messages, max_tokens=drawing.max_tokens, temperature=drawing.temperature)
        for chunk in stream:
            yield chunk.text


class Versus:
    """The same questions to two models, side by side; each goes on from its own answers."""

    def __init__(self, left: Conversation, right: Conversation) -> None:
        self._both = (left, right)
        self.name = f"{left.name} and {right.name}"

    def ask(self, question: str) -> None:
        """See `Partner`; both answers are shown when both are there."""
        answers = [str(each.whole(question).choices[0].message.content) for each in self._both]
        for each, answer in zip(self._both, answers, strict=True):
            each.remember(question, answer)
        columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
        out(side_by_side([(each.name, answer) for each, answer in zip(self._both, answers, strict=True)], columns))

    def reset(self) -> None:
        """See `Partner`."""
        for each in self._both:
            each.reset()

    def rows(self) -> list[str]:
        """See `Partner`: one of each model."""
        return [row for each in self._both for row in each.rows()]


def converse(partner: Partner) -> None:
    """Ask what is typed (or piped in), line by line, until the end of the input."""
    interactive = sys.stdin.isatty()
    if interactive:
        talk(f"Talking to {clean(partner.name)}. {_COMMANDS}")
    while True:
        line = _read(prompt=interactive)
        if line is None or line.strip() == "/exit":
            return
        if line.strip().startswith("/"):
            _obey(partner, line.strip())
        elif line.strip():
            _ask_on(partner, line.strip(), interactive=interactive)


def side_by_side(answers: Iterable[tuple[str, str]], columns: int) -> str:
    """Named answers in as many columns; one below the other where there is no room for that.

    >>> print(side_by_side([("a", "yes"), ("b", "no, never")], 63))
    a                               b
    yes                             no, never
    """
    named = [(clean(name), clean(answer)) for name, answer in answers]
    width = (columns - 2 * (len(named) - 1)) // len(named)
    if width < _LEAST_COLUMN:
        return "\n\n".join(f"{name}:\n{answer}" for name, answer in named)
    wrapped = [
        [part for line in (name, *answer.splitlines()) for part in textwrap.wrap(line, width) or [""]] for name, answer in named
    ]
    lines = itertools.zip_longest(*wrapped, fillvalue="")
    return "\n".join("  ".join(cell.ljust(width) for cell in line).rstrip() for line in lines)


def _ask_on(partner: Partner, question: str, *, interactive: bool) -> None:
    """Ask; somebody at a terminal may go on after a refusal or Ctrl-C."""
    try:
        partner.ask(question)
    except KeyboardInterrupt:
        if not interactive:
            raise
        out("")
        talk("Stopped. The question is forgotten.")
    except LuthierError as error:
        if not interactive or isinstance(error, NotFound):
            raise
        talk(f"Error: {clean(error)}")
        if isinstance(error, FieldInvalid) and error.error_code == "context_length":
            talk("/reset makes room.")


def _obey(partner: Partner, line: str) -> None:
    command, _, rest = line.partition(" ")
    if command == "/reset":
        partner.reset()
        talk("Forgotten.")
    elif command == "/save" and rest.strip():
        _save(partner, Path(rest.strip()))
    else:
        talk(_COMMANDS)


def _save(partner: Partner, path: Path) -> None:
    """Never over a file that is there."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.writelines(f"{row}\n" for row in partner.rows())
    except OSError as error:
        talk(f"{clean(path)} cannot be written: {error.strerror}.")
        return
    talk(f"Saved to {clean(path)}.")


def _read(*, prompt: bool) -> str | None:
    if prompt:
        sys.stderr.write("> ")
        sys.stderr.flush()
    line = sys.stdin.readline()
    return line if line else None


def _printed(piece: str) -> str:
    out(piece, end="")
    return piece
