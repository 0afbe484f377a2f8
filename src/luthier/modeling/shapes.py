"""Sizes of products, rounded up to a few.

oneDNN compiles code for each shape that it meets, about half a megabyte a shape, and keeps it. Packs of ragged rows have a
new number of tokens in every step: a run would compile as long as it lasts (`benchmarks/LOG.md` has the figures).
"""

from __future__ import annotations

_LEAST_STEP = 16
_STEPS = 8
"""Sizes between one power of two and the next; the average size grows by a twentieth."""


def bounded(size: int) -> int:
    """The next size of the few.

    >>> [bounded(size) for size in (0, 1, 90, 650, 2048)]
    [0, 16, 96, 704, 2048]
    """
    step = max(_LEAST_STEP, (1 << size.bit_length()) // (2 * _STEPS))
    return -(-size // step) * step
