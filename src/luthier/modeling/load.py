"""Load a frozen base model from a folder of safetensors. Nothing in the folder can become code."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from luthier.bases.footprint import BF16_PAYS_FROM
from luthier.errors import BaseUnavailable
from luthier.modeling.base_config import check_config
from luthier.modeling.lora import Linears
from luthier.modeling.quantised import Quantization, four_bits, put_into_8_bits

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "bf16", "fp32"]


@dataclass(frozen=True)
class LoadedBase:
    """A base in memory: every weight frozen, in eval mode. Shared by all adapters that stand on it."""

    model: PreTrainedModel
    device: torch.device
    dtype: torch.dtype
    vocab: int
    context: int
    n_params: int
    n_bytes: int
    linears: Linears = field(repr=False)
    quantization: Quantization = "none"


def load_base(
    folder: Path, device: Device = "auto", precision: Precision = "auto", quantization: Quantization = "none"
) -> LoadedBase:
    """The base in `folder`, on the best device there is unless one is named.

    Raises: ModelNotAllowed for a config that asks to run code; BaseUnavailable where files are missing or unreadable, or
    where 4 bits were asked for and bitsandbytes is not there.
    """
    check_config(folder)
    target = pick_device(device)
    try:
        model = _model(folder, target, precision, quantization)
        if quantization == "8bit":
            put_into_8_bits(model)
        return frozen(model, target, quantization)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise BaseUnavailable(
            "The files of this base model cannot be loaded: they are incomplete, or of a kind that this version does not know.",
            hint="Remove it from the cache and fetch it again with `luthier bases fetch <id>`, or use luthier/tiny.",
        ) from error


def _model(folder: Path, device: torch.device, precision: Precision, quantization: Quantization) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    dtype = pick_dtype(precision, device, _count(config))
    fewer_bits = {"quantization_config": four_bits(dtype), "device_map": {"": device}} if quantization == "4bit" else {}
    logging.disable_progress_bar()  # it would draw into logs
    # Untyped in transformers: with `output_loading_info` the answer is a pair.
    load = cast(Any, AutoModelForCausalLM).from_pretrained
    model, report = load(
        folder,
        config=config,
        dtype=dtype,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        attn_implementation=_attention(config),
        output_loading_info=True,
        **fewer_bits,
    )
    if report["missing_keys"] or report["mismatched_keys"]:
        # transformers would go on with random numbers in their place.
        raise ValueError("weights are missing from the files")
    return model


def frozen(model: PreTrainedModel, device: torch.device, quantization: Quantization = "none") -> LoadedBase:
    """`model` as a base: on `device`, frozen, in eval mode, ready to carry adapters."""
    if quantization != "4bit":  # that was made where it is
        # transformers types `to` as if it took no device.
        model = cast(PreTrainedModel, cast(Any, model).to(device))
    model.eval().requires_grad_(False)
    config = model.config.get_text_config()
    linears = Linears(model)
    return LoadedBase(
        model=model,
        device=device,
        dtype=model.dtype,
        vocab=cast(nn.Embedding, model.get_input_embeddings()).num_embeddings,
        context=int(getattr(config, "max_position_embeddings", None) or 2048),
        n_params=_n_params(model, linears),
        n_bytes=sum(each.numel() * each.element_size() for each in (*model.parameters(), *model.buffers())),
        linears=linears,
        quantization=quantization,
    )


def _n_params(model: PreTrainedModel, linears: Linears) -> int:
    """Weights of the model, however they are held: 4 bits lie two in a byte."""
    layers = linears.by_path.values()
    matrices = {id(weight) for layer in layers for name, weight in layer.named_parameters() if name == "weight"}
    others = sum(weight.numel() for weight in model.parameters() if id(weight) not in matrices)
    return others + sum(layer.in_features * layer.out_features for layer in layers)


def pick_device(device: Device = "auto") -> torch.device:
    """cuda, then mps, then cpu. Raises: BaseUnavailable for a device that this machine lacks."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(name for name, present in there.items() if present))
    if not there[device]:
        raise BaseUnavailable(f"This machine has no usable {device} device.", hint="Use `device: auto` or `device: cpu`.")
    return torch.device(device)


def pick_dtype(precision: Precision, device: torch.device, n_params: int) -> torch.dtype:
    """bf16 where the hardware computes in it and the model is large enough to profit; else fp32."""
    if precision != "auto":
        return torch.bfloat16 if precision == "bf16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    native = device.type == "cpu" and cpu_has_bf16()
    return torch.bfloat16 if native and n_params >= BF16_PAYS_FROM else torch.float32


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 by itself; emulation is slower than fp32."""
    has = cast(Any, torch.cpu)
    return bool(has._is_avx512_bf16_supported() or has._is_amx_tile_supported())


def _attention(config: PreTrainedConfig) -> str:
    # Soft-capped scores (Gemma 2) exist only in the eager path; the fused one would leave the cap out.
    return "eager" if getattr(config.get_text_config(), "attn_logit_softcapping", None) else "sdpa"


def _count(config: PreTrainedConfig) -> int:
    """Weights, roughly: enough to tell a toy from a model."""
    text = config.get_text_config()
    hidden, layers = int(getattr(text, "hidden_size", 0) or 0), int(getattr(text, "num_hidden_layers", 0) or 0)
    return 12 * layers * hidden * hidden + int(getattr(text, "vocab_size", 0) or 0) * hidden
