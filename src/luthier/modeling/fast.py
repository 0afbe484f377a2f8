"""FastEngine: packed tokens, many adapters, no tape. The way back through each block is written by hand (`fast_blocks.py`).

For models whose blocks `fast_weights.recognise` knows; `engines.open_engine` takes the plain engine for all others, and the
plain engine is what this one is tested against. Everything but the training passes is the plain engine's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from luthier.bases.footprint import KEPT_SCORES_TO, numbers_per_token
from luthier.bases.types import BaseShape
from luthier.modeling import fast_blocks, kernels, products
from luthier.modeling.fast_attention import Attention
from luthier.modeling.fast_lora import Share, Working
from luthier.modeling.fast_weights import FastWeights, recognise
from luthier.modeling.head import chunk_of
from luthier.modeling.load import LoadedBase
from luthier.modeling.plain import PlainEngine, check_pack
from luthier.modeling.shapes import bounded
from luthier.modeling.types import LoraShape, Packed, Wants

_Keep = Literal["nothing", "inputs", "all"]

_known: WeakKeyDictionary[PreTrainedModel, FastWeights | None] = WeakKeyDictionary()


def weights_of(base: LoadedBase) -> FastWeights | None:
    """The base's weights joined for the fast engine, once a base; None where it does not know the architecture."""
    if base.model not in _known:
        _known[base.model] = recognise(base)
    return _known[base.model]


@dataclass(frozen=True)
class _Done:
    """A pass that stands between its way there and its way back."""

    setting: fast_blocks.Setting
    kept: list[fast_blocks.Kept | Tensor]
    """Of each block: what its way back needs, or its input alone, to go through it once more."""
    tokens: int
    at_N: Tensor
    """Positions that are read: of L loss tokens, then those whose hidden states are wanted; both padded with position 0."""
    last_ND: Tensor
    """Their hidden states before the last norm."""
    slope_LD: Tensor
    """Of each log-probability with respect to its normed hidden state."""


class FastEngine(PlainEngine):
    """A frozen base and one adapter, or one of several that pass together (`modeling.gang`)."""

    def __init__(self, base: LoadedBase, weights: FastWeights, shape: LoraShape, seed: int) -> None:
        super().__init__(base, shape, seed)
        self.weights = weights
        self._working = Working(self._adapter, weights)
        self._done: _Done | None = None

    def logprobs(self, packed: Packed, *, training: bool) -> Tensor:
        """See `types.TrainingEngine`."""
        check_pack(packed, self.base, "logprobs")
        return forward_together([(self, packed)], training=training)[0]

    def hidden(self, packed: Packed, *, training: bool) -> Tensor:
        """See `types.TrainingEngine`."""
        check_pack(packed, self.base, "hidden")
        return forward_together([(self, packed)], training=training)[0]

    def backward(self, grad: Tensor) -> None:
        """See `types.TrainingEngine`."""
        backward_together([self], [grad])

    def bytes_per_token(self, longest: int) -> int:
        return self.base.dtype.itemsize * numbers_per_token(self._shape, min(longest, KEPT_SCORES_TO), recompute=self.recompute)

    @property
    def _shape(self) -> BaseShape:
        heads, block = self.weights.heads, self.weights.blocks[0]
        return BaseShape(
            hidden=block.out.weight_OI.shape[0],
            intermediate=block.gate_up.weight_OI.shape[0] // 2,
            layers=len(self.weights.blocks),
            heads=heads.queries,
            kv_heads=heads.keys,
            head_dim=heads.width,
            vocab=self.base.vocab,
            context=self.base.context,
        )

    def share(self, start: int, end: int, packed: Packed, *, training: bool) -> Share | None:
        """This adapter on those tokens of a pass; None while the bare base answers."""
        drop = self._dropout.take(len(packed.ids_T)) if training else None
        if self._bare:
            return None
        self._working.refresh()
        return Share(start, end, self._working, drop)


