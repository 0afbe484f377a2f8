"""Continuous batching: rows join a running batch when their prompt is read, and leave it when they end.

Rows of one batch stand on one base, each with its own adapter, sampling and limits. Prompts are read piece by piece between
two steps of the others, so a long one holds up nobody. Padding is on the left and masked: what a row answers does not depend
on its neighbours. Shapes: B rows, L tokens of the longest, H heads, D head width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import Cache, DynamicLayer

from luthier.modeling.generate import Row, Token, drawn
from luthier.modeling.load import LoadedBase
from luthier.modeling.lora import Adapter
from luthier.modeling.mixed import Mixed

K = TypeVar("K")

_PIECE = 256
"""Tokens of a prompt that are read at a time."""
_GROWS_BY = 64
_SLACK = 128
"""Columns of padding that all rows share are cut off when there are this many."""


@dataclass
class Member(Generic[K]):
    """A row of the batch: what it asks, with which adapter, and whose it is."""

    key: K
    row: Row
    adapter: Adapter | None
    read: int = 0
    """Tokens of its prompt that were read."""


class Batch(Generic[K]):
    """The rows that are answered now on one base. Not for two threads at once."""

    def __init__(self, base: LoadedBase) -> None:
        self.base = base
        self._mixed = Mixed(base.linears.by_path, base.dtype)
        self._reading: list[tuple[Member[K], Cache]] = []
        self._members: list[Member[K]] = []
        self._cache = _cache()
        self._mask_BL = torch.zeros(0, 0, dtype=torch.long, device=base.device)
        self._next_B: list[int] = []

    def __len__(self) -> int:
        return len(self._reading) + len(self._members)

    def add(self, member: Member[K]) -> None:
        """Begin with a row; its prompt is read by the steps to come."""
        self._reading.append((member, _cache()))

    def drop(self, key: K) -> None:
        """Forget a row whose answer nobody wants any more."""
        self._reading = [each for each in self._reading if each[0].key != key]
        self._keep([place for place, member in enumerate(self._members) if member.key != key])

    @property
    def keys(self) -> list[K]:
        """Whose rows it has."""
        return [*(member.key for member, _ in self._reading), *self.decodes_for]

    @property
    def reads_for(self) -> list[K]:
        """Whose prompt `read` goes on with: one, or none."""
        return [member.key for member, _ in self._reading[:1]]

    @property
    def decodes_for(self) -> list[K]:
        """Whose answers `decode` goes on with."""
        return [member.key for member in self._members]

    @torch.no_grad()
    def read(self) -> list[tuple[K, Token]]:
        """A piece of the prompt that waits longest; with its end comes the first token."""
        member, cache = self._reading[0]
        piece = member.row.prompt[member.read : member.read + _PIECE]
        self._mixed.carry([member.adapter])
        ids_1L = torch.tensor([list(piece)], device=self.base.device)
        at_1L = torch.arange(member.read, member.read + len(piece), device=self.base.device)[None]
        mask_1L = torch.ones(1, member.read + len(piece), dtype=torch.long, device=self.base.device)
        logits_1V = self._forward(ids_1L, mask_1L, at_1L, cache)
        member.read += len(piece)
        if member.read < len(member.row.prompt):
            self._reading.append(self._reading.pop(0))  # the next prompt's turn
            return []
        self._reading.pop(0)
        token, token_id = drawn(member.row, logits_1V[0])
        if token.finish_reason is None:
            self._join(member, cache, token_id)
        return [(member.key, token)]

    @torch.no_grad()
    def decode(self) -> list[tuple[K, Token]]:
        """One token for each row whose prompt was read."""
        members = self._members
        self._mixed.carry([member.adapter for member in members])
        self._mask_BL = functional.pad(self._mask_BL, (0, 1), value=1)
        ids_B1 = torch.tensor(self._next_B, device=self.base.device)[:, None]
        at_B1 = self._mask_BL.sum(1, keepdim=True) - 1
        logits_BV = self._forward(ids_B1, self._mask_BL, at_B1, self._cache)
        told = [drawn(member.row, logits_V) for member, logits_V in zip(members, logits_BV, strict=True)]
        self._next_B = [token_id for _, token_id in told]
        self._keep([place for place, (token, _) in enumerate(told) if token.finish_reason is None])
        return [(member.key, token) for member, (token, _) in zip(members, told, strict=True)]

    def _forward(self, ids_BL: Tensor, mask_BL: Tensor, at_BL: Tensor, cache: Cache) -> Tensor:
        """Logits of the next token of each row, shape (B, V)."""
        try:
            return self.base.model(
                input_ids=ids_BL,
                attention_mask=mask_BL,
                position_ids=at_BL,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
        finally:
            self._mixed.put_down()

    def _join(self, member: Member[K], cache: Cache, token_id: int) -> None:
        """Lay a row that was read alone under the others; the shorter side is padded on the left."""
        ones_1L = torch.ones(1, member.read, dtype=torch.long, device=self.base.device)
        if not self._members:
            self._cache, self._mask_BL = cache, ones_1L
        else:
            longest = max(self._mask_BL.shape[1], member.read)
            for mine, its in zip(_layers(self._cache), _layers(cache), strict=True):
                mine.join(its, longest)
            self._mask_BL = torch.cat([_left_padded(self._mask_BL, longest, -1), _left_padded(ones_1L, longest, -1)])
        self._members.append(member)
        self._next_B.append(token_id)

    def _keep(self, places: list[int]) -> None:
        """Go on with these rows alone."""
        if len(places) == len(self._members):
            return
        self._members = [self._members[place] for place in places]
        self._next_B = [self._next_B[place] for place in places]
        kept_B = torch.tensor(places, dtype=torch.long, device=self.base.device)
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


def _cache() -> Cache:
    # Without the config: every layer keeps all columns, and windows of attention are cut by the mask. Layers that forget
    # could not be laid under each other.
    return Cache(layer_class_to_replicate=Growing)


def _layers(cache: Cache) -> list[Growing]:
    return cast(list[Growing], cache.layers)


def _left_padded(values: Tensor, length: int, dim: int) -> Tensor:
    """Zeros before `values` along `dim` (-1 or -2), up to `length`."""
    missing = length - values.shape[dim]
    return functional.pad(values, (missing, 0) if dim == -1 else (0, 0, missing, 0)) if missing else values
