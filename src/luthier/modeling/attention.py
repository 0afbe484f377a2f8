"""Attention for packed rows: causal inside each row, nothing across rows, and no T x T matrix.

Rows of similar length are laid under each other, padded on the right. Under a causal mask no real token can see what
is to its right, so the padding needs no mask, and the work is the sum of L^2 over rows instead of T^2. All other
layers see the T tokens as one row. transformers hands over queries, keys and values after the rotary embedding, so
any architecture that uses its attention interface works unchanged.

Shapes: H heads, T packed tokens, B rows of a bucket, L its longest row, D head width.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

from luthier.modeling.shapes import bounded

NAME: Final = "luthier_rows"
_SPREAD = 0.6
"""A bucket's shortest row is at least this share of its longest: at most about half of the scores are padding."""


class RowsUnsupported(Exception):
    """This architecture's attention is of a kind that only its own code computes right."""


@dataclass(frozen=True)
class _Bucket:
    gather_BL: Tensor
    """Position in the pack of each token; padding repeats the row's last token, and nobody looks at it."""
    real_N: Tensor
    """Where, in the flattened B x L, the real tokens stand."""
    back_N: Tensor
    """Where, in the pack, those tokens belong."""


class Rows:
    """How the rows of one pack lie, on a device."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.lengths = tuple(lengths)
        self.longest = max(lengths)
        self.positions_1T = torch.cat([torch.arange(length) for length in lengths])[None].to(device)
        self.buckets = [_bucket(rows, device) for rows in _grouped(lengths)]
        # One gather puts the answers of all buckets, which lie one after the other, back in the order of the pack.
        self.order_T = torch.argsort(torch.cat([bucket.back_N for bucket in self.buckets]))


def _grouped(lengths: Sequence[int]) -> Iterator[list[tuple[int, int]]]:
    """Rows as (start, length), longest first, cut into groups of similar length."""
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    group: list[tuple[int, int]] = []
    for start, length in sorted(zip(starts, lengths, strict=False), key=lambda row: -row[1]):
        if group and length < _SPREAD * group[0][1]:
            yield group
            group = []
        group.append((start, length))
    yield group


def _bucket(rows: list[tuple[int, int]], device: torch.device) -> _Bucket:
    start_B1 = torch.tensor([[start] for start, _ in rows])
    length_B1 = torch.tensor([[length] for _, length in rows])
    longest = rows[0][1]
    place_1L = torch.arange(bounded(longest) if device.type == "cpu" else longest)[None]
    gather_BL = start_B1 + torch.minimum(place_1L, length_B1 - 1)
    real_BL = place_1L < length_B1
    return _Bucket(gather_BL.to(device), real_BL.flatten().nonzero().squeeze(1).to(device), gather_BL[real_BL].to(device))


def rows_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001  # part of the interface; the rows say all there is to say
    **given: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface. Raises: RowsUnsupported for what this does not compute.

    query (1, H, T, D), key and value (1, H or fewer, T, D); returns (1, T, H, D).
    """
    rows: Rows | None = given.get("rows")
    window = _window(module, given)
    if rows is None or any(given.get(name) is not None for name in ("softcap", "s_aux", "position_bias")):
        raise RowsUnsupported
    if rows.longest > (window or rows.longest) and not given.get("sliding_window"):
        raise RowsUnsupported  # a window that the layer keeps to itself
    if len(rows.lengths) == 1:
        out_HTD = _causal(query, key, value, given.get("scaling"), window)[0]
        return out_HTD.transpose(0, 1)[None], None
    done = [_bucket_attention(bucket, (query[0], key[0], value[0]), given.get("scaling"), window) for bucket in rows.buckets]
    out_HTD = (torch.cat(done, dim=1) if len(done) > 1 else done[0]).index_select(1, rows.order_T)
    return out_HTD.transpose(0, 1)[None], None


def _bucket_attention(bucket: _Bucket, qkv_HTD: tuple[Tensor, Tensor, Tensor], scale: float | None, window: int | None) -> Tensor:
    # Heads take the place of the batch, rows that of the heads: no copy beyond the gather.
    flat = bucket.gather_BL.flatten()
    q_HBLD, k_HBLD, v_HBLD = (x.index_select(1, flat).unflatten(1, bucket.gather_BL.shape) for x in qkv_HTD)
    group = q_HBLD.shape[0] // k_HBLD.shape[0]
    if group > 1:
        k_HBLD, v_HBLD = k_HBLD.repeat_interleave(group, dim=0), v_HBLD.repeat_interleave(group, dim=0)
    return _causal(q_HBLD, k_HBLD, v_HBLD, scale, window).flatten(1, 2).index_select(1, bucket.real_N)


def _causal(query: Tensor, key: Tensor, value: Tensor, scale: float | None, window: int | None) -> Tensor:
    """Causal attention over the last two dimensions, within the last `window` tokens if given."""
    length = query.shape[-2]
    grouped = query.shape[1] != key.shape[1]
    if window is None or length <= window:
        return functional.scaled_dot_product_attention(query, key, value, scale=scale, is_causal=True, enable_gqa=grouped)
    place = torch.arange(length, device=query.device)
    back_LL = place[:, None] - place[None, :]
    seen_LL = (back_LL >= 0) & (back_LL < window)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=seen_LL, scale=scale, enable_gqa=grouped)


def _window(module: nn.Module, given: dict[str, Any]) -> int | None:
    if "sliding_window" in given:
        return given["sliding_window"]
    return getattr(getattr(module, "config", None), "sliding_window", None)


def attending_by_rows(model: PreTrainedModel) -> AbstractContextManager[None]:
    """Within it `model` expects `rows=` among its arguments, and attends inside each row only."""
    return attending(model, NAME)


@contextmanager
def attending(model: PreTrainedModel, how: str | None) -> Generator[None]:
    """Within it `model` attends by the attention of this name."""
    # By name in the config: that is where each layer looks its attention up, at every call.
    before = model.config._attn_implementation  # pyright: ignore[reportPrivateUsage]  # there is no public reader
    model.config._attn_implementation = how  # pyright: ignore[reportPrivateUsage]
    try:
        yield
    finally:
        model.config._attn_implementation = before  # pyright: ignore[reportPrivateUsage]


AttentionInterface.register(NAME, rows_attention)
