"""Decisions about finding models: the words and facets of a card, and which cards are like a question."""

from __future__ import annotations

import heapq
import math
import re
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from luthier.registry.search_types import Wanted
from luthier.registry.types import ModelCard

# Scripts without blanks between words: each character is a word. Everything else: runs of letters and digits.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
_SATURATION, _LENGTH = 1.2, 0.75


def words(text: str) -> list[str]:
    """The different words of a text, in its order.

    >>> words("Réponses JSON, json_lines: 日本")
    ['réponses', 'json', 'lines', '日', '本']
    """
    return list(dict.fromkeys(_WORD.findall(text.casefold())))


def text_of(card: ModelCard) -> str:
    """What a card says about what its model is for."""
    about = (card.name, card.description, card.task, " ".join(card.language), " ".join(card.tags), card.base_model)
    return ". ".join(filter(None, about))


def words_of(card: ModelCard) -> str:
    """The different words of a card, each between blanks."""
    return f" {' '.join(words(text_of(card)))} "


def in_common(asked_words: Iterable[str], card: ModelCard) -> tuple[str, ...]:
    """Which of these words stand on a card."""
    held = set(words(text_of(card)))
    return tuple(word for word in asked_words if word in held)


def facets_of(card: ModelCard) -> str:
    """What a card can be filtered by, one a line."""
    held = [("base", card.base_model), ("task", card.task), *(("language", each) for each in card.language)]
    return "\n" + "".join(_facet(*each) for each in (*held, *(("tag", tag) for tag in card.tags)))


def asked(wanted: Wanted) -> list[str]:
    """The facets that a card must have."""
    held = [("base", wanted.base_model), ("task", wanted.task), ("language", wanted.language)]
    return [_facet(name, value) for name, value in (*held, *(("tag", tag) for tag in wanted.tags)) if value]


def _facet(name: str, value: str) -> str:
    return f"{name}={' '.join(value.casefold().split())}\n"


class WordIndex:
    """Which of many cards hold which words. BM25 over sets of words (Robertson and Zaragoza 2009, eq. 3.15 with tf = 1)."""

    def __init__(self, cards: Sequence[str]) -> None:
        holds: dict[str, array[int]] = defaultdict(lambda: array("L"))
        lengths: list[int] = []
        for number, card in enumerate(cards):
            held = card.split()
            lengths.append(len(held))
            for word in held:
                holds[word].append(number)
        self._holds = dict(holds)
        usual = sum(lengths) / len(lengths) if lengths else 1.0
        self._weights = [
            (1 + _SATURATION) / (1 + _SATURATION * (1 - _LENGTH + _LENGTH * length / max(usual, 1))) for length in lengths
        ]
        self._heaviest = max(self._weights, default=0.0)

    def best(self, asked_words: Iterable[str], limit: int) -> list[tuple[int, float]]:
        """Numbers and scores of the cards that hold most of these words, rare words before common ones; without those of 0.

        Exact, and yet words that are on most cards cost little: once they alone can bring no other card among the best, they
        are only looked up on those that still can be (MaxScore, Turtle and Flood 1995).

        >>> index = WordIndex([" lora json ", " lora sql ", " lora chat "])
        >>> [number for number, score in index.best(["sql", "lora"], 1)]
        [1]
        """
        terms = sorted(((self._rarity(word), self._holds[word]) for word in asked_words if word in self._holds), reverse=True)
        left = [bound * self._heaviest for bound in _sums_from_here([rarity for rarity, _ in terms])]
        scores: dict[int, float] = defaultdict(float)
        for at, (rarity, held) in enumerate(terms):
            if len(held) > len(scores) >= limit:
                least = heapq.nlargest(limit, scores.values())[-1]
                if least > left[at]:
                    still = {number: score for number, score in scores.items() if score + left[at] >= least}
                    return _best_of(self._with(still, terms[at:]), limit)
            self._add(scores, rarity, held)
        return _best_of(scores, limit)

    def _rarity(self, word: str) -> float:
        many, holding = len(self._weights), len(self._holds[word])
        return math.log(1 + (many - holding + 0.5) / (holding + 0.5))

    def _add(self, scores: dict[int, float], rarity: float, held: Sequence[int]) -> None:
        weights = self._weights
        for number in held:
            scores[number] += rarity * weights[number]

    def _with(self, scores: dict[int, float], terms: Sequence[tuple[float, Sequence[int]]]) -> dict[int, float]:
        """These cards' scores with more terms. A list of cards is in their order."""
        for rarity, held in terms:
            for number in scores:
                place = bisect_left(held, number)
                if place < len(held) and held[place] == number:
                    scores[number] += rarity * self._weights[number]
        return scores


def _sums_from_here(numbers: Sequence[float]) -> list[float]:
    """
    >>> _sums_from_here([3, 2, 1])
    [6, 3, 1]
    """
    return list(accumulate(reversed(numbers)))[::-1]


def _best_of(scores: Mapping[int, float], limit: int) -> list[tuple[int, float]]:
    """Of equals the newer one, which has the higher number."""
    return heapq.nlargest(limit, scores.items(), key=lambda found: (found[1], found[0]))
