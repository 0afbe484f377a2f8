"""One block of a Llama-shaped model, forward and back by hand, for packed tokens and many adapters at once.

No tape: what the way back needs is named in `Kept`, all else is computed again where that is cheaper than to hold it.
Shapes: T packed tokens, D the model's width, X all heads side by side, I twice the inner width of the gated layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from luthier.modeling import fast_attention, kernels, products
from luthier.modeling.fast_lora import LoraAt, Share
from luthier.modeling.fast_weights import Block, FastWeights, Joined


@dataclass(frozen=True)
class Kept:
    """What the way back through a block needs."""

    x_TD: Tensor
    qkv_TX: Tensor | None
    """Before the norms of queries and keys, where there are any."""
    attention: list[fast_attention.Kept]
    heads_TX: Tensor
    mid_TD: Tensor
    gate_up_TI: Tensor
    inner: dict[str, list[Tensor]]
    """h of every adapter, by layer."""


@dataclass(frozen=True)
class Setting:
    """What is the same for all blocks of a pass."""

    weights: FastWeights
    attention: fast_attention.Attention
    shares: Sequence[Share]


def forward(setting: Setting, number: int, x_TD: Tensor) -> tuple[Tensor, Kept]:
    """Returns the block's output and what `backward` needs."""
    weights, block = setting.weights, setting.weights.blocks[number]
    inner: dict[str, list[Tensor]] = {}

    def through(name: str, x_TI: Tensor) -> Tensor:
        joined: Joined = getattr(block, name)
        y_TO = products.linear(x_TI, joined.weight_OI, joined.bias_O)
        inner[name] = LoraAt(setting.shares, number, name).forward(x_TI, y_TO)
        return y_TO

    qkv_TX = through("qkv", kernels.rms_norm(x_TD, block.norm_in_D, weights.eps))
    turned_TX = normed_heads(weights, block, qkv_TX)
    heads_TX, attention = setting.attention.forward(turned_TX)
    mid_TD, normed_TD = kernels.add_rms_norm(x_TD, through("out", heads_TX), block.norm_mid_D, weights.eps)
    gate_up_TI = through("gate_up", normed_TD)
    out_TD = through("down", kernels.gated(gate_up_TI, weights.gate)).add_(mid_TD)
    kept_qkv = qkv_TX if block.norm_q_E is not None else None
    return out_TD, Kept(x_TD, kept_qkv, attention, heads_TX, mid_TD, gate_up_TI, inner)


def backward(setting: Setting, number: int, kept: Kept, dout_TD: Tensor) -> Tensor | None:
    """Add to the adapters' gradients. Returns the gradient of the block's input; None for the first block, where nothing
    before it learns."""
    weights, block = setting.weights, setting.weights.blocks[number]
    down, gate_up, out, qkv = (LoraAt(setting.shares, number, name) for name in ("down", "gate_up", "out", "qkv"))

    u = down.inner_slopes(dout_TD)
    dgated_TI = products.back(dout_TD, block.down.weight_OI)
    down.add_input_slope(dgated_TI, u)
    dgate_up_TI, gated_TI = kernels.gated_backward(kept.gate_up_TI, dgated_TI, weights.gate)
    down.learn(gated_TI, kept.inner["down"], dout_TD, u)

    u = gate_up.inner_slopes(dgate_up_TI)
    normed_TD = kernels.rms_norm(kept.mid_TD, block.norm_mid_D, weights.eps)
    gate_up.learn(normed_TD, kept.inner["gate_up"], dgate_up_TI, u)
    dnormed_TD = products.back(dgate_up_TI, block.gate_up.weight_OI)
    gate_up.add_input_slope(dnormed_TD, u)
    dmid_TD = kernels.rms_norm_backward(dnormed_TD, kept.mid_TD, block.norm_mid_D, weights.eps, dout_TD)

    u = out.inner_slopes(dmid_TD)
    out.learn(kept.heads_TX, kept.inner["out"], dmid_TD, u)
    dheads_TX = products.back(dmid_TD, block.out.weight_OI)
    out.add_input_slope(dheads_TX, u)
    dqkv_TX = _normed_heads_backward(weights, block, kept.qkv_TX, setting.attention.backward(dheads_TX, kept.attention))

    u = qkv.inner_slopes(dqkv_TX)
    normed_TD = kernels.rms_norm(kept.x_TD, block.norm_in_D, weights.eps)
    qkv.learn(normed_TD, kept.inner["qkv"], dqkv_TX, u)
    if number == 0:
        return None
    dnormed_TD = products.back(dqkv_TX, block.qkv.weight_OI)
    qkv.add_input_slope(dnormed_TD, u)
    return kernels.rms_norm_backward(dnormed_TD, kept.x_TD, block.norm_in_D, weights.eps, dmid_TD)


def normed_heads(weights: FastWeights, block: Block, qkv_TX: Tensor) -> Tensor:
    """Queries and keys normed head by head, where the model does that."""
    if block.norm_q_E is None or block.norm_k_E is None:
        return qkv_TX
    heads = weights.heads
    split = [heads.queries * heads.width, heads.keys * heads.width, heads.keys * heads.width]
    query_TX, key_TX, value_TX = qkv_TX.split(split, dim=1)
    normed = [
        kernels.rms_norm(part.reshape(-1, heads.width), norm_E, weights.eps).view(part.shape)
        for part, norm_E in ((query_TX, block.norm_q_E), (key_TX, block.norm_k_E))
    ]
    return torch.cat([*normed, value_TX], dim=1)


def _normed_heads_backward(weights: FastWeights, block: Block, qkv_TX: Tensor | None, dnormed_TX: Tensor) -> Tensor:
    if qkv_TX is None or block.norm_q_E is None or block.norm_k_E is None:
        return dnormed_TX
    heads = weights.heads
    start = 0
    for count, norm_E in ((heads.queries, block.norm_q_E), (heads.keys, block.norm_k_E)):
        part = slice(start, start + count * heads.width)
        dpart, x = (each[:, part].reshape(-1, heads.width) for each in (dnormed_TX, qkv_TX))
        dnormed_TX[:, part] = kernels.rms_norm_backward(dpart, x, norm_E, weights.eps, None).view(-1, count * heads.width)
        start = part.stop
    return dnormed_TX
