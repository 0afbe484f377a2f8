"""A frozen base in fewer bits: where that serves, and what it takes. Pure; submit and trainer ask the same."""

from __future__ import annotations

from typing import Literal

from luthier.bases.types import Base

Quantization = Literal["none", "8bit", "4bit"]

_BYTES = {"8bit": 1.0, "4bit": 0.53}
"""Of one weight; NF4 has a constant for each 64 of them, itself in 8 bits."""


def refusal(quantization: Quantization, device: str) -> tuple[str, str] | None:
    """Why a base cannot be held so on this device, and what to do instead; None where it can be, or where nobody knows yet
    (`auto`).

    >>> refusal("8bit", "cpu") is refusal("4bit", "cuda") is refusal("4bit", "auto") is None
    True
    """
    if quantization == "none" or device in ("cuda", "auto") or (quantization, device) == ("8bit", "cpu"):
        return None
    if device == "cpu":
        message = "`train.quantization` is 4bit, which needs an NVIDIA GPU: on a CPU it is slower than the whole base."
        return message, "Use `8bit`, which a CPU trains as well, or hardware with such a GPU."
    message = f"`train.quantization` is {quantization}, and that does not train on {device}."
    return message, "Leave it out, or train with `device: cpu` and `8bit`."


def base_bytes(base: Base, quantization: Quantization, width: int) -> int:
    """Memory of the base. width: bytes of a whole weight. The embeddings and the head stay whole; the linear layers do not."""
    if quantization == "none":
        return base.parameters * width
    query, key = base.heads * base.head_dim, base.kv_heads * base.head_dim
    linear = base.layers * base.hidden * (2 * query + 2 * key + 3 * base.intermediate)
    return int(linear * _BYTES[quantization]) + (base.parameters - linear) * width
