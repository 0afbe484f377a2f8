"""Several adapters in one batch: each row of it is answered with its own, in one pass over the frozen base.

The A of all adapters stand under each other, so that one product gives every row the inner values of all of them; those that
are not the row's own are set to zero, and one product with all B adds what is left. Shapes as suffixes: B rows of the
batch, P inner values of all adapters together, I inputs of a layer, O its outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from luthier.modeling.lora import Adapter, LoraLayer, Pair


@dataclass(frozen=True)
class _Stack:
    """The pairs of one layer, under each other, the scale in B."""

    a_PI: Tensor
    b_PO: Tensor
    owner_P: Tensor
    """Which adapter each inner value belongs to, by its place."""

    def added(self, layer: LoraLayer, x: Tensor, rows_B: Tensor) -> Tensor:
        """The layer's answer, each row with the adapter of this place; -1 is none."""
        y = layer.base_forward(x)
        h = x @ self.a_PI.t()
        keep_BP = rows_B[:, None] == self.owner_P
        return y + (h * keep_BP[:, None, :]) @ self.b_PO


class Mixed:
    """Some adapters of one base, ready to be asked for by row. Not for two threads at once."""

    def __init__(self, layers: dict[str, LoraLayer], dtype: torch.dtype) -> None:
        self._layers = layers
        self._dtype = dtype
        self._adapters: tuple[Adapter, ...] = ()
        self._stacks: dict[str, _Stack] = {}

    def carry(self, rows: Sequence[Adapter | None]) -> None:
        """From now on row n of a batch is answered with `rows[n]`, or by the bare base."""
        wanted = tuple({id(adapter): adapter for adapter in rows if adapter is not None}.values())
        if {id(each) for each in wanted} != {id(each) for each in self._adapters}:
            self._adapters = wanted
            self._stacks = {path: stack for path in self._layers if (stack := self._stack(path)) is not None}
        places = {id(adapter): place for place, adapter in enumerate(self._adapters)}
        device = next(iter(self._stacks.values())).a_PI.device if self._stacks else None
        rows_B = torch.tensor([-1 if adapter is None else places[id(adapter)] for adapter in rows], device=device)
        for path, layer in self._layers.items():
            stack = self._stacks.get(path)
            layer.pair, layer.mask = None, None
            layer.rows = None if stack is None else _Rows(stack, rows_B)

    def put_down(self) -> None:
        """The bare base answers again."""
        for layer in self._layers.values():
            layer.rows = None

    def _stack(self, path: str) -> _Stack | None:
        pairs = [(place, pair) for place, adapter in enumerate(self._adapters) if (pair := adapter.pairs.get(path)) is not None]
        if not pairs:
            return None
        owner_P = torch.cat([torch.full((pair.a_RI.shape[0],), place) for place, pair in pairs])
        return _Stack(
            a_PI=torch.cat([pair.a_RI.detach() for _, pair in pairs]).to(self._dtype),
            b_PO=torch.cat([_scaled(pair) for _, pair in pairs]).to(self._dtype),
            owner_P=owner_P.to(pairs[0][1].a_RI.device),
        )


@dataclass(frozen=True)
class _Rows:
    """What one layer does with the rows of a batch."""

    stack: _Stack
    rows_B: Tensor

    def __call__(self, layer: LoraLayer, x: Tensor) -> Tensor:
        return self.stack.added(layer, x, self.rows_B)


def _scaled(pair: Pair) -> Tensor:
    return (pair.scale * pair.b_OR.detach()).t()
