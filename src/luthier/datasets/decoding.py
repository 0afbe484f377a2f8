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


class StopTexts:
    """Text that ends before the first of some texts. What may be the beginning of one is held back."""

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = tuple(filter(None, stops))
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """What of it may be shown. Nothing after one was found."""
        if self.found:
            return ""
        text, self._held = self._held + text, ""
        ends = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if ends:
            self.found = True
            return text[: min(ends)]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def rest(self) -> str:
        """What was held back, and began no stop text."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """How much of the end of `text` is the beginning of `stop`.

    >>> _overlap("one EN", "END")
    2
    """
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
