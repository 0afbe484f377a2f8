"""Rows for classifiers: a text or an image, and the class that it belongs to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from luthier.datasets.chat import Notes
from luthier.datasets.examples import Labelled
from luthier.datasets.feedback import text_of

MAX_LABEL = 200
LEAST_PIXELS, MOST_PIXELS = 4, 65_536
_BRIGHTEST = 255


def labelled_text(notes: Notes, row: Mapping[str, Any]) -> Labelled:
    """`text` and `label`. Raises: BadRow."""
    text = text_of(notes, row, "text")
    if not text.strip():
        raise notes.wrong("empty_content", "`text` is empty: there is nothing to tell apart.", "Write it, or remove the row.")
    return Labelled(_label(notes, row), text=text, line=notes.line)


def labelled_image(notes: Notes, row: Mapping[str, Any]) -> Labelled:
    """`image`, line by line from the top left corner, and `label`. Raises: BadRow."""
    image = row["image"]
    pixels = cast("list[Any]", image) if isinstance(image, list) else []
    if not pixels or not {type(pixel) for pixel in pixels} <= {int, float}:
        raise notes.wrong("bad_type", "`image` is not a list of numbers.", "Write its pixels: [0, 0, 255, ...].")
    # min and max say nothing where one is no number at all, and the sum of what they refuse may be too large for a float.
    if not 0 <= min(pixels) <= max(pixels) <= _BRIGHTEST or not math.isfinite(sum(pixels)):
        raise notes.wrong("bad_value", "A pixel is not a number from 0 to 255.", "Write pixels from 0 to 1, or from 0 to 255.")
    side = math.isqrt(len(pixels))
    if side * side != len(pixels) or not LEAST_PIXELS <= len(pixels) <= MOST_PIXELS:
        said = f"The image has {len(pixels):,} pixels, which is no square of {LEAST_PIXELS} to {MOST_PIXELS:,}."
        raise notes.wrong("bad_value", said, "Give as many lines as columns, e.g. 28 x 28 = 784 pixels.")
    return Labelled(_label(notes, row), pixels=tuple(pixels), line=notes.line)


def _label(notes: Notes, row: Mapping[str, Any]) -> str:
    label = row["label"]
    if type(label) not in {str, int}:
        raise notes.wrong("bad_type", "`label` is neither a text nor a whole number.", "Write the name of the class.")
    name = str(label).strip()
    if not name or len(name) > MAX_LABEL or not name.isprintable():
        said = f"`label` is not one line of 1 to {MAX_LABEL} characters."
        raise notes.wrong("bad_value", said, "Write the name of the class.")
    return name
