"""Which engine trains on a base: the fast one where it covers the architecture, else the plain one."""

from __future__ import annotations

from typing import Literal
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from luthier.modeling.fast import FastEngine, weights_of
from luthier.modeling.load import LoadedBase
from luthier.modeling.plain import PlainEngine
from luthier.modeling.types import LoraShape, Packed

Prefer = Literal["auto", "fast", "plain"]

_wrong: WeakKeyDictionary[PreTrainedModel, str] = WeakKeyDictionary()
"""Why the fast engine must not train a base, by base; empty where it may. Measured once."""

_SAME = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""Largest difference of a log-probability, in nats, at which the fast engine counts as right; bf16 rounds every layer."""


def open_engine(base: LoadedBase, shape: LoraShape, seed: int, prefer: Prefer = "auto") -> PlainEngine:
    """A fresh adapter on the base.

    Raises: ValueError for targets that the base does not have, or where the fast engine was asked for and cannot be.
    """
    reason = None if prefer == "plain" else why_not_fast(base)
    weights = weights_of(base) if prefer != "plain" and reason is None else None
    if weights is not None:
        return FastEngine(base, weights, shape, seed)
    if prefer == "fast":
        raise ValueError(f"the fast engine does not train this: {reason}")
    return PlainEngine(base, shape, seed)


def why_not_fast(base: LoadedBase) -> str | None:
    """What keeps this from the fast engine, in words; None where nothing does."""
    if base.device.type != "cpu":
        return "it is measured on CPUs only"
    if base.quantization == "4bit":
        return "it has no 4-bit weights"
    if base.dtype not in _SAME:
        return f"it has no {base.dtype}"
    weights = weights_of(base)
    if weights is None:
        return "it does not know this architecture"
    if base.model not in _wrong:
        agreed = agree(FastEngine(base, weights, LoraShape(1, 1), 0), PlainEngine(base, LoraShape(1, 1), 0))
        _wrong[base.model] = "" if agreed else "its numbers differ from the model's own"
    return _wrong[base.model] or None


def agree(one: PlainEngine, other: PlainEngine) -> bool:
    """Whether both give the same log-probabilities of a few tokens."""
    vocab = one.base.vocab
    ids = [number % vocab for number in (*range(3, 11), *range(11, 14))]
    packed = Packed(ids, [8, 3], [0, 2, 5, 6, 8, 9])
    gap = (one.logprobs(packed, training=False) - other.logprobs(packed, training=False)).abs().max()
    return bool(gap <= _SAME[one.base.dtype])
