"""Data that are here already: the written digits that scikit-learn brings, as images of 28 x 28 like MNIST's.

`luthier://digits/train.csv` and `luthier://digits/test.csv`: a label and 784 greys from 0 to 255 a line. They are read from the
installed package's file; scikit-learn itself is not imported into the process that asks.
"""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from luthier.seams import Fetched, NotFetched

FILES = ("train.csv", "test.csv")
SIDE = 28
_SIDE_THERE, _WHITE_THERE, _WHITE = 8, 16, 255
_HELD_OUT_OF = 6
"""Of each digit's images the first of every six is held out."""


class BuiltInFetcher:
    """Brings what the address names. Nothing leaves the machine."""

    @contextmanager
    def fetch(self, url: str, *, max_bytes: int, redirects: int = 0) -> Generator[Fetched]:  # noqa: ARG002  # the seam's
        """Raises: NotFetched for an unknown address, and where scikit-learn is not installed."""
        name = url.removeprefix("luthier://digits/")
        if name not in FILES:
            raise NotFetched("no such data are built in")
        data = _csv(_share(name))
        if len(data) > max_bytes:
            raise NotFetched(f"the file is larger than {max_bytes:,} bytes")
        yield Fetched(len(data), iter((data,)))


def enlarged(greys: bytes) -> bytes:
    """64 greys of 8 x 8 pixels -> 784 of 28 x 28, interpolated linearly."""
    from PIL import Image

    there = (_SIDE_THERE, _SIDE_THERE)
    return Image.frombytes("L", there, greys).resize((SIDE, SIDE), Image.Resampling.BILINEAR).tobytes()


def _share(name: str) -> list[tuple[int, bytes]]:
    """Labels and their images, each of 784 greys. Raises: NotFetched."""
    found = find_spec("sklearn")
    package = Path(*(found.submodule_search_locations or [""])[:1]) if found else Path()
    try:
        with gzip.open(package / "datasets/data/digits.csv.gz", "rt", encoding="ascii") as file:
            lines = [[int(float(number)) for number in line.split(",")] for line in file]
    except OSError:
        # Not installed, or laid out in another way.
        raise NotFetched(
            'the digits are those of scikit-learn, which is not installed here (`pip install "luthier[classifiers]"`)'
        ) from None
    seen: Counter[int] = Counter()
    chosen: list[tuple[int, bytes]] = []
    for *pixels, label in lines:
        held_out = seen[label] % _HELD_OUT_OF == 0
        seen[label] += 1
        if held_out == (name == "test.csv"):
            chosen.append((label, enlarged(bytes(pixel * _WHITE // _WHITE_THERE for pixel in pixels))))
    return chosen


def _csv(images: list[tuple[int, bytes]]) -> bytes:
    head = ",".join(["label", *(f"pixel{number}" for number in range(SIDE * SIDE))])
    rows = (",".join(map(str, [label, *greys])) for label, greys in images)
    return "".join(f"{line}\n" for line in [head, *rows]).encode("ascii")
