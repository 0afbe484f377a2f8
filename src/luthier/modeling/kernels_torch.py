"""What kernels.c computes, by torch: on every device, and the oracle in its tests.

Shapes: T packed tokens, D the model's width, X heads side by side, B rows of a bucket with L the longest, K key heads,
G query heads for each, E width of a head. In a bucket queries are (B K, G L, E), keys and values (B K, L, E).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

Gate = Literal["silu", "gelu_tanh"]


class Heads(Protocol):
    """How attention is cut into heads."""

    @property
    def queries(self) -> int: ...
    @property
    def keys(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def group(self) -> int: ...


class Bucket:
    """Rows of similar length: where each starts among the packed tokens, and how long it is. room: places for each."""

    def __init__(self, starts: Sequence[int], lengths: Sequence[int], device: torch.device, room: int = 0) -> None:
        self.count, self.longest = len(lengths), max(room, *lengths)
        self.starts, self.lengths = torch.tensor(starts), torch.tensor(lengths)
        self._device = device
        self._places: tuple[Tensor, Tensor] | None = None

    @property
    def places(self) -> tuple[Tensor, Tensor]:
        """For each place of (B, L): the token that stands there (padding repeats the row's last), and whether it is real."""
        if self._places is None:
            place_1L = torch.arange(self.longest)[None]
            token_BL = self.starts[:, None] + torch.minimum(place_1L, self.lengths[:, None] - 1)
            real_BL = place_1L < self.lengths[:, None]
            self._places = (token_BL.to(self._device), real_BL.to(self._device))
        return self._places


@dataclass(frozen=True)
class Mask:
    """Which places of (T, I) are dropped: those whose random number, in [-2^31, 2^31), lies below `below`."""

    key: int
    """Of the whole mask, in [-2^63, 2^63)."""
    first: int
    """Number of the first token."""
    below: int


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight, shape (T, D). weight in fp32. https://arxiv.org/abs/1910.07467"""
    wide_TD = x_TD.float()
    return (wide_TD * torch.rsqrt(wide_TD.pow(2).mean(-1, keepdim=True) + eps) * weight_D).to(x_TD.dtype)


def add_rms_norm(x_TD: Tensor, delta_TD: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x + delta, and its norm."""
    sum_TD = x_TD + delta_TD
    return sum_TD, rms_norm(sum_TD, weight_D, eps)


def rms_norm_backward(dy_TD: Tensor, x_TD: Tensor, weight_D: Tensor, eps: float, residual_TD: Tensor | None) -> Tensor:
    """The gradient with respect to x, plus the residual if there is one. The weight is frozen."""
    wide_TD = x_TD.float()
    inverse_T1 = torch.rsqrt(wide_TD.pow(2).mean(-1, keepdim=True) + eps)
    slope_TD, unit_TD = dy_TD.float() * weight_D, wide_TD * inverse_T1
    dx_TD = inverse_T1 * (slope_TD - unit_TD * (slope_TD * unit_TD).mean(-1, keepdim=True))
    return (dx_TD if residual_TD is None else dx_TD + residual_TD.float()).to(x_TD.dtype)


def gated(gate_up_TI: Tensor, gate: Gate) -> Tensor:
    """gate(first half) * second half. https://arxiv.org/abs/2002.05202"""
    return _gated(gate_up_TI.float(), gate).to(gate_up_TI.dtype)


def gated_backward(gate_up_TI: Tensor, dy_TI: Tensor, gate: Gate) -> tuple[Tensor, Tensor]:
    """The gradient with respect to both halves, and what `gated` gave, computed again."""
    with torch.enable_grad():
        leaf_TI = gate_up_TI.detach().float().requires_grad_()
        y_TI = _gated(leaf_TI, gate)
    (slope_TI,) = torch.autograd.grad(y_TI, leaf_TI, dy_TI.float())
    return slope_TI.to(gate_up_TI.dtype), y_TI.detach().to(gate_up_TI.dtype)


def heads_out(qkv_TX: Tensor, bucket: Bucket, tables: tuple[Tensor, Tensor], heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a bucket, the first two turned by their place (https://arxiv.org/abs/2104.09864);
    zeros at padding. tables: cosines and sines by place, fp32, shape (places, E)."""
    token_BL, real_BL = bucket.places
    rows, length, width = bucket.count, bucket.longest, heads.width
    all_BLHE = qkv_TX[token_BL.flatten()].view(rows, length, -1, width).masked_fill(~real_BL[:, :, None, None], 0)
    cos, sin = (table[:length].view(1, length, 1, width) for table in tables)
    turned = all_BLHE[:, :, : heads.queries + heads.keys].float()
    turned = rotated(turned, cos, sin).to(qkv_TX.dtype)
    query = turned[:, :, : heads.queries].unflatten(2, (heads.keys, heads.group)).permute(0, 2, 3, 1, 4)
    key = turned[:, :, heads.queries :].transpose(1, 2)
    value = all_BLHE[:, :, heads.queries + heads.keys :].transpose(1, 2)
    flat = (rows * heads.keys, -1, width)
    return query.reshape(flat), key.reshape(flat), value.reshape(flat)


def heads_back(
    grads: tuple[Tensor, Tensor, Tensor], bucket: Bucket, tables: tuple[Tensor, Tensor], heads: Heads, dqkv_TX: Tensor
) -> None:
    """Write the gradient of the bucket's tokens into `dqkv_TX`: the adjoint of `heads_out`."""
    token_BL, real_BL = bucket.places
    rows, length, width = bucket.count, bucket.longest, heads.width
    query, key, value = (grad.view(rows, heads.keys, -1, length, width) for grad in grads)
    cos, sin = (table[:length].view(1, length, 1, width) for table in tables)
    turned = torch.cat([each.permute(0, 3, 1, 2, 4).flatten(2, 3) for each in (query, key)], dim=2).float()
    turned = turned * cos - _quarter(turned * sin)
    whole = torch.cat([turned.to(value.dtype), value.permute(0, 3, 1, 2, 4).flatten(2, 3)], dim=2).flatten(2)
    dqkv_TX[token_BL[real_BL]] = whole[real_BL]


def attention_out(answers: Tensor, bucket: Bucket, heads: Heads, out_TX: Tensor) -> None:
    """Write a bucket's answers (B K, G L, E) to its tokens, heads side by side."""
    token_BL, real_BL = bucket.places
    by_place = answers.view(bucket.count, heads.keys, heads.group, bucket.longest, heads.width).permute(0, 3, 1, 2, 4)
    out_TX[token_BL[real_BL]] = by_place.flatten(2)[real_BL]


def attention_in(out_TX: Tensor, bucket: Bucket, heads: Heads) -> Tensor:
    """The adjoint of `attention_out`: a bucket's share of (T, X) as (B K, G L, E), zeros at padding."""
    token_BL, real_BL = bucket.places
    by_place = out_TX[token_BL.flatten()].view(bucket.count, bucket.longest, heads.keys, heads.group, heads.width)
    by_place = by_place.masked_fill(~real_BL[:, :, None, None, None], 0)
    return by_place.permute(0, 2, 3, 1, 4).reshape(bucket.count * heads.keys, -1, heads.width)


def causal_softmax_(scores: Tensor, scale: float, window: int) -> None:
    """In place over the last dimension of (B K, G L, L): place l sees places 0 to l, or the last `window` of them; 0 = all."""
    rows, queries, length = scores.shape
    place = torch.arange(length, device=scores.device)
    back_LL = place[:, None] - place[None, :]
    seen_LL = (back_LL >= 0) & (back_LL < window) if window else back_LL >= 0
    by_place = scores.view(rows, queries // length, length, length).float() * scale
    scores.copy_(by_place.masked_fill(~seen_LL, float("-inf")).softmax(-1).view(scores.shape))


def softmax_backward_(probs: Tensor, dprobs: Tensor, scale: float) -> None:
    """In place: the gradient of probabilities becomes that of the scores before they were scaled."""
    wide, slope = probs.float(), dprobs.float()
    dprobs.copy_(wide * (slope - (wide * slope).sum(-1, keepdim=True)) * scale)


def logprob_slope_(logits_CV: Tensor, target_C: Tensor) -> Tensor:
    """Log-probability of each target, shape (C,), fp32; in place, logits become its slope: onehot(target) - softmax."""
    logp_CV = logits_CV.float().log_softmax(-1)
    logp_C = logp_CV.gather(1, target_C[:, None]).squeeze(1)
    slope_CV = logp_CV.exp_().neg_()
    slope_CV.scatter_add_(1, target_C[:, None], slope_CV.new_ones(len(target_C), 1))
    logits_CV.copy_(slope_CV)
    return logp_C


def dropped(x_TI: Tensor, mask: Mask) -> Tensor:
    """x with zeros where the mask drops. Its own adjoint."""
    return x_TI.masked_fill(_is_dropped(x_TI, mask), 0)


def add_dropped_(sum_TI: Tensor, x_TI: Tensor, mask: Mask) -> None:
    """In place: sum + `dropped(x)`."""
    sum_TI.add_(dropped(x_TI, mask))


def _is_dropped(x_TI: Tensor, mask: Mask) -> Tensor:
    """A number of 64 bits for each token (SplitMix64, https://doi.org/10.1145/2714064.2660195), and from that and the column one
    of 32 bits for each place (multipliers from https://nullprogram.com/blog/2018/07/31/). Integers of torch wrap as C's do."""
    tokens, columns = x_TI.shape
    token_T = torch.arange(mask.first, mask.first + tokens, device=x_TI.device)
    row_T = token_T * -0x61C8864680B583EB + mask.key
    row_T = (row_T ^ _right(row_T, 30, 64)) * -0x40A7B892E31B1A47
    row_T = (row_T ^ _right(row_T, 27, 64)) * -0x6B2FB644ECCEEE15
    row_T = row_T ^ _right(row_T, 31, 64)
    low_T1, high_T1 = row_T.to(torch.int32)[:, None], (row_T >> 32).to(torch.int32)[:, None]
    draw_TI = torch.arange(columns, device=x_TI.device, dtype=torch.int32) ^ low_T1
    draw_TI = draw_TI.bitwise_xor_(_right(draw_TI, 17, 32)).mul_(-0x12A52B45)
    draw_TI = draw_TI.bitwise_xor_(_right(draw_TI, 11, 32)).mul_(-0x53B3E4AF).add_(high_T1)
    draw_TI = draw_TI.bitwise_xor_(_right(draw_TI, 15, 32)).mul_(0x31848BAB)
    return draw_TI < mask.below


def _right(x: Tensor, by: int, bits: int) -> Tensor:
    """Shifted to the right with zeros coming in, where torch's own shift repeats the sign."""
    return (x >> by).bitwise_and_((1 << bits - by) - 1)


def _gated(gate_up_TI: Tensor, gate: Gate) -> Tensor:
    gate_TI, up_TI = gate_up_TI.chunk(2, -1)
    return (functional.silu(gate_TI) if gate == "silu" else functional.gelu(gate_TI, approximate="tanh")) * up_TI


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Heads, fp32, turned by their places."""
    return x * cos + _quarter(x) * sin


def _quarter(x: Tensor) -> Tensor:
    """A quarter turn of each pair (i, i + E/2)."""
    low, high = x.chunk(2, -1)
    return torch.cat([-high, low], -1)
