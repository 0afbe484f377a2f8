"""Adapters as the fast engine multiplies with them: in the base's type, and joined where their layers are joined.

For one `Joined` of the base, an adapter has A of all its layers below each other (one product gives all inner values) and
B of each layer apart. With h = x A^T of shape (T, R) and s the scale: y += s h B^T; back: u = s dy B, dA = u^T x,
dB = s dy^T h, dx += u A. Written out so that nothing is kept but h.

With dropout (`dropout.py`), each layer has an x of its own in h and dA, a share of what is added to dx, and s is larger.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import Parameter

from luthier.modeling import kernels, products
from luthier.modeling.dropout import Drop
from luthier.modeling.fast_weights import FastWeights, Joined
from luthier.modeling.lora import Adapter


@dataclass(frozen=True)
class Part:
    """The pair of one layer: which inner values and which outputs are its own."""

    path: str
    inner: slice
    outer: slice
    b_OR: Tensor
    a: Parameter
    b: Parameter


class JoinedPairs:
    """An adapter's pairs on one `Joined`."""

    def __init__(self, adapter: Adapter, joined: Joined) -> None:
        weight_OI, rank = joined.weight_OI, adapter.shape.rank
        starts = [sum(joined.widths[:place]) for place in range(len(joined.widths))]
        present = [place for place, path in enumerate(joined.paths) if path in adapter.pairs]
        self.scale = adapter.shape.scale
        empty = partial(torch.empty, dtype=weight_OI.dtype, device=weight_OI.device)
        self.a_RI = empty(rank * len(present), weight_OI.shape[1])
        self.parts: list[Part] = []
        for number, place in enumerate(present):
            path = joined.paths[place]
            pair = adapter.pairs[path]
            outer = slice(starts[place], starts[place] + joined.widths[place])
            b_OR = empty(joined.widths[place], rank)
            self.parts.append(Part(path, slice(number * rank, (number + 1) * rank), outer, b_OR, pair.a_RI, pair.b_OR))

    def copies(self) -> tuple[list[Tensor], list[Tensor]]:
        """Pairs of (copy, parameter)."""
        own = [self.a_RI[part.inner] for part in self.parts] + [part.b_OR for part in self.parts]
        learned = [part.a.detach() for part in self.parts] + [part.b.detach() for part in self.parts]
        return own, learned

    def forward(self, x_TI: Tensor, y_TO: Tensor, drop: Drop | None) -> Tensor:
        """Add the update to `y_TO` in place. Returns h (T, R)."""
        h_TR = _side_by_side([products.linear(fed_TI, self.a_RI[inner]) for inner, fed_TI in self._fed(x_TI, drop)], 1)
        for part in self.parts:
            y_TO[:, part.outer].addmm_(h_TR[:, part.inner], part.b_OR.t(), alpha=self._scale(drop))
        return h_TR

    def inner_slope(self, dy_TO: Tensor, drop: Drop | None) -> Tensor:
        """u = s dy B, shape (T, R)."""
        u_TR = dy_TO.new_empty(dy_TO.shape[0], self.a_RI.shape[0])
        for part in self.parts:
            u_TR[:, part.inner] = products.back(dy_TO[:, part.outer], part.b_OR)
        return u_TR.mul_(self._scale(drop))

    def learn(self, x_TI: Tensor, h_TR: Tensor, dy_TO: Tensor, u_TR: Tensor, drop: Drop | None) -> None:
        """Add to the gradients of A and B."""
        da_RI = _side_by_side([u_TR[:, inner].t() @ fed_TI for inner, fed_TI in self._fed(x_TI, drop)], 0)
        for part in self.parts:
            _add_grad(part.a, da_RI[part.inner])
            # This way round: a product with the long side first is up to twenty times slower in fp32.
            _add_grad(part.b, (h_TR[:, part.inner].t() @ dy_TO[:, part.outer]).mul_(self._scale(drop)).t())

    def add_input_slope(self, dx_TI: Tensor, u_TR: Tensor, drop: Drop | None) -> None:
        """dx += u A, but for what was dropped."""
        if drop is None:
            dx_TI.addmm_(u_TR, self.a_RI)
            return
        for part in self.parts:
            kernels.add_dropped_(dx_TI, products.back(u_TR[:, part.inner], self.a_RI[part.inner]), drop.at(part.path))

    def _fed(self, x_TI: Tensor, drop: Drop | None) -> Iterator[tuple[slice, Tensor]]:
        """Which rows of A see what of x."""
        if drop is None:
            yield slice(None), x_TI
            return
        for part in self.parts:
            yield part.inner, kernels.dropped(x_TI, drop.at(part.path))

    def _scale(self, drop: Drop | None) -> float:
        return self.scale if drop is None else self.scale * drop.scale


class Working:
    """All of one adapter, block by block."""

    def __init__(self, adapter: Adapter, weights: FastWeights) -> None:
        self.blocks = [
            {name: JoinedPairs(adapter, getattr(block, name)) for name in ("qkv", "out", "gate_up", "down")}
            for block in weights.blocks
        ]
        pairs = [each.copies() for block in self.blocks for each in block.values()]
        self._copies = [copy for copies, _ in pairs for copy in copies]
        self._learned = [learned for _, all_learned in pairs for learned in all_learned]

    def refresh(self) -> None:
        """Take the parameters as they are now."""
        # At every pass: fused optimisers change parameters without counting their version up.
        with torch.no_grad():
            cast(Any, torch)._foreach_copy_(self._copies, self._learned)  # it has no public name


@dataclass(frozen=True)
class Share:
    """Which of the packed tokens an adapter works on."""

    start: int
    end: int
    working: Working
    drop: Drop | None


class LoraAt:
    """All adapters of a pass at one `Joined` of one block."""

    def __init__(self, shares: Sequence[Share], block: int, name: str) -> None:
        pairs = [(slice(share.start, share.end), share.working.blocks[block][name], share.drop) for share in shares]
        self._pairs = [each for each in pairs if each[1].parts]

    def forward(self, x_TI: Tensor, y_TO: Tensor) -> list[Tensor]:
        return [pairs.forward(x_TI[own], y_TO[own], drop) for own, pairs, drop in self._pairs]

    def inner_slopes(self, dy_TO: Tensor) -> list[Tensor]:
        return [pairs.inner_slope(dy_TO[own], drop) for own, pairs, drop in self._pairs]

    def learn(self, x_TI: Tensor, h: Sequence[Tensor], dy_TO: Tensor, u: Sequence[Tensor]) -> None:
        for (own, pairs, drop), h_TR, u_TR in zip(self._pairs, h, u, strict=True):
            pairs.learn(x_TI[own], h_TR, dy_TO[own], u_TR, drop)

    def add_input_slope(self, dx_TI: Tensor, u: Sequence[Tensor]) -> None:
        for (own, pairs, drop), u_TR in zip(self._pairs, u, strict=True):
            pairs.add_input_slope(dx_TI[own], u_TR, drop)


def _side_by_side(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _add_grad(parameter: Parameter, grad: Tensor) -> None:
    if parameter.grad is None:
        parameter.grad = grad.to(parameter.dtype, copy=True, memory_format=torch.contiguous_format)
    else:
        parameter.grad.add_(grad)
