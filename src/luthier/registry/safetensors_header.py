"""The header of a safetensors file, read before anything maps the file. https://github.com/huggingface/safetensors#format"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, BinaryIO, TypeGuard, cast

MOST_HEADER_BYTES = 16 * 1024 * 1024
"""Of an adapter: a hundred bytes for each of its matrices."""
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes of the numbers that an adapter may hold."""


class BadHeader(ValueError):
    """This is no safetensors file that can be used; the words go on where they stand: `its header is longer than the file`."""


@dataclass(frozen=True)
class Tensor:
    """Where the numbers of a tensor lie in the file."""

    dtype: str
    shape: tuple[int, ...]
    first: int
    size: int


def read(stream: BinaryIO, size: int) -> dict[str, Tensor]:
    """The tensors of a file of `size` bytes, which cover all of it. Raises: BadHeader."""
    length = int.from_bytes(stream.read(8), "little")
    if size < 8 or length > min(MOST_HEADER_BYTES, size - 8):
        raise BadHeader("its header is longer than it may be")
    try:
        found = json.loads(stream.read(length), object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise BadHeader("its header is no JSON, or names a tensor twice") from None
    if not isinstance(found, dict):
        raise BadHeader("its header is no JSON object")
    tensors = {name: _tensor(facts, 8 + length) for name, facts in cast(dict[str, Any], found).items() if name != "__metadata__"}
    spans = sorted((tensor.first, tensor.first + tensor.size) for tensor in tensors.values())
    if not spans or spans[0][0] != 8 + length or any(before[1] != after[0] for before, after in pairwise(spans)):
        raise BadHeader("its tensors overlap or leave gaps")
    if spans[-1][1] != size:
        raise BadHeader("its tensors do not end where the file does")
    return tensors


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)


def _tensor(facts: Any, start: int) -> Tensor:
    if not isinstance(facts, dict):
        raise BadHeader("a tensor in its header is no JSON object")
    known = cast(Mapping[str, Any], facts)
    dtype, shape, offsets = known.get("dtype"), known.get("shape"), known.get("data_offsets")
    if dtype not in WIDTHS:
        raise BadHeader("a tensor has a type that is none of " + ", ".join(WIDTHS))
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1]:
        raise BadHeader("a tensor has a shape or a place that is none")
    size = offsets[1] - offsets[0]
    if math.prod(shape) * WIDTHS[dtype] != size:
        raise BadHeader("a tensor's bytes are not those of its shape")
    return Tensor(str(dtype), tuple(shape), start + offsets[0], size)


def _counts(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(each) is int and 0 <= each < 2**48 for each in cast(list[Any], value))