@torch.no_grad()
def forward_together(seats: Sequence[tuple[FastEngine, Packed]], *, training: bool) -> list[Tensor]:
    """What each seat wants, in one pass over their common base."""
    base, weights = seats[0][0].base, seats[0][0].weights
    for _, packed in seats:
        check_pack(packed, base, packed.wants)
    seated = [_seated(packed, base.context) for _, packed in seats]
    ids = [token for own, _ in seated for token in own]
    lengths = [length for _, own in seated for length in own]
    if len(ids) < bounded(len(ids)):  # seats of many sizes: what is left belongs to nobody
        lengths.append(bounded(len(ids)) - len(ids))
        ids += [0] * lengths[-1]
    ids_T = torch.tensor(ids, device=base.device)
    starts = [0]
    for own, _ in seated:
        starts.append(starts[-1] + len(own))
    shares = [
        engine.share(*ends, packed, training=training) for ends, (engine, packed) in zip(pairwise(starts), seats, strict=True)
    ]
    setting = fast_blocks.Setting(weights, Attention(lengths, weights), [share for share in shares if share is not None])
    reads = _reads([packed for _, packed in seats], starts, base.device)
    keep: _Keep = "nothing" if not training else "inputs" if any(engine.recompute for engine, _ in seats) else "all"
    logp_L, hidden_MD, done = _there(setting, ids_T, reads, keep)
    for engine, _ in seats:
        engine._done = done  # pyright: ignore[reportPrivateUsage]  # one unit with its engines
    parts = {"logprobs": iter(_split(logp_L, seats, "logprobs")), "hidden": iter(_split(hidden_MD, seats, "hidden"))}
    return [next(parts[packed.wants]) for _, packed in seats]


def _split(read: Tensor, seats: Sequence[tuple[FastEngine, Packed]], wants: Wants) -> Sequence[Tensor]:
    counts = [len(packed.loss_at_N) for _, packed in seats if packed.wants == wants]
    return read[: sum(counts)].split(counts)


@dataclass(frozen=True)
class _Reads:
    """What is read of a pass: see `_Done.at_N`."""

    at_N: Tensor
    losses: int
    """L."""
    cool_L1: Tensor | None
    """What logits are multiplied by, or None for 1."""


def _reads(packs: Sequence[Packed], starts: Sequence[int], device: torch.device) -> _Reads:
    at: dict[Wants, list[int]] = {"logprobs": [], "hidden": []}
    warm: list[float] = []
    for start, packed in zip(starts, packs, strict=False):
        at[packed.wants].extend(start + place for place in packed.loss_at_N)
        if packed.wants == "logprobs":
            warm.extend([packed.temperature] * len(packed.loss_at_N))
    padded = [places + [0] * (bounded(len(places)) - len(places)) for places in at.values()]
    losses = len(padded[0])
    warm += [1.0] * (losses - len(warm))
    cool_L1 = None if all(one == 1.0 for one in warm) else 1 / torch.tensor(warm, device=device)[:, None]
    return _Reads(torch.tensor(padded[0] + padded[1], device=device, dtype=torch.long), losses, cool_L1)


def _seated(packed: Packed, context: int) -> tuple[list[int], list[int]]:
    """Token ids and lengths of rows, with some more tokens at the end of the last row, where nothing sees them."""
    ids, lengths = list(packed.ids_T), list(packed.lengths)
    more = bounded(len(ids)) - len(ids)
    if lengths and lengths[-1] + more <= context:
        lengths[-1] += more
    elif more:
        lengths.append(more)
    return [*ids, *[0] * more], lengths


@torch.no_grad()
def backward_together(engines: Sequence[FastEngine], grads: Sequence[Tensor]) -> None:
    """What `TrainingEngine.backward` does for each engine of the last pass, in the order of its seats.

    A gradient of log-probabilities is a vector, one of hidden states a matrix.
    """
    done = engines[0]._done  # pyright: ignore[reportPrivateUsage]
    for engine in engines:
        if done is None or engine._done is not done:  # pyright: ignore[reportPrivateUsage]
            raise RuntimeError("backward follows a pass with training, once")
        engine._done = None  # pyright: ignore[reportPrivateUsage]
    if done is None:
        return
    weights = done.setting.weights
    dx_TD = _read_back(done, grads)
    for number in reversed(range(len(weights.blocks))):
        kept = done.kept.pop()
        if isinstance(kept, Tensor):
            _, kept = fast_blocks.forward(done.setting, number, kept)
        slope = fast_blocks.backward(done.setting, number, kept, dx_TD)
        if slope is not None:
            dx_TD = slope


