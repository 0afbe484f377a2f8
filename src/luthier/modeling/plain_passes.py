"""Passes over any base through transformers: each prompt has a cache of its own, and joins the others' when it was read.

Padding is on the left and masked: what a row answers does not depend on its neighbours. Shapes as suffixes: B rows, L tokens of
the longest, H heads, D head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import Cache, DynamicLayer

from luthier.modeling.load import LoadedBase
from luthier.modeling.lora import Adapter
from luthier.modeling.mixed import Mixed

_GROWS_BY = 64
_SLACK = 128
"""Columns of padding that all rows share are cut off when there are this many."""


def _cache() -> Cache:
    # Without the config: every layer keeps all columns, and windows of attention are cut by the mask. Layers that forget
    # could not be laid under each other.
    return Cache(layer_class_to_replicate=Growing)


@dataclass(eq=False)
class _Row:
    """A row of the batch; its own cache is empty once it has joined."""

    adapter: Adapter | None
    cache: Cache = field(default_factory=_cache)
    length: int = 0


class PlainPasses:
    """Implements `passes.Passes`."""

    def __init__(self, base: LoadedBase) -> None:
        self._base = base
        self._mixed = Mixed(base.linears.by_path, base.dtype)
        self._rows: list[_Row] = []
        """Those that have joined."""
        self._cache = _cache()
        self._mask_BL = torch.zeros(0, 0, dtype=torch.long, device=base.device)

    def begin(self, adapter: Adapter | None, prompt: Sequence[int], most: int) -> _Row:  # noqa: ARG002  # caches grow
        """See `passes.Passes`."""
        return _Row(adapter)

    def end(self, row: _Row) -> None:
        """See `passes.Passes`. The next `decode` leaves it out."""

    @torch.no_grad()
    def read(self, rows: Sequence[_Row], pieces: Sequence[Sequence[int]]) -> Tensor:
        """See `passes.Passes`. One after the other: padding would cost more than it saves."""
        return torch.stack([self._read(row, piece) for row, piece in zip(rows, pieces, strict=True)])

    def _read(self, row: _Row, piece: Sequence[int]) -> Tensor:
        self._mixed.carry([row.adapter])
        before, row.length = row.length, row.length + len(piece)
        ids_1L = torch.tensor([list(piece)], device=self._base.device)
        at_1L = torch.arange(before, row.length, device=self._base.device)[None]
        return self._forward(ids_1L, self._ones(row.length), at_1L, row.cache)[0]

    @torch.no_grad()
    def decode(self, rows: Sequence[_Row], tokens: Sequence[int]) -> Tensor:
        """See `passes.Passes`."""
        wanted = set(map(id, rows))
        self._keep([place for place, row in enumerate(self._rows) if id(row) in wanted])
        for row in rows[len(self._rows) :]:
            self._join(row)
        self._mixed.carry([row.adapter for row in rows])
        self._mask_BL = functional.pad(self._mask_BL, (0, 1), value=1)
        ids_B1 = torch.tensor(list(tokens), device=self._base.device)[:, None]
        at_B1 = self._mask_BL.sum(1, keepdim=True) - 1
        return self._forward(ids_B1, self._mask_BL, at_B1, self._cache)

    def _forward(self, ids_BL: Tensor, mask_BL: Tensor, at_BL: Tensor, cache: Cache) -> Tensor:
        """Logits of the next token of each row, shape (B, V)."""
        try:
            return self._base.model(
                input_ids=ids_BL,
                attention_mask=mask_BL,
                position_ids=at_BL,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
        finally:
            self._mixed.put_down()

    def _ones(self, length: int) -> Tensor:
        return torch.ones(1, length, dtype=torch.long, device=self._base.device)

    def _join(self, row: _Row) -> None:
        """Lay a row that was read alone under the others; the shorter side is padded on the left."""
        ones_1L = self._ones(row.length)
        if not self._rows:
            self._cache, self._mask_BL = row.cache, ones_1L
        else:
            longest = max(self._mask_BL.shape[1], row.length)
            for mine, its in zip(_layers(self._cache), _layers(row.cache), strict=True):
                mine.join(its, longest)
            self._mask_BL = torch.cat([_left_padded(self._mask_BL, longest, -1), _left_padded(ones_1L, longest, -1)])
        row.cache = _cache()
        self._rows.append(row)

    def _keep(self, places: list[int]) -> None:
        """Go on with these rows alone."""
        if len(places) == len(self._rows):
            return
        self._rows = [self._rows[place] for place in places]
        kept_B = torch.tensor(places, dtype=torch.long, device=self._base.device)
        self._mask_BL = self._mask_BL[kept_B]
        if not places:
            self._cache, self._mask_BL = _cache(), self._mask_BL[:, :0]
            return
        # Columns that are padding in every row that is left are worth nothing.
        empty = int((self._mask_BL.cumsum(1).amax(0) == 0).sum())
        cut = empty if empty >= _SLACK else 0
        self._mask_BL = self._mask_BL[:, cut:]
        for layer in _layers(self._cache):
            layer.select(kept_B, cut)


class Growing(DynamicLayer):
    """Keys and values of one layer, with room to grow: a step writes one column, and copies none."""

    def __init__(self) -> None:
        super().__init__()
        self._rooms: list[Tensor] = []
        self._length = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Add columns; the whole of keys and values, each (B, H, L, D)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._rooms = [states[..., :0, :] for states in (key_states, value_states)]
        length = self._length + key_states.shape[-2]
        if length > self._rooms[0].shape[-2]:
            more = length + length // 4 + _GROWS_BY - self._length
            self._rooms = [functional.pad(room[..., : self._length, :], (0, 0, 0, more)) for room in self._rooms]
        for room, states in zip(self._rooms, (key_states, value_states), strict=True):
            room[..., self._length : length, :] = states
        return self._show(length)

    @property
    def filled(self) -> list[Tensor]:
        """Keys and values without the room."""
        return [room[..., : self._length, :] for room in self._rooms]

    def join(self, other: Growing, longest: int) -> None:
        """Lay the rows of `other` under these, all `longest` columns wide."""
        pairs = zip(self.filled, other.filled, strict=True)
        self._rooms = [torch.cat([_left_padded(mine, longest, -2), _left_padded(its, longest, -2)]) for mine, its in pairs]
        self._show(longest)

    def select(self, rows_B: Tensor, cut: int) -> None:
        """Keep these rows, without their first `cut` columns."""
        self._rooms = [states[rows_B, :, cut:] for states in self.filled]
        self._show(self._length - cut)

    def _show(self, length: int) -> tuple[Tensor, Tensor]:
        self._length = length
        keys, values = self.filled
        self.keys, self.values = keys, values
        return keys, values


def _layers(cache: Cache) -> list[Growing]:
    return cast(list[Growing], cache.layers)


def _left_padded(values: Tensor, length: int, dim: int) -> Tensor:
    """Zeros before `values` along `dim` (-1 or -2), up to `length`."""
    missing = length - values.shape[dim]
    return functional.pad(values, (missing, 0) if dim == -1 else (0, 0, missing, 0)) if missing else values
