"""Decisions about finding models: the words and facets of a card, and which cards are like a question."""

from __future__ import annotations

import heapq
import math
import re
from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence

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

    def best(self, asked_words: Iterable[str], limit: int) -> list[tuple[int, float]]:
        """Numbers and scores of the cards that hold most of these words, rare words before common ones; without those of 0.

        >>> index = WordIndex([" lora json ", " lora sql ", " lora chat "])
        >>> [number for number, score in index.best(["sql", "lora"], 1)]
        [1]
        """
        scores: dict[int, float] = defaultdict(float)
        many = len(self._weights)
        for word in asked_words:
            held = self._holds.get(word, ())
            rarity = math.log(1 + (many - len(held) + 0.5) / (len(held) + 0.5))
            for number in held:
                scores[number] += rarity * self._weights[number]
        # Of equals the newer one, which has the higher number.
        return heapq.nlargest(limit, scores.items(), key=lambda found: (found[1], found[0]))
