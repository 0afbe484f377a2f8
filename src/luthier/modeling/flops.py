"""How much arithmetic a pass needs, and how much a machine does at its best: the two sides of model FLOP/s utilisation (MFU).

Counted is what learning an adapter on a frozen base asks for (Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, app. B,
without the gradients of frozen weights), not what an engine happens to do: recomputed blocks and padding earn nothing.
"""

from __future__ import annotations

import time
from functools import cache

import torch

from luthier.modeling import products
from luthier.modeling.load import LoadedBase
from luthier.modeling.types import Packed

_TRIES = 4


def training_flops(base: LoadedBase, learning: int, packed: Packed) -> int:
    """Of one way there and back. learning: how many weights the adapter has.

    A frozen layer costs 2 a weight and token there and 2 back; a learning one 2 more for its own gradient; the head is
    frozen and sees loss tokens alone; of causal attention half is counted, three times (there, and back to both factors).
    """
    tokens = len(packed.ids_T)
    frozen = sum(layer.in_features * layer.out_features for layer in base.linears.by_path.values())
    config = base.model.config.get_text_config()
    width = int(config.num_attention_heads) * int(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    pairs = sum(length * (length + 1) // 2 for length in packed.lengths)
    attention = 3 * 4 * width * int(config.num_hidden_layers) * pairs
    head = 4 * int(config.hidden_size) * base.vocab * len(packed.loss_at_N) if packed.wants == "logprobs" else 0
    return 4 * frozen * tokens + 6 * learning * tokens + attention + head


@cache
def peak_flops(device: str, dtype: torch.dtype, threads: int) -> float:
    """FLOP/s of the fastest of a few large matrix products in this precision. Takes a tenth of a second, once a process."""
    del threads  # what was measured with one number of threads says nothing about another
    size = 1024 if device == "cpu" else 8192
    left, right = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(_TRIES):
        _wait_for(device)
        began = time.perf_counter()
        products.linear(left, right)
        _wait_for(device)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def _wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()
