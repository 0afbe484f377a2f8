"""LoRA: a low-rank update beside each frozen linear layer. Hu et al. 2021, https://arxiv.org/abs/2106.09685

y = x W^T + scale * (x A^T) B^T with A (rank, in) random and B (out, rank) zero, so that at step 0 nothing has changed.
Shapes as suffixes: I inputs of a layer, O its outputs, R rank, `_` any leading dimensions. Files: see `adapter_files`.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from transformers import PreTrainedModel

from luthier.modeling import kernels
from luthier.modeling.dropout import Drop
from luthier.modeling.kernels import Mask
from luthier.modeling.quantised import is_linear
from luthier.modeling.types import LoraShape


@dataclass(frozen=True)
class Pair:
    """The update of one layer; fp32 whatever the base is."""

    a_RI: Parameter
    b_OR: Parameter
    scale: float

    def merged_into(self, weight_OI: Tensor) -> Tensor:
        """The layer's weight with the update added, in the weight's own type."""
        update_OI = self.scale * (self.b_OR.detach() @ self.a_RI.detach())
        return (weight_OI.float() + update_OI).to(weight_OI.dtype)


@dataclass(frozen=True)
class Adapter:
    """One adapter: a pair for each layer that learns, by the layer's path in the model."""

    shape: LoraShape
    pairs: dict[str, Pair]

    @property
    def parameters(self) -> dict[str, Parameter]:
        """By PEFT name without prefix, layer by layer, A before B."""
        named: dict[str, Parameter] = {}
        for path, pair in self.pairs.items():
            named[f"{path}.lora_A.weight"] = pair.a_RI
            named[f"{path}.lora_B.weight"] = pair.b_OR
        return named

    @property
    def is_finite(self) -> bool:
        return all(bool(torch.isfinite(weight).all()) for weight in self.parameters.values())


class _Dropped(torch.autograd.Function):
    """`kernels.dropped`, which makes its mask once more on the way back."""

    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, mask: Mask) -> Tensor:
        ctx.mask = mask
        return kernels.dropped(x_NI, mask)

    @staticmethod
    def backward(ctx: Any, *dy_NI: Tensor) -> tuple[Tensor, None]:
        return kernels.dropped(dy_NI[0], ctx.mask), None


class RowsOfAdapters(Protocol):
    """What a layer answers where each row of the batch has an adapter of its own."""

    def __call__(self, layer: LoraLayer, x: Tensor) -> Tensor: ...


class LoraLayer(nn.Module):
    """What a frozen linear layer of any kind becomes: it may carry a pair, and drop a share of the pair's inputs.

    A layer becomes one by a change of its class, not by a wrapper around it: all names in the model stay what they
    are, and those names are the ones that PEFT writes into its files.
    """

    in_features: int
    out_features: int
    pair: Pair | None
    mask: Mask | None
    scale: float
    rows: RowsOfAdapters | None
    """In a batch whose rows have adapters of their own; then there is no `pair`."""

    def base_forward(self, x: Tensor) -> Tensor:
        """The layer's answer without any adapter."""
        return super().forward(x)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name in nn.Linear
        if self.rows is not None:
            return self.rows(self, input)
        y_O = super().forward(input)
        if self.pair is None:
            return y_O
        # Both products in the type of the activations, as autocast would: fp32 stays exact, bf16 stays fast.
        x_NI = input.reshape(-1, self.in_features)
        if self.mask is not None:
            x_NI = cast(Tensor, _Dropped.apply(x_NI, self.mask))
        h_NR = x_NI @ self.pair.a_RI.to(x_NI.dtype).t()
        b_RO = self.pair.b_OR.to(x_NI.dtype).t()
        y_NO = torch.addmm(y_O.reshape(-1, self.out_features), h_NR, b_RO, alpha=self.scale)
        return y_NO.view(y_O.shape)


class Linears:
    """All linear layers of a model but the head, and which adapter they carry now. Not for two threads at once."""

    def __init__(self, model: PreTrainedModel) -> None:
        head = model.get_output_embeddings()
        self.head_path = next((path for path, module in model.named_modules() if module is head), None)
        self.by_path = dict(_linears(model, head))
        for layer in self.by_path.values():
            layer.pair, layer.mask, layer.scale, layer.rows = None, None, 1.0, None
        self.adapter: Adapter | None = None
        self.drop: Drop | None = None

    def carry(self, adapter: Adapter | None, drop: Drop | None = None) -> None:
        """From now on the model answers with `adapter`, or as the bare base."""
        pairs = adapter.pairs if adapter else {}
        for path, layer in self.by_path.items():
            layer.pair, layer.mask, layer.rows = pairs.get(path), None, None
            if layer.pair is not None:
                layer.mask = drop.at(path) if drop else None
                layer.scale = layer.pair.scale * (drop.scale if drop else 1.0)
        self.adapter, self.drop = adapter, drop

    @contextmanager
    def carrying(self, adapter: Adapter | None, drop: Drop | None) -> Generator[None]:
        """For a while."""
        before = self.adapter, self.drop
        self.carry(adapter, drop)
        try:
            yield
        finally:
            self.carry(*before)

    def targeted(self, targets: tuple[str, ...] | None) -> dict[str, LoraLayer]:
        """The layers that learn: all of them, or those with one of the names. Raises: ValueError where there are none."""
        if targets is None:
            chosen = self.by_path
        else:
            chosen = {path: layer for path, layer in self.by_path.items() if path.endswith(tuple(f".{t}" for t in targets))}
        if not chosen:
            raise ValueError("this base model has none of the linear layers that were asked for")
        return chosen


def new_adapter(linears: Linears, shape: LoraShape, seed: int, device: torch.device) -> Adapter:
    """A fresh adapter that changes nothing yet: A is drawn from `seed` alone, B is zero."""
    generator = torch.Generator().manual_seed(seed)
    pairs: dict[str, Pair] = {}
    for path, layer in linears.targeted(shape.targets).items():
        # Drawn on the CPU, whatever the device: the same seed starts the same adapter everywhere.
        a_RI = torch.empty(shape.rank, layer.in_features)
        # As PEFT starts it: kaiming-uniform with a = sqrt(5), which is U(-1/sqrt(I), 1/sqrt(I)).
        nn.init.kaiming_uniform_(a_RI, a=math.sqrt(5), generator=generator)
        b_OR = torch.zeros(layer.out_features, shape.rank)
        pairs[path] = Pair(Parameter(a_RI.to(device)), Parameter(b_OR.to(device)), shape.scale)
    return Adapter(shape, pairs)


@torch.no_grad()
def merge(linears: Linears, adapter: Adapter) -> None:
    """Put the adapter's update into the weights of the base, one layer at a time; it is not the base any more."""
    for path, pair in adapter.pairs.items():
        weight_OI = linears.by_path[path].get_parameter("weight")
        weight_OI.copy_(pair.merged_into(weight_OI))


def _linears(model: PreTrainedModel, head: nn.Module | None) -> Iterator[tuple[str, LoraLayer]]:
    for path, module in model.named_modules():
        if module is head:
            continue
        if is_linear(type(module)):
            cast(Any, module).__class__ = _carrying(type(module))
        if isinstance(module, LoraLayer):
            yield path, module


@cache
def _carrying(kind: type[nn.Module]) -> type[LoraLayer]:
    """Layers of this kind that may carry a pair."""
    return type(f"Lora{kind.__name__}", (LoraLayer, kind), {})
