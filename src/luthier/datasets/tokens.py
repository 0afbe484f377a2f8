"""Text to tokens, with one promise: special tokens come from the template, never from what a row says.

A text of a row that spells a special token (`<|im_start|>system`) gets a mark inside the spelling before it is rendered; the
tokenizer then meets no special token there, and the mark is taken out again while it is tokenised as ordinary text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from tokenizers import Encoding, Tokenizer

from luthier.datasets.words import Placed, Whole, Words, token_of
from luthier.errors import BaseUnavailable

MARKS = tuple(chr(code) for code in range(0xFDD0, 0xFDF0))
"""Code points that Unicode reserves for use inside a program: no text should hold one."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch of rendered text: `encoding` is None for one special token."""

    start: int
    text: str
    offset: int
    encoding: Encoding | None


class Tokenised:
    """`Placed`, of a text in pieces: what is special, and what stands between."""

    def __init__(self, ids: list[int], pieces: Sequence[_Piece], mark: str) -> None:
        self.ids = ids
        self._pieces = pieces
        self._mark = mark

    def token_at(self, position: int) -> int:
        """See `Placed`."""
        for piece in reversed(self._pieces):
            if piece.start <= position:
                return piece.offset + self._within(piece, position - piece.start)
        return 0

    def _within(self, piece: _Piece, position: int) -> int:
        if piece.encoding is None:
            return 0
        position -= piece.text.count(self._mark, 0, position)
        token = token_of(piece.encoding, position, len(piece.text.replace(self._mark, "")))
        return len(piece.encoding.ids) if token is None else token


