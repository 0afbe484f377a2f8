"""Passes over a base that the fast engine knows, without transformers: weights joined, attention straight to each row's own
columns, and an adapter a row (`kernels_decoding.py`).

Shapes as suffixes: B rows, T tokens of a pass, D width, V vocabulary, I inputs of a layer, O its outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from luthier.modeling import fast_blocks, kernels
from luthier.modeling.fast_weights import Block, FastWeights
from luthier.modeling.kernels_decoding import Attending, Kept, LowRank, LowRanks, Seats, linear
from luthier.modeling.load import LoadedBase
from luthier.modeling.lora import Adapter

_ROOM = 64
"""Columns that a row has room for before it grows, beside its prompt."""
_JOINED = ("qkv", "out", "gate_up", "down")

Add = Callable[[int, str, Tensor, Tensor], None]
"""Adds what adapters make of x (T, I) to y (T, O), at a block's joined layers of that name."""


@dataclass(eq=False)
class _Row:
    """A row of the batch."""

    kept: Kept
    adapter: Adapter | None

    @property
    def length(self) -> int:
        return self.kept.length


class FastPasses:
    """Implements `passes.Passes`."""

    def __init__(self, base: LoadedBase, weights: FastWeights) -> None:
        self._base = base
        self._weights = weights
        self._low_ranks: dict[int, tuple[Adapter, list[dict[str, LowRank]]]] = {}
        self._mixed: tuple[tuple[int, ...], list[dict[str, LowRanks]]] = ((), [])

    def begin(self, adapter: Adapter | None, prompt: Sequence[int], most: int) -> _Row:
        """See `passes.Passes`."""
        like, room = self._weights.embed_VD, len(prompt) + min(most, _ROOM)
        return _Row(Kept(len(self._weights.blocks), self._weights.heads, like, room), adapter)

    def end(self, row: _Row) -> None:
        """See `passes.Passes`. What is kept of it goes with it."""

    @torch.no_grad()
    def read(self, rows: Sequence[_Row], pieces: Sequence[Sequence[int]]) -> Tensor:
        """See `passes.Passes`."""
        ends = list(accumulate(map(len, pieces)))
        shares = [
            (slice(end - len(piece), end), self._own(row.adapter))
            for row, piece, end in zip(rows, pieces, ends, strict=True)
            if row.adapter is not None
        ]

        def add(number: int, name: str, x_TI: Tensor, y_TO: Tensor) -> None:
            widths = getattr(self._weights.blocks[number], name).widths
            for part, own in shares:
                own[number][name].add(x_TI[part], y_TO[part], widths)

        kept = [row.kept for row, piece in zip(rows, pieces, strict=True) for _ in piece]
        places = [row.length + n for row, piece in zip(rows, pieces, strict=True) for n in range(len(piece))]
        last_TD = self._through([token for piece in pieces for token in piece], Seats(kept, places), add)
        return self._logits(last_TD[[end - 1 for end in ends]])

    @torch.no_grad()
    def decode(self, rows: Sequence[_Row], tokens: Sequence[int]) -> Tensor:
        """See `passes.Passes`."""
        mixed = self._of([row.adapter for row in rows])

        def add(number: int, name: str, x_TI: Tensor, y_TO: Tensor) -> None:
            mixed[number][name].add(x_TI, y_TO)

        kept = [row.kept for row in rows]
        return self._logits(self._through(tokens, Seats(kept, [each.length for each in kept]), add))

    def _through(self, tokens: Sequence[int], seats: Seats, add: Add) -> Tensor:
        """Hidden states after the last block, shape (T, D)."""
        weights = self._weights
        for row, place in dict(zip(seats.rows, seats.places, strict=True)).items():  # the last token of each
            row.grow_to(place + 1)
        attending = Attending(seats, seats.as_struct, weights.heads, (weights.cos_LE, weights.sin_LE), weights.window)
        x_TD = functional.embedding(torch.tensor(tokens, device=self._base.device), weights.embed_VD)
        if weights.embed_scale != 1.0:
            x_TD = x_TD * weights.embed_scale
        for number, block in enumerate(weights.blocks):
            x_TD = self._block(block, number, x_TD, attending, add)
        for row, place in zip(seats.rows, seats.places, strict=True):
            row.length = max(row.length, place + 1)
        return x_TD

    def _block(self, block: Block, number: int, x_TD: Tensor, attending: Attending, add: Add) -> Tensor:
        weights = self._weights

        def through(name: str, x_TI: Tensor) -> Tensor:
            joined = getattr(block, name)
            y_TO = linear(x_TI, joined.weight_OI, joined.bias_O)
            add(number, name, x_TI, y_TO)
            return y_TO

        qkv_TX = through("qkv", kernels.rms_norm(x_TD, block.norm_in_D, weights.eps))
        heads_TX = attending(fast_blocks.normed_heads(weights, block, qkv_TX), number)
        mid_TD, normed_TD = kernels.add_rms_norm(x_TD, through("out", heads_TX), block.norm_mid_D, weights.eps)
        return through("down", kernels.gated(through("gate_up", normed_TD), weights.gate)).add_(mid_TD)

    def _logits(self, last_TD: Tensor) -> Tensor:
        weights = self._weights
        return linear(kernels.rms_norm(last_TD, weights.norm_D, weights.eps), weights.head_VD)

    def _own(self, adapter: Adapter) -> list[dict[str, LowRank]]:
        """The adapter at each block, in the base's type."""
        found = self._low_ranks.get(id(adapter))
        if found is None:
            dtype = self._base.dtype
            blocks = self._weights.blocks
            made = [{name: LowRank(adapter, getattr(block, name), dtype) for name in _JOINED} for block in blocks]
            self._low_ranks[id(adapter)] = found = (adapter, made)
        return found[1]

    def _of(self, adapters: Sequence[Adapter | None]) -> list[dict[str, LowRanks]]:
        """Those of a batch, ready to be added; the same batch is asked token after token."""
        key = tuple(map(id, adapters))
        if key != self._mixed[0]:
            wanted = set(key)
            self._low_ranks = {name: each for name, each in self._low_ranks.items() if name in wanted}
            own = [None if adapter is None else self._own(adapter) for adapter in adapters]
            blocks = [
                {
                    name: LowRanks([None if each is None else each[number][name] for each in own], getattr(block, name))
                    for name in _JOINED
                }
                for number, block in enumerate(self._weights.blocks)
            ]
            self._mixed = (key, blocks)
        return self._mixed[1]
