"""Attention of packed rows, forward and back by hand.

Rows of similar length lie under each other in a bucket, padded on the right; query heads that share a key head lie below
each other, so that one batched product serves them all. Short buckets keep the probabilities (L^2 a row and head); long
ones go through the fused attention of torch, whose memory is linear in L.

Shapes: T packed tokens, X = (queries + 2 keys) x width, B rows of a bucket, L its longest row, K key heads, G query heads
for each, E width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from luthier.bases.footprint import KEPT_SCORES_TO
from luthier.modeling import kernels
from luthier.modeling.fast_weights import FastWeights
from luthier.modeling.shapes import bounded

_SPREAD = 0.6
"""A bucket's shortest row is at least this share of its longest."""


@dataclass(frozen=True)
class Kept:
    """What the way back of one bucket needs."""

    query: Tensor
    key: Tensor
    value: Tensor
    probs_or_out: Tensor


class Attention:
    """The rows of one pass. The same for all layers."""

    def __init__(self, lengths: Sequence[int], weights: FastWeights) -> None:
        self._weights = weights
        self._buckets = [_bucket(starts, sizes, weights) for starts, sizes in _grouped(lengths)]

    def forward(self, qkv_TX: Tensor) -> tuple[Tensor, list[Kept]]:
        """Returns the heads' answers side by side, shape (T, queries x width), and what `backward` needs."""
        heads = self._weights.heads
        out_TX = qkv_TX.new_empty(qkv_TX.shape[0], heads.queries * heads.width)
        return out_TX, [self._forward(bucket, qkv_TX, out_TX) for bucket in self._buckets]

    def backward(self, dout_TX: Tensor, kept: Sequence[Kept]) -> Tensor:
        """The gradient with respect to `qkv_TX`."""
        dqkv_TX = dout_TX.new_empty(dout_TX.shape[0], self._weights.heads.qkv_width)
        for bucket, each in zip(self._buckets, kept, strict=True):
            self._backward(bucket, dout_TX, each, dqkv_TX)
        return dqkv_TX

    def _forward(self, bucket: kernels.Bucket, qkv_TX: Tensor, out_TX: Tensor) -> Kept:
        weights, heads = self._weights, self._weights.heads
        query, key, value = kernels.heads_out(qkv_TX, bucket, (weights.cos_LE, weights.sin_LE), heads)
        if bucket.longest > KEPT_SCORES_TO:
            with torch.enable_grad():
                query, key, value = (each.detach().requires_grad_() for each in (query, key, value))
                out = _fused((query, key, value), heads.group, heads.scale, weights.window)
            kernels.attention_out(out.detach(), bucket, heads, out_TX)
            return Kept(query, key, value, out)
        probs = torch.bmm(query, key.transpose(1, 2))
        kernels.causal_softmax_(probs, heads.scale, weights.window)
        kernels.attention_out(torch.bmm(probs, value), bucket, heads, out_TX)
        return Kept(query, key, value, probs)

    def _backward(self, bucket: kernels.Bucket, dout_TX: Tensor, kept: Kept, dqkv_TX: Tensor) -> None:
        weights, heads = self._weights, self._weights.heads
        dout = kernels.attention_in(dout_TX, bucket, heads)
        if bucket.longest > KEPT_SCORES_TO:
            leaves = (kept.query, kept.key, kept.value)
            dquery, dkey, dvalue = torch.autograd.grad(kept.probs_or_out, leaves, dout)
        else:
            probs = kept.probs_or_out
            dvalue = torch.bmm(probs.transpose(1, 2), dout)
            dscores = torch.bmm(dout, kept.value.transpose(1, 2))
            kernels.softmax_backward_(probs, dscores, heads.scale)
            dquery, dkey = torch.bmm(dscores, kept.key), torch.bmm(dscores.transpose(1, 2), kept.query)
        kernels.heads_back((dquery, dkey, dvalue), bucket, (weights.cos_LE, weights.sin_LE), heads, dqkv_TX)


def _bucket(starts: Sequence[int], lengths: Sequence[int], weights: FastWeights) -> kernels.Bucket:
    return kernels.Bucket(starts, lengths, weights.embed_VD.device, min(bounded(max(lengths)), len(weights.cos_LE)))


def _fused(leaves: tuple[Tensor, Tensor, Tensor], group: int, scale: float, window: int) -> Tensor:
    """torch's own attention on (B K, G L, E), for long rows."""
    query, key, value = leaves
    length = key.shape[1]
    query_NGLE = query.unflatten(1, (group, length))
    key_NGLE, value_NGLE = (each[:, None].expand(-1, group, -1, -1) for each in (key, value))
    if not window or window >= length:
        out = functional.scaled_dot_product_attention(query_NGLE, key_NGLE, value_NGLE, scale=scale, is_causal=True)
    else:
        place = torch.arange(length, device=key.device)
        back_LL = place[:, None] - place[None, :]
        seen_LL = (back_LL >= 0) & (back_LL < window)
        out = functional.scaled_dot_product_attention(query_NGLE, key_NGLE, value_NGLE, attn_mask=seen_LL, scale=scale)
    return out.flatten(1, 2)


def _grouped(lengths: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Rows as starts and lengths, longest first, cut into groups of similar length."""
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    rows = sorted(zip(starts, lengths, strict=False), key=lambda row: -row[1])
    group: list[tuple[int, int]] = []
    for row in rows:
        if group and row[1] < _SPREAD * group[0][1]:
            yield [start for start, _ in group], [length for _, length in group]
            group = []
        group.append(row)
    yield [start for start, _ in group], [length for _, length in group]
