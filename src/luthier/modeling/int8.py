"""Frozen matrices in 8 bits: half the bytes of bf16, and products that are as right.

Row o of a matrix is `q_OI[o] * s_O[o]`, with s so chosen that the largest entry of the row becomes 127. A scale is a number that
the type of the activations holds exactly, and so is every whole number up to 127: nothing is rounded but the weight itself,
once. Only the matrix of the product at hand is ever there in full width. Shapes as suffixes: T tokens, O outputs, I inputs.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import torch
from torch import Tensor

_MOST = 127


@dataclass(frozen=True)
class Int8:
    """A matrix, and the type that it takes part in products in."""

    q_OI: Tensor
    s_O: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.q_OI.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.s_O.dtype

    @property
    def device(self) -> torch.device:
        return self.s_O.device

    def whole(self) -> Tensor:
        """The matrix that this stands for, fp32."""
        return self.q_OI.float() * self.s_O.float()[:, None]


def in_8_bits(weight_OI: Tensor) -> Int8:
    """The nearest that 8 bits a weight come to it, row by row."""
    whole_OI = weight_OI.float()
    s_O = (whole_OI.abs().amax(dim=1) / _MOST).to(weight_OI.dtype)
    s_O[s_O == 0] = 1
    q_OI = (whole_OI / s_O.float()[:, None]).round_().clamp_(-_MOST, _MOST)
    return Int8(q_OI.to(torch.int8), s_O)


_room = threading.local()


def widened(weight: Int8) -> Tensor:
    """The whole numbers of `weight` in its type, until this thread calls again: a new buffer costs more than to fill it."""
    count = weight.q_OI.numel()
    flat: Tensor | None = getattr(_room, "flat", None)
    if flat is None or len(flat) < count or flat.dtype != weight.dtype or flat.device != weight.device:
        flat = _room.flat = torch.empty(count, dtype=weight.dtype, device=weight.device)
    return flat[:count].view(weight.shape).copy_(weight.q_OI)
