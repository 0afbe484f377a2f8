"""From tokens that come one by one to text that never breaks a character."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

_BROKEN = "\ufffd"


class TextStream:
    """Text of a growing list of tokens. A character may span several tokens: it is held back until it is whole."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._shown = 0
        """So many ids have been shown; the ones before it are kept only for the blank that may join them."""

    def push(self, ids: Iterable[int]) -> str:
        """The text that these tokens add and that will not change any more."""
        self._ids += ids
        before, text = self._decode(self._ids[: self._shown]), self._decode(self._ids)
        if len(text) <= len(before) or text.endswith(_BROKEN):
            return ""
        # Decoding all tokens again for each new one would take quadratic time: the last ones shown are context enough.
        self._ids, self._shown = self._ids[self._shown :], len(self._ids) - self._shown
        return text[len(before) :]

    def rest(self) -> str:
        """What was held back and never became whole."""
        before, text = self._decode(self._ids[: self._shown]), self._decode(self._ids)
        self._shown = len(self._ids)
        return text[len(before) :]
