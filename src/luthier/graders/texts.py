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
_BLOCK = 4096
"""A text of 65,536 different characters would need 512 MiB in one piece."""


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
    """F1 of the words that both texts have, in any order, upper and lower case alike. As SQuAD measures answers,
    except that articles count.

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
    """Length of the longest common subsequence: a row of the table is a whole number, worked out by an addition.

    Source: Hyyrö 2004, "Bit-parallel LCS-length computation revisited".

    >>> longest_common("abcbdab", "bdcaba")
    4
    """
    carries = bytearray(len(other))
    return sum(_common_of(one[start : start + _BLOCK], other, carries) for start in range(0, len(one), _BLOCK))


def _common_of(block: Sequence[Hashable], other: Sequence[Hashable], carries: bytearray) -> int:
    """What a block of columns adds. `carries` holds what each row's addition carries over into the next block."""
    places: dict[Hashable, int] = {}
    for position, token in enumerate(block):
        places[token] = places.get(token, 0) | 1 << position
    row = everywhere = (1 << len(block)) - 1
    for at, token in enumerate(other):
        matches = row & places.get(token, 0)
        if matches or carries[at]:
            total = row + matches + carries[at]
            carries[at] = total >> len(block)
            row = (total | (row - matches)) & everywhere
    return len(block) - row.bit_count()


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _share(common: int, left: int, right: int) -> float:
    return 2 * common / (left + right) if left + right else 1.0
