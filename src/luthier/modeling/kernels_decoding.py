"""What decoding does beside matrix products of all tokens: attention to what each row has kept, and adapters, each token its own.

As in `kernels.py`: by C (`decoding.c`) on a CPU, else by torch. Shapes: T tokens of several rows, H query heads, K key heads, E
the width of a head, X all heads side by side, C the columns that a row has room for, I inputs of a layer, O its outputs.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from luthier.modeling import kernels, products
from luthier.modeling.fast_weights import HeadShape, Joined
from luthier.modeling.kernels_torch import rotated
from luthier.modeling.lora import Adapter
from luthier.modeling.products import Weight

_MOST_JOINED = 3
_FEW = 4
"""Tokens up to which a product is a matter of reading its weights (benchmarks/LOG.md)."""


class _SeatStruct(ctypes.Structure):
    _fields_ = [("keys", ctypes.c_void_p), ("values", ctypes.c_void_p), ("room", ctypes.c_int64), ("place", ctypes.c_int64)]


class _PairsStruct(ctypes.Structure):
    _fields_ = [
        ("a", ctypes.c_void_p),
        ("b", ctypes.c_void_p),
        ("inner", ctypes.c_int64),
        ("rank", ctypes.c_int64),
        ("at", ctypes.c_int64 * _MOST_JOINED),
        ("scale", ctypes.c_float),
    ]


_PAIRS_POINTER = ctypes.POINTER(_PairsStruct)


def linear(x_TI: Tensor, weight_OI: Weight, bias_O: Tensor | None = None) -> Tensor:
    """x W^T + b, as `products.linear`, and sooner where there are few tokens of fp32."""
    few = len(x_TI) <= _FEW and x_TI.dtype == torch.float32
    if not few or not isinstance(weight_OI, Tensor) or (lib := kernels.native(x_TI, weight_OI)) is None:
        return products.linear(x_TI, weight_OI, bias_O)
    y_TO = x_TI.new_empty(len(x_TI), len(weight_OI))
    counts = (*x_TI.shape, len(weight_OI))
    lib.few_tokens(x_TI.data_ptr(), weight_OI.data_ptr(), y_TO.data_ptr(), *counts, *kernels.how(x_TI))
    return y_TO if bias_O is None else y_TO.add_(bias_O)


class Kept:
    """Keys and values of one row, of all layers, with room to grow: a token writes one column, and copies none."""

    def __init__(self, layers: int, heads: HeadShape, like: Tensor, room: int) -> None:
        self.keys = like.new_empty(layers, heads.keys, room, heads.width)
        self.values = torch.empty_like(self.keys)
        self.length = 0

    @property
    def room(self) -> int:
        return self.keys.shape[2]

    def grow_to(self, length: int) -> None:
        """See to it that there is room for so many tokens."""
        if length <= self.room:
            return
        more = length + length // 4
        for name in ("keys", "values"):
            old: Tensor = getattr(self, name)
            new = old.new_empty(old.shape[0], old.shape[1], more, old.shape[3])
            new[:, :, : self.length] = old[:, :, : self.length]
            setattr(self, name, new)


@dataclass(frozen=True)
class Seats:
    """The tokens of a pass: of which row each is, and how many of that row are before it."""

    rows: Sequence[Kept]
    places: Sequence[int]

    @property
    def as_struct(self) -> Any:
        pairs = zip(self.rows, self.places, strict=True)
        return (_SeatStruct * len(self.rows))(
            *((row.keys.data_ptr(), row.values.data_ptr(), row.room, place) for row, place in pairs)
        )


@dataclass(frozen=True)
class Attending:
    """Attention of the tokens of one pass, layer by layer."""

    seats: Seats
    struct: Any
    heads: HeadShape
    tables: tuple[Tensor, Tensor]
    window: int

    def __call__(self, qkv_TX: Tensor, layer: int) -> Tensor:
        """Keep keys and values of all tokens, then answer each. Returns (T, H * E)."""
        heads, (cos_LE, sin_LE) = self.heads, self.tables
        lib = kernels.native(qkv_TX, wide=self.tables)
        if lib is None:
            return self._by_torch(qkv_TX, layer)
        out_TX = qkv_TX.new_empty(len(qkv_TX), heads.queries * heads.width)
        counts = (len(qkv_TX), heads.queries, heads.keys, heads.width, layer, self.window)
        pointers = (qkv_TX.data_ptr(), self.struct, cos_LE.data_ptr(), sin_LE.data_ptr(), out_TX.data_ptr())
        lib.attend(*pointers, *counts, heads.scale, *kernels.how(qkv_TX))
        return out_TX

    def _by_torch(self, qkv_TX: Tensor, layer: int) -> Tensor:
        heads = self.heads
        counts = (heads.queries, heads.keys, heads.keys)
        parts = qkv_TX.unflatten(1, (-1, heads.width)).split(counts, dim=1)
        at = torch.tensor(self.seats.places, device=qkv_TX.device)
        cos, sin = (table[at][:, None] for table in self.tables)
        query_THE, key_TKE = (rotated(part.float(), cos, sin).to(qkv_TX.dtype) for part in parts[:2])
        out = torch.empty_like(query_THE)
        for t, (row, place) in enumerate(zip(self.seats.rows, self.seats.places, strict=True)):
            row.keys[layer, :, place], row.values[layer, :, place] = key_TKE[t], parts[2][t]
        for t, (row, place) in enumerate(zip(self.seats.rows, self.seats.places, strict=True)):
            seen = slice(max(0, place + 1 - self.window) if self.window else 0, place + 1)
            query_KGE = query_THE[t].unflatten(0, (heads.keys, heads.group)).float()
            scores = query_KGE @ row.keys[layer, :, seen].float().transpose(1, 2) * heads.scale
            out[t] = (scores.softmax(-1) @ row.values[layer, :, seen].float()).flatten(0, 1).to(out.dtype)
        return out.flatten(1)


class LowRank:
    """An adapter at one `Joined`, in the base's type: A of its layers below each other, B of all, zero where it has none."""

    def __init__(self, adapter: Adapter, joined: Joined, dtype: torch.dtype) -> None:
        found = [adapter.pairs.get(path) for path in joined.paths]
        present = [pair for pair in found if pair is not None]
        self.empty = not present
        if self.empty:
            return
        device, rank = present[0].a_RI.device, present[0].a_RI.shape[0]
        self.scale = present[0].scale
        self.a = torch.cat([pair.a_RI.detach() for pair in present]).to(dtype).contiguous()
        blank = [torch.zeros(width, rank, device=device) for width in joined.widths]
        self.b = torch.cat([z if pair is None else pair.b_OR.detach() for z, pair in zip(blank, found, strict=True)])
        self.b = self.b.to(dtype).contiguous()
        starts = iter(range(0, len(self.a), rank))
        self.at = [-1 if pair is None else next(starts) for pair in found]
        padded = (ctypes.c_int64 * _MOST_JOINED)(*self.at, *[-1] * (_MOST_JOINED - len(self.at)))
        self.struct = _PairsStruct(self.a.data_ptr(), self.b.data_ptr(), len(self.a), rank, padded, self.scale)

    def add(self, x_TI: Tensor, y_TO: Tensor, widths: Sequence[int]) -> None:
        """All of these tokens are this adapter's."""
        if self.empty:
            return
        h_TP, rank, start = x_TI @ self.a.t(), self.b.shape[1], 0
        for first, width in zip(self.at, widths, strict=True):
            if first >= 0:
                own_TO = y_TO[:, start : start + width]
                own_TO.addmm_(h_TP[:, first : first + rank], self.b[start : start + width].t(), alpha=self.scale)
            start += width


