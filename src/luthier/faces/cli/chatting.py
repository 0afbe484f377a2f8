"""A conversation in the terminal: answers on stdout as they come, everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.errors import FieldInvalid, LuthierError, NotFound
from luthier.faces.cli.shown import clean, each_written, out, talk

if TYPE_CHECKING:
    from luthier.faces.sdk.answers import Completion
    from luthier.faces.sdk.client import Client

_COMMANDS = "/reset forgets the conversation, /save FILE keeps it, /exit ends."


@dataclass(frozen=True)
class Drawing:
    """How answers are drawn, and shown."""

    max_tokens: int
    temperature: float
    raw: bool


class Conversation:
    """What was said so far, with one model."""

    def __init__(self, client: Client, model: str, drawing: Drawing, system: str | None) -> None:
        self._client = client
        self._model = model
        self._drawing = drawing
        self._first = [] if system is None else [{"role": "system", "content": system}]
        self.messages = list(self._first)

    def loop(self) -> None:
        """Ask what is typed (or piped in), line by line, until the end of the input."""
        interactive = sys.stdin.isatty()
        if interactive:
            talk(f"Talking to {clean(self._model)}. {_COMMANDS}")
        while True:
            line = _read(prompt=interactive)
            if line is None or line.strip() == "/exit":
                return
            if line.strip().startswith("/"):
                self._obey(line.strip())
            elif line.strip():
                self._ask_on(line.strip(), interactive=interactive)

    def ask(self, question: str) -> None:
        """Ask, print the answer as it comes, and remember both. Raises: the server's refusal; nothing is remembered then."""
        talk_so_far = [*self.messages, {"role": "user", "content": question}]
        with closing(self._pieces(talk_so_far)) as pieces:
            if self._drawing.raw:
                answer = "".join(_printed(piece) for piece in pieces)
            else:
                answer = each_written(lambda piece: out(piece, end=""), pieces)
        out("")
        self.messages = [*talk_so_far, {"role": "assistant", "content": answer}]

    def whole(self, question: str) -> Completion:
        """Ask, and wait for the whole answer."""
        drawing = self._drawing
        messages = [*self.messages, {"role": "user", "content": question}]
        return self._client.chat.answer(self._model, messages, max_tokens=drawing.max_tokens, temperature=drawing.temperature)

    def _ask_on(self, question: str, *, interactive: bool) -> None:
        """Ask; somebody at a terminal may go on after a refusal or Ctrl-C."""
        try:
            self.ask(question)
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

    def _pieces(self, messages: list[dict[str, str]]) -> Generator[str]:
        drawing = self._drawing
        stream = self._client.chat.stream(self._model, messages, max_tokens=drawing.max_tokens, temperature=drawing.temperature)
        for chunk in stream:
            yield chunk.text

    def _obey(self, line: str) -> None:
        command, _, rest = line.partition(" ")
        if command == "/reset":
            self.messages = list(self._first)
            talk("Forgotten.")
        elif command == "/save" and rest.strip():
            self._save(Path(rest.strip()))
        else:
            talk(_COMMANDS)

    def _save(self, path: Path) -> None:
        """As one line of a chat dataset, so that a good conversation can be trained on. Never over a file that is there."""
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(json.dumps({"messages": self.messages}, ensure_ascii=False) + "\n")
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