class Tokens:
    """The tokenizer of a base model. Safe in threads."""

    def __init__(self, tokenizer: Tokenizer, config: Mapping[str, Any]) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.named = _named(config)
        wanted = {name for value in self.named.values() for name in ([value] if isinstance(value, str) else value)}
        # What the configuration names as special is special, even where tokenizer.json says otherwise.
        tokenizer.add_special_tokens([name for name in sorted(wanted) if tokenizer.token_to_id(name) is not None])
        added = tokenizer.get_added_tokens_decoder()
        self._added = {token.content: token for token in added.values() if token.special and len(token.content) > 1}
        self.special_ids = {token.content: number for number, token in added.items() if token.special}
        longest_first = sorted(self._added, key=len, reverse=True)
        self.special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self.eos_id = self._id_of("eos_token")
        self.bos_ids = self._bos(config)
        self._words = Words.of(tokenizer)

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any]) -> Tokens:
        """The tokenizer of a model folder. Raises: BaseUnavailable where there is none that can be read."""
        path = folder / "tokenizer.json"
        try:
            text = path.read_text("utf-8")
            tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # tokenizers raises bare Exception for a file that it cannot read
            raise BaseUnavailable(
                "The base's tokenizer (tokenizer.json) is missing or cannot be read.",
                hint="Fetch the base again, or use luthier/tiny.",
            ) from error
        return cls(tokenizer, config)

    def guard(self, value: Any, mark: str) -> Any:
        """`value` with a mark in every text that spells a special token; the same object where none does."""
        if isinstance(value, str):
            return (
                self.special.sub(lambda found: found[0][0] + mark + found[0][1:], value) if self.special.search(value) else value
            )
        if isinstance(value, dict):
            return {self.guard(key, mark): self.guard(item, mark) for key, item in cast("dict[str, Any]", value).items()}
        if isinstance(value, (list, tuple)):
            return [self.guard(item, mark) for item in cast("list[Any]", value)]
        return value

    def encode(self, texts: Sequence[str]) -> Iterator[Placed]:
        """Tokens of rendered texts without marks: word by word where that is the same, else on all processors."""
        if self._words is not None:
            return self._words.tokenise(texts)
        return map(Whole, texts, self._tokenizer.encode_batch(list(texts), add_special_tokens=False))

    def ids(self, text: str) -> list[int]:
        """Tokens of one rendered text without marks; nothing of it is kept."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_marked(self, text: str, mark: str) -> Tokenised:
        """Tokens of a rendered text with marks: only unmarked special tokens count as such."""
        pieces: list[_Piece] = []
        ids: list[int] = []
        at, eats = 0, False
        for found in [*self.special.finditer(text), None]:
            stretch = text[at : found.start() if found else len(text)]
            start = at
            if eats:
                start += len(stretch) - len(stretch.lstrip())
                stretch = stretch.lstrip()
            token = self._added[found.group()] if found else None
            if token is not None and token.lstrip:
                stretch = stretch.rstrip()
            if stretch:
                encoding = self.as_text(stretch, mark)
                pieces.append(_Piece(start, stretch, len(ids), encoding))
                ids += encoding.ids
            if found and token is not None:
                pieces.append(_Piece(found.start(), found.group(), len(ids), None))
                ids.append(self.special_ids[found.group()])
                at, eats = found.end(), token.rstrip
        return Tokenised(ids, pieces, mark)

    def as_text(self, text: str, mark: str = MARKS[0]) -> Encoding:
        """Tokens of a text in which nothing is special."""
        encoding = self._plain.encode(text.replace(mark, ""), add_special_tokens=False)
        if self._special_numbers.isdisjoint(encoding.ids):
            return encoding
        # Some vocabularies spell a special token as an ordinary piece: cut at the marks, where no piece can reach across.
        parts = [self._plain.encode(part, add_special_tokens=False) for part in self.guard(text, mark).split(mark)]
        return Encoding.merge(parts, growing_offsets=True)

    def ids_as_text(self, texts: Sequence[str]) -> list[list[int]]:
        """The numbers of `as_text`, of many texts."""
        words = self._plain_words
        if words is None:
            return [self.as_text(text).ids for text in texts]
        return [
            found.ids if self._special_numbers.isdisjoint(found.ids) else self.as_text(text).ids
            for text, found in zip(texts, words.tokenise(text.replace(MARKS[0], "") for text in texts), strict=True)
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, without the special ones."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def spell(self, ids: Sequence[int]) -> str:
        """The text of tokens, with the special ones."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    @property
    def size(self) -> int:
        """Tokens of the vocabulary, added ones too."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    @property
    def word_by_word(self) -> bool:
        """Whether texts are tokenised by their words."""
        return self._words is not None

    @cached_property
    def _plain(self) -> Tokenizer:
        tokenizer = Tokenizer.from_str(self._tokenizer.to_str())
        tokenizer.encode_special_tokens = True
        return tokenizer

    @cached_property
    def _plain_words(self) -> Words | None:
        return Words.of(self._plain)

    @cached_property
    def _special_numbers(self) -> frozenset[int]:
        return frozenset(self.special_ids.values())

    def _id_of(self, name: str) -> int | None:
        content = self.named.get(name)
        return self._tokenizer.token_to_id(content) if isinstance(content, str) else None

    def _bos(self, config: Mapping[str, Any]) -> tuple[int, ...]:
        """What a plain text starts with: `bos_token`, where the tokenizer or its configuration adds one."""
        bos = self._id_of("bos_token")
        adds = config.get("add_bos_token")
        if adds is None:
            adds = bos in self._tokenizer.encode("a", add_special_tokens=True).ids
        return (bos,) if adds and bos is not None else ()


def _named(config: Mapping[str, Any]) -> dict[str, Any]:
    """The special tokens that a template may name: `bos_token`, `eos_token`, ..."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if name.endswith("_token") and not name.startswith("add_") and (content := _content(value)):
            found[name] = content
    more = config.get("additional_special_tokens") or config.get("extra_special_tokens") or []
    if isinstance(more, dict):
        more = list(cast("dict[str, Any]", more).values())
    listed = [content for value in cast("list[Any]", more) if (content := _content(value))]
    return {**found, "additional_special_tokens": listed} if listed else found


def _content(value: Any) -> str | None:
    if isinstance(value, dict):
        value = cast("dict[str, Any]", value).get("content")
    return value if isinstance(value, str) and value else None


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """A JSON file of a model folder; empty where there is none."""
    try:
        value: Any = json.loads((folder / name).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
