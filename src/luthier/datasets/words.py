"""Tokens of a text by its words, each of which is tokenised once.

Most tokenizers of today cut a text before they look for tokens, and always cut where a space follows something else. So the
tokens of a text are those of its parts between such spaces, one after another, and texts repeat their words: looking those up is
several times as fast as the library on the whole text. `Words.of` says for which tokenizers this holds; what they make of a word
is always the library's own answer. Equal tokens are held by tests/datasets/test_words.py.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Protocol, cast

from tokenizers import Encoding, Tokenizer
from tokenizers.models import BPE

_WORD = re.compile(r"\s*\S+(?:[^\S ]\s*\S*)*|\s+")
"""Up to the next space that follows something else. A line break may belong to what it follows: no cut there."""
_OTHER_SPACES = re.compile("[^\\S \t\r\n]|[\u180e\u200b\u2060\ufeff]")
"""Of which programs differ whether they are spaces."""
_CONTRACTED = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_SIGNS, _SIGNS_AND_SLASHES = r" ?[^\s\p{L}\p{N}]+[\r\n]*", r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
CUTS: Mapping[str, str] = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama3": rf"{_CONTRACTED}|{_LETTERS}|\p{{N}}{{1,3}}|{_SIGNS}|{_SPACES}",
    "qwen2": rf"{_CONTRACTED}|{_LETTERS}|\p{{N}}|{_SIGNS}|{_SPACES}",
    "o200k": "|".join([*(f"{cased}{_CONTRACTED}?" for cased in _CASED), r"\p{N}{1,3}", _SIGNS_AND_SLASHES, _SPACES]),
    "tekken": "|".join([*_CASED, r"\p{N}", _SIGNS_AND_SLASHES, _SPACES]),
}
"""Regular expressions of which no match goes on across a space that follows something else, by who brought them."""
_MOST = 6 * 1024 * 1024
_ENTRY = 64
"""What is kept: characters, and what an entry adds to them. All of it takes about 16 MiB."""
_MOST_ENCODINGS = 1024
_ID_BYTES = 4


class Words:
    """What one tokenizer makes of words. Safe in threads.

    `apart`: texts that are a token each wherever they stand, and its number.
    """

    def __init__(self, tokenizer: Tokenizer, apart: Mapping[str, int]) -> None:
        self._tokenizer = tokenizer
        longest_first = sorted(apart, key=len, reverse=True)
        self._apart = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")
        self._numbers = {content: _packed([number]) for content, number in apart.items()}
        self._known = _Known(tokenizer, self._numbers)
        self._encodings: dict[str, Encoding] = {}

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Words | None:
        """None where a token may reach across a space, or where this code cannot tell."""
        added = tokenizer.get_added_tokens_decoder()
        if not _cuts_at_spaces(tokenizer) or any(
            token.lstrip or token.rstrip or token.single_word or re.search(r"\S ", token.content) for token in added.values()
        ):
            return None
        # Others are looked for later, in normalised text; and a special token that counts as text still hides those inside it.
        apart = {} if tokenizer.encode_special_tokens else {t.content: n for n, t in added.items() if not t.normalized}
        return cls(tokenizer, apart)

    def tokenise(self, texts: Iterable[str]) -> Iterator[Placed]:
        """Tokens of texts, one after another."""
        for text in texts:
            if self._known.room < 0:
                # Not emptied: another thread may look something up in it.
                self._known = _Known(self._tokenizer, self._numbers)
            try:
                yield Worded(self, self._known, self._cut(text))
            except _NotAlone:
                yield Whole(text, self._tokenizer.encode(text, add_special_tokens=False))

    def encoding(self, word: str) -> Encoding:
        """What the library says of a word."""
        found = self._encodings.get(word)
        if found is None:
            if len(self._encodings) >= _MOST_ENCODINGS:
                self._encodings = {}
            found = self._encodings[word] = self._tokenizer.encode(word, add_special_tokens=False)
        return found

    def stands_apart(self, word: str) -> bool:
        return word in self._numbers

    def _cut(self, text: str) -> list[tuple[int, list[str]]]:
        """Stretches of words, and what stands apart between them: of each its length and its words."""
        return [
            (len(stretch), [stretch] if number % 2 else _WORD.findall(stretch))
            for number, stretch in enumerate(self._apart.split(text))
            if stretch
        ]


class _NotAlone(LookupError):
    """A word that the library has to see in its text."""


class _Known(dict[str, bytes]):
    """From a word to its tokens; what is not there yet is asked of the library."""

    def __init__(self, tokenizer: Tokenizer, known: Mapping[str, bytes]) -> None:
        super().__init__(known)
        self._tokenizer = tokenizer
        self.room = _MOST

    def __missing__(self, word: str) -> bytes:
        if _OTHER_SPACES.search(word):
            raise _NotAlone
        self.room -= len(word) + _ENTRY
        self[word] = found = _packed(self._tokenizer.encode(word, add_special_tokens=False).ids)
        return found


class Placed(Protocol):
    """Tokens of a rendered text, and which token a character went to."""

    ids: list[int]

    def token_at(self, position: int) -> int:
        """The first token that holds this character, or the next one that is held."""
        ...


class Whole:
    """`Placed`, as the library tokenised the whole text."""

    __slots__ = ("_encoding", "_length", "ids")

    def __init__(self, text: str, encoding: Encoding) -> None:
        self.ids: list[int] = encoding.ids
        self._encoding = encoding
        self._length = len(text)

    def token_at(self, position: int) -> int:
        """See `Placed`."""
        token = token_of(self._encoding, position, self._length)
        return len(self.ids) if token is None else token


class Worded:
    """`Placed`, word by word. Raises: _NotAlone."""

    __slots__ = ("_known", "_offsets", "_pieces", "_words", "ids")

    def __init__(self, words: Words, known: _Known, pieces: list[tuple[int, list[str]]]) -> None:
        self._words = words
        self._known = known
        self._pieces = pieces
        packed = [b"".join(map(known.__getitem__, piece)) for _, piece in pieces]
        self._offsets = [0, *accumulate(map(len, packed))]
        self.ids = memoryview(b"".join(packed)).cast("I").tolist()

    def token_at(self, position: int) -> int:
        """See `Placed`."""
        start = 0
        for (length, piece), offset in zip(self._pieces, self._offsets, strict=False):
            if position < start + length:
                return self._within(piece, start, offset // _ID_BYTES, position)
            start += length
        return len(self.ids)

    def _within(self, piece: Sequence[str], start: int, offset: int, position: int) -> int:
        """Of a piece that starts at this character and this token."""
        for word in piece:
            if self._words.stands_apart(word):
                return offset
            if position < start + len(word):
                token = token_of(self._words.encoding(word), max(0, position - start), len(word))
                if token is not None:
                    return offset + token
            start += len(word)
            offset += len(self._known[word]) // _ID_BYTES
        return offset


def _packed(ids: Sequence[int]) -> bytes:
    return array("I", ids).tobytes()


def token_of(encoding: Encoding, position: int, length: int) -> int | None:
    """The first token that holds the character at `position` of a text, or the next one that is held, if there is one."""
    for character in range(position, length):
        token = encoding.char_to_token(character)
        if token is not None:
            # A character of several bytes may be several tokens, of which the library names the last.
            while token and _end(encoding, token - 1) > character:
                token -= 1
            return token
    return None


def _end(encoding: Encoding, token: int) -> int:
    found = encoding.token_to_chars(token)
    return 0 if found is None else found[1]


def _cuts_at_spaces(tokenizer: Tokenizer) -> bool:
    """Whether this tokenizer never looks across a space that follows something else."""
    model, steps = tokenizer.model, _steps(tokenizer.pre_tokenizer, "pretokenizers")
    return (
        isinstance(model, BPE)
        and not (model.dropout or model.continuing_subword_prefix or model.end_of_word_suffix)
        # NFC joins nothing to a space.
        and all(step["type"] == "NFC" for step in _steps(tokenizer.normalizer, "normalizers"))
        and all(map(_keeps_words_apart, steps))
        and any(map(_cuts_words, steps))
    )


def _steps(component: Any, inner: str) -> list[Mapping[str, Any]]:
    """What a normalizer or pre-tokenizer does, step by step, as the tokenizer's file tells it."""
    # The file as a whole has the vocabulary, too: half a second of a large one.
    return [] if component is None else list(_flat(json.loads(component.__getstate__()), inner))


def _flat(step: Mapping[str, Any], inner: str) -> Iterator[Mapping[str, Any]]:
    if step["type"] == "Sequence":
        for each in cast("Iterable[Mapping[str, Any]]", step[inner]):
            yield from _flat(each, inner)
    else:
        yield step


def _keeps_words_apart(step: Mapping[str, Any]) -> bool:
    return step["type"] == "Digits" or _is_byte_level(step) or _cuts_words(step)


def _is_byte_level(step: Mapping[str, Any]) -> bool:
    return step["type"] == "ByteLevel" and not step["add_prefix_space"]


def _cuts_words(step: Mapping[str, Any]) -> bool:
    if step["type"] == "Split":
        return step["pattern"].get("Regex") in CUTS.values() and step["behavior"] == "Isolated" and not step["invert"]
    return _is_byte_level(step) and step["use_regex"]