class LowRanks:
    """The adapters of the tokens of a pass at one `Joined`, one for each token; None is the bare base."""

    def __init__(self, of: Sequence[LowRank | None], joined: Joined) -> None:
        self._of = [None if each is None or each.empty else each for each in of]
        self._widths = joined.widths
        self._none = not any(self._of)
        pointers = [_PAIRS_POINTER() if each is None else ctypes.pointer(each.struct) for each in self._of]
        self._struct = (_PAIRS_POINTER * len(pointers))(*pointers)
        ends = [sum(joined.widths[: count + 1]) for count in range(len(joined.widths))]
        self._ends = (ctypes.c_int64 * len(ends))(*ends)

    def add(self, x_TI: Tensor, y_TO: Tensor) -> None:
        """To each token of `y_TO` what its adapter makes of `x_TI`."""
        if self._none:
            return
        lib = kernels.native(x_TI, y_TO)
        if lib is None:
            for t, each in enumerate(self._of):
                if each is not None:
                    each.add(x_TI[t : t + 1], y_TO[t : t + 1], self._widths)
            return
        counts = (len(self._ends), *x_TI.shape)
        lib.add_low_rank(x_TI.data_ptr(), y_TO.data_ptr(), self._struct, self._ends, *counts, *kernels.how(x_TI))