def _read_back(done: _Done, grads: Sequence[Tensor]) -> Tensor:
    """From gradients of what was read to those of the last block's outputs, shape (T, D)."""
    slope_LD, weights = done.slope_LD, done.setting.weights
    losses, wanted = len(slope_LD), len(done.at_N) - len(slope_LD)
    of_losses = [grad.to(slope_LD.device) for grad in grads if grad.dim() == 1]
    of_hidden = [grad.to(slope_LD) for grad in grads if grad.dim() == 2]
    real_L = torch.cat([slope_LD.new_zeros(0, dtype=torch.float32), *of_losses])
    dnormed_ND = slope_LD * functional.pad(real_L, (0, losses - len(real_L)))[:, None].to(slope_LD.dtype)
    real_MD = torch.cat([slope_LD.new_zeros(0, slope_LD.shape[1]), *of_hidden])
    if wanted:
        dnormed_ND = torch.cat([dnormed_ND, functional.pad(real_MD, (0, 0, 0, wanted - len(real_MD)))])
    dlast_ND = kernels.rms_norm_backward(dnormed_ND, done.last_ND, weights.norm_D, weights.eps, None)
    dx_TD = dlast_ND.new_zeros(done.tokens, dlast_ND.shape[1])
    for start, real in ((0, len(real_L)), (losses, len(real_MD))):
        dx_TD.index_copy_(0, done.at_N[start : start + real], dlast_ND[start : start + real])
    return dx_TD


def _there(setting: fast_blocks.Setting, ids_T: Tensor, reads: _Reads, keep: _Keep) -> tuple[Tensor, Tensor, _Done | None]:
    """Log-probabilities (L,), hidden states (M, D) after the last norm, fp32, and what the way back needs."""
    weights = setting.weights
    x_TD = functional.embedding(ids_T, weights.embed_VD)
    if weights.embed_scale != 1.0:
        x_TD = x_TD * weights.embed_scale
    all_kept: list[fast_blocks.Kept | Tensor] = []
    for number in range(len(weights.blocks)):
        before_TD = x_TD
        x_TD, kept = fast_blocks.forward(setting, number, before_TD)
        if keep != "nothing":
            all_kept.append(kept if keep == "all" else before_TD)
    last_ND = x_TD.index_select(0, reads.at_N)
    loss_LD, hidden_MD = last_ND.split([reads.losses, len(last_ND) - reads.losses])
    target_L = ids_T[reads.at_N[: reads.losses] + 1]
    logp_L, slope_LD = _head(weights, loss_LD, target_L, reads.cool_L1, training=keep != "nothing")
    normed_MD = kernels.rms_norm(hidden_MD, weights.norm_D, weights.eps).float()
    done = _Done(setting, all_kept, len(ids_T), reads.at_N, last_ND, slope_LD) if slope_LD is not None else None
    return logp_L, normed_MD, done


def _head(
    weights: FastWeights, last_ND: Tensor, target_N: Tensor, cool_N1: Tensor | None, *, training: bool
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities, and their slopes with respect to the normed hidden states, without ever holding (N, V).

    cool_N1: what logits are multiplied by, or None for 1.

    Positions are independent of each other, so the slope of each is known before the loss is.
    """
    normed_ND = kernels.rms_norm(last_ND, weights.norm_D, weights.eps)
    logp_N = torch.empty(len(target_N), device=last_ND.device)
    chunk = chunk_of(len(weights.head_VD))
    for start in range(0, len(target_N), chunk):
        part = slice(start, start + chunk)
        logits_CV = products.linear(normed_ND[part], weights.head_VD)
        if cool_N1 is not None:
            logits_CV *= cool_N1[part]
        logp_N[part] = kernels.logprob_slope_(logits_CV, target_N[part])
        if training:
            normed_ND[part] = products.back(logits_CV, weights.head_VD)  # nobody needs the hidden states of this part any more
    if not training:
        return logp_N, None
    return logp_N, normed_ND if cool_N1 is None else normed_ND.mul_(cool_N1)
