"""idx, the format of MNIST's own files: one file of images and one of labels, row by row the same.

http://yann.lecun.com/exdb/mnist/: two zero bytes, the type of a number, how many dimensions, each of them in four bytes (the most
significant first), and then the numbers. Images are unsigned bytes in three dimensions, labels in one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from luthier.datasets.examples import BadRow
from luthier.datasets.labelled import LEAST_PIXELS, MOST_PIXELS
from luthier.datasets.lines import Readable
from luthier.datasets.tables import Fields

_UNSIGNED_BYTE = 8
_IMAGES, _LABELS = 3, 1
_KNOWN_TYPES = frozenset({8, 9, 11, 12, 13, 14})
_MOST_DIMENSIONS = 4
_ANEW = "Upload the files as they were published, in one zip file."


@dataclass(frozen=True)
class _File:
    """What the head of a file says, and the numbers that follow."""

    stream: Readable
    sizes: Sequence[int]

    def take(self, size: int) -> bytes:
        """So many bytes; fewer at the end of the file."""
        parts: list[bytes] = []
        while size > 0 and (part := self.stream.read(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def is_idx(head: bytes) -> bool:
    """Whether a file that starts like this is idx.

    >>> is_idx(bytes([0, 0, 8, 3, 0, 0, 0, 1])), is_idx(b'{"a": 1}')
    (True, False)
    """
    return len(head) >= 4 and head[:2] == b"\0\0" and head[2] in _KNOWN_TYPES and 1 <= head[3] <= _MOST_DIMENSIONS


def alone() -> BadRow:
    """Of one idx file without the other."""
    said = "This is one of two idx files: images without their labels, or labels without their images."
    return _bad("idx", said, "Put the file of images and the file of labels into one zip file, and upload that.")


def idx_rows(one: Readable, other: Readable) -> Iterator[Fields | BadRow]:
    """The rows of two files, in either order. A `BadRow` is the last: nothing can be found after it."""
    try:
        files = sorted((_opened(one), _opened(other)), key=lambda file: len(file.sizes))
        if [len(file.sizes) for file in files] != [_LABELS, _IMAGES]:
            raise _bad("idx", "The two idx files are not one of images and one of labels.", _ANEW)
        labels, images = files
        yield from _rows(images, labels)
    except BadRow as bad:
        yield bad


def _opened(stream: Readable) -> _File:
    file = _File(stream, ())
    magic = file.take(4)
    if not is_idx(magic):
        raise _bad("idx", "A file of the archive is not idx: its first bytes are others.", _ANEW)
    if magic[2] != _UNSIGNED_BYTE:
        raise _bad("idx", "An idx file holds other numbers than unsigned bytes.", "Write pixels and labels from 0 to 255.")
    head = file.take(4 * magic[3])
    if len(head) < 4 * magic[3]:
        raise _cut("The head of an idx file is cut off.")
    return _File(stream, [int.from_bytes(head[at : at + 4], "big") for at in range(0, len(head), 4)])


def _rows(images: _File, labels: _File) -> Iterator[Fields]:
    count, lines, columns = images.sizes
    if count != labels.sizes[0]:
        said = f"There are {count:,} images and {labels.sizes[0]:,} labels."
        raise _bad("idx", said, "Upload images and labels of the same rows, e.g. both files of `train`.")
    # Before a byte is read for an image: what a head says is not believed.
    pixels = lines * columns
    if lines != columns or not LEAST_PIXELS <= pixels <= MOST_PIXELS:
        said = f"The images have {lines:,} x {columns:,} pixels; a square of {LEAST_PIXELS} to {MOST_PIXELS:,} is read."
        raise _bad("bad_value", said, "Give as many lines as columns, e.g. 28 x 28.")
    for number in range(count):
        image, label = images.take(pixels), labels.take(1)
        if len(image) < pixels or not label:
            which = "images" if len(image) < pixels else "labels"
            raise _cut(f"The file of {which} is cut off: it says {count:,} and holds {number:,}.")
        yield Fields(number + 1, {"image": list(image), "label": label[0]})
    for file in (images, labels):
        if file.take(1):
            raise _bad("idx", f"Something follows after the {count:,} rows of an idx file.", _ANEW)


def _cut(said: str) -> BadRow:
    return _bad("idx", said, "Download the file again, and compare its size.")


def _bad(code: str, said: str, fix: str) -> BadRow:
    return BadRow(None, code, said, fix, fatal=True)
