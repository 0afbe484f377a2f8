"""Data that are here already: the written digits that scikit-learn brings, as images of 28 x 28 like MNIST's.

`luthier://digits/train.csv` and `luthier://digits/test.csv`: a label and 784 greys from 0 to 255 a line. They are read from the
installed package's file; scikit-learn itself is not imported into the process that asks.
"""

from __future__ import annotations

import gzip
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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
        data = _csv(*_share(name))
        if len(data) > max_bytes:
            raise NotFetched(f"the file is larger than {max_bytes:,} bytes")
        yield Fetched(len(data), iter((data,)))


def enlarged(images_NYX: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Greys from 0 to 16, shape (N, 8, 8) -> greys from 0 to 255, shape (N, 28, 28), interpolated linearly between centres."""
    centres = (np.arange(SIDE) + 0.5) * _SIDE_THERE / SIDE - 0.5
    distances_SY = np.abs(np.clip(centres, 0, _SIDE_THERE - 1)[:, None] - np.arange(_SIDE_THERE))
    weights_SY = np.clip(1 - distances_SY, 0, None)
    return np.rint(weights_SY @ images_NYX @ weights_SY.T * (_WHITE / _WHITE_THERE)).astype(np.uint8)


def _share(name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images, shape (N, 28, 28), and their labels. Raises: NotFetched."""
    found = find_spec("sklearn")
    path = Path(*(found.submodule_search_locations or [""])[:1], "datasets/data/digits.csv.gz") if found else Path()
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            table = np.loadtxt(file, delimiter=",")
    except OSError:
        # Not installed, or laid out in another way.
        raise NotFetched(
            'the digits are those of scikit-learn, which is not installed here (`pip install "luthier[classifiers]"`)'
        ) from None
    labels = table[:, -1].astype(np.int64)
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        held_out[np.flatnonzero(labels == label)[::_HELD_OUT_OF]] = True
    chosen = held_out if name == "test.csv" else ~held_out
    return enlarged(table[chosen, :-1].reshape(-1, _SIDE_THERE, _SIDE_THERE)), labels[chosen]


def _csv(images_NYX: NDArray[np.uint8], labels_N: NDArray[np.int64]) -> bytes:
    head = ",".join(["label", *(f"pixel{number}" for number in range(SIDE * SIDE))])
    rows = np.column_stack([labels_N, images_NYX.reshape(len(labels_N), -1)]).tolist()
    return "".join(f"{line}\n" for line in [head, *(",".join(map(str, row)) for row in rows)]).encode("ascii")
