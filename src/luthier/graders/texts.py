"""How alike two texts are, and the number that a text ends with. Pure Python, linear in memory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from decimal import Decimal

_NUMBER = re.compile(
    r"(?:(?<![\w)\]])[-+])?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3}(?![0-9]))?"
    r"|(?:(?<![\w)\]])[-+])?\.[0-9]+",
    re.ASCII,
)
_WORD = re.compile(r"\w+")


def last_number(text: str) -> Decimal | None:
    """The last number of a text, exactly, or None. Thousands may be grouped; only the digits 0 to 9 count.

    >>> last_number("So 3 + 4 = 7, that is $2,125.50."), last_number("minus \\u22127"), last_number("none")
    (Decimal('2125.50'), Decimal('-7'), None)
    """
    last = None
    for last in _NUMBER.finditer(text.replace("\u2212", "-")):  # noqa: B007  # the last one is what is asked for
        pass
    return None if last is None else Decimal(last.group().replace(",", ""))


def ratio(one: str, other: str) -> float:
    """2 * LCS / (length of both), 0 to 1: the similarity that `rapidfuzz.fuzz.ratio` gives, over 100.

    >>> ratio("kitten", "sitting")
    0.6153846153846154
    """
    return _share(longest_common(one, other), len(one), len(other))


def token_f1(one: str, other: str) -> float:
    """F1 of the words that both texts have, in any order, upper and lower case alike. As SQuAD measures answers.

    >>> token_f1("the cat sat", "The cat")
    0.8
    """
    left, right = Counter(_words(one)), Counter(_words(other))
    return _share((left & right).total(), left.total(), right.total())


def rouge_l(one: str, other: str) -> float:
    """F1 of the longest common subsequence of words. Lin 2004. https://aclanthology.org/W04-1013

    >>> rouge_l("a b c d", "a c e d")
    0.75
    """
    left, right = _words(one), _words(other)
    return _share(longest_common(left, right), len(left), len(right))


def longest_common(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """Length of the longest common subsequence, 64 cells of the table at a time.

    Source: Hyyrö 2004, "Bit-parallel LCS-length computation revisited".

    >>> longest_common("abcbdab", "bdcaba")
    4
    """
    places: dict[Hashable, int] = {}
    for position, token in enumerate(one):
        places[token] = places.get(token, 0) | 1 << position
    everywhere = (1 << len(one)) - 1
    row = everywhere
    for token in other:
        matches = row & places.get(token, 0)
        row = ((row + matches) | (row - matches)) & everywhere
    return len(one) - row.bit_count()


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _share(common: int, left: int, right: int) -> float:
    return 2 * common / (left + right) if left + right else 1.0
