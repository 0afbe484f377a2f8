"""From a request, or a row of a dataset, to what is kept of it. One way for both, so that they can be compared. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from luthier.datasets.personal_data import redacted
from luthier.registry.search_rules import words
from luthier.serving.drift.types import Observation
from luthier.serving.types import Prediction, PredictRequest

_KEPT_CHARACTERS = 1_000
"""Of a text: enough to compare what it is about, and to be looked at."""
_LOOKED_AT = 4 * _KEPT_CHARACTERS
"""Redacted before it is cut: half a key is no key that a pattern knows."""
_EACH_PIXEL = 16
"""Up to so many numbers each is a feature; what has more is looked at in blocks."""
_BLOCKS = 4


class Asked(NamedTuple):
    """An input and, of a classifier, its answer. Nothing is computed from it on the way of a request."""

    image: Sequence[float] | None = None
    text: str | None = None
    answer: str | None = None
    confidence: float | None = None
    unread: tuple[bytes, bytes] | None = None
    """In the place of all that: a request and its answer as JSON, which was never read on its way."""


def observed(asked: Asked) -> Observation:
    """What is kept: of an image a few numbers, of a text its length and its redacted beginning."""
    if asked.unread is not None:
        request, told = PredictRequest.model_validate_json(asked.unread[0]), Prediction.model_validate_json(asked.unread[1])
        asked = Asked(request.image, request.text, str(told.prediction), told.confidence)
    features: dict[str, float] = {} if asked.image is None else features_of(asked.image)
    kept = None
    if asked.text is not None:
        features |= {"characters": float(len(asked.text)), "words": float(asked.text.count(" ") + 1)}
        kept = redacted(asked.text[:_LOOKED_AT])[:_KEPT_CHARACTERS]
    confidence = None if asked.confidence is None else round(asked.confidence, 6)
    return Observation(features=features, answer=asked.answer, confidence=confidence, text=kept)


def features_of(image: Sequence[float]) -> dict[str, float]:
    """How bright a square of numbers is, how much that varies, and how bright its 16 blocks are.

    >>> features_of([0, 1, 1, 0])
    {'brightness': 0.5, 'contrast': 0.5, 'pixel 1': 0, 'pixel 2': 1, 'pixel 3': 1, 'pixel 4': 0}
    """
    mean = math.fsum(image) / len(image)
    spread = math.sqrt(math.fsum((pixel - mean) ** 2 for pixel in image) / len(image))
    found = {"brightness": round(mean, 6), "contrast": round(spread, 6)}
    if len(image) <= _EACH_PIXEL:
        return found | {f"pixel {place}": pixel for place, pixel in enumerate(image, start=1)}
    side = math.isqrt(len(image))
    sums, sizes = [0.0] * _BLOCKS**2, [0] * _BLOCKS**2
    for line in range(side):
        for block in range(_BLOCKS):
            start, end = (side * edge // _BLOCKS for edge in (block, block + 1))
            place = line * _BLOCKS // side * _BLOCKS + block
            sums[place] += math.fsum(image[line * side + start : line * side + end])
            sizes[place] += end - start
    blocks = zip(sums, sizes, strict=True)
    return found | {f"block {at // _BLOCKS + 1},{at % _BLOCKS + 1}": round(s / max(1, n), 6) for at, (s, n) in enumerate(blocks)}


def asked_in(row: Mapping[str, Any], brightest: float = 1.0) -> Asked | None:
    """What a row of a dataset asks; None where it asks nothing. `brightest`: of all rows, as images may run to 255."""
    if "image" in row:
        pixels = cast("list[float]", row["image"])
        return Asked(image=[pixel / 255 for pixel in pixels] if brightest > 1 else pixels)
    if isinstance(row.get("text"), str):
        return Asked(text=row["text"])
    prompt = row.get("prompt", row.get("messages"))
    text = prompt if isinstance(prompt, str) else last_question(cast("list[Mapping[str, Any]]", prompt or []))
    return Asked(text=text) if text else None


def last_question(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """What the user said last.

    >>> last_question([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}])
    'Hi'
    """
    return next((str(each.get("content") or "") for each in reversed(messages) if each["role"] == "user"), None)


def brightest_of(rows: Sequence[Mapping[str, Any]]) -> float:
    return max((max(row["image"], default=0.0) for row in rows if "image" in row), default=0.0)


def token_counts(text: str) -> Counter[str]:
    """How often each word is there; as in search, each once: what a text repeats is not what texts have in common."""
    return Counter(words(text))
