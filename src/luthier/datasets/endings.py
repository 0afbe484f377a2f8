"""How long answers end: one that stops in the middle of a sentence looks cut off."""

from __future__ import annotations

from luthier.datasets import rules
from luthier.datasets.row_hashes import First

CUT_LENGTH = 200
"""Only answers of so many characters are expected to end like a sentence."""
_ENDS = frozenset(".!?:;\"'`)]}>*|…。！？」』”’~-_=/\\#%$€")
ASCII_ENDS = "".join(sorted(sign for sign in _ENDS if sign.isascii())).encode()


class Ends:
    """How long answers end."""

    def __init__(self) -> None:
        self.long = 0
        self.cut = First(rules.SHOWN_A_CODE)

    def look(self, line: int, answer: str) -> None:
        if len(answer) >= CUT_LENGTH:
            self.long += 1
            if answer[-1] not in _ENDS and answer.rstrip()[-1:] not in _ENDS:
                self.cut.add(line, 0)

    def add(self, other: Ends) -> None:
        self.long += other.long
        self.cut.merge(other.cut)
