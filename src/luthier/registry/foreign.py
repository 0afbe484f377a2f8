"""Adapters made elsewhere: what of them is refused, and why. Nothing here reads a disk, loads a library, or believes a file."""

from __future__ import annotations

import json
import math
import re
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from luthier.bases.rules import asks_for_code
from luthier.bases.types import BaseShape
from luthier.errors import FieldInvalid
from luthier.registry.safetensors_header import Tensor

WEIGHTS, CONFIG, TEMPLATE, TOKENIZER = (
    "adapter_model.safetensors",
    "adapter_config.json",
    "chat_template.jinja",
    "tokenizer_config.json",
)
_UNSAFE = frozenset({
    *(".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".h5", ".hdf5", ".keras", ".npy", ".npz", ".msgpack"),
    *(".onnx", ".py", ".pyc", ".so", ".dll", ".zip", ".tar", ".gz"),
})  # fmt: skip
"""What runs code when it is loaded, or may, or hides what is in it."""
_IGNORED = frozenset({"readme.md", "license", "license.txt", ".gitattributes", "training_args.json", "trainer_state.json"})
_TOKENIZERS = frozenset({"tokenizer.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"})
_NOT_PLAIN = (
    "use_dora", "use_qalora", "alora_invocation_tokens", "modules_to_save", "rank_pattern", "alpha_pattern",
    "fan_in_fan_out", "lora_bias", "layer_replication", "megatron_config", "target_parameters", "trainable_token_indices",
)  # fmt: skip
_KEY = re.compile(r"base_model\.model\.(?P<path>[A-Za-z0-9_.]{1,200})\.lora_(?P<letter>[AB])\.weight", re.ASCII)
_LAYER = re.compile(r"model\.layers\.(?P<number>\d{1,5})\.(?P<layer>(?:self_attn|mlp)\.[a-z_]+)", re.ASCII)
_CODES: Mapping[str, tuple[str, int, int]] = {
    "F32": ("f", 0, 0),
    "F64": ("d", 0, 0),
    "F16": ("H", 0x7FFF, 0x7C00),
    "BF16": ("H", 0x7FFF, 0x7F80),
}
"""How numbers lie in memory; of half floats what stays without the sign, and from where on they are no numbers."""


@dataclass(frozen=True)
class Lora:
    """The form of an adapter, as its config has it."""

    rank: int
    alpha: int
    rslora: bool
    base_model: str | None


def weights_among(names: Iterable[str]) -> str:
    """The one file with weights. Raises: FieldInvalid (`unsafe_format`, `unknown_file`) for what is not taken, or misses."""
    listed = sorted(names)
    for name in listed:
        ending = "." + name.lower().rpartition(".")[2]
        if ending in _UNSAFE:
            raise _refused(
                f"A file of the kind {ending} was sent: such files can run code when they are loaded.",
                "Save the adapter as safetensors (`save_pretrained` does), and leave the other files out.",
                "unsafe_format",
            )
    weights = [name for name in listed if name == WEIGHTS or name.endswith(".gguf")]
    if len(weights) != 1:
        raise _refused(
            f"{len(weights)} files with weights were sent, and one is read.",
            f"Send `{WEIGHTS}` with `{CONFIG}`, or one adapter as `.gguf`.",
            "missing",
        )
    known = {WEIGHTS, CONFIG, TEMPLATE, TOKENIZER, *weights, *_TOKENIZERS}
    odd = [name for name in listed if name not in known and name.lower() not in _IGNORED]
    if odd:
        raise _refused(
            f"{len(odd)} files were sent that are no part of an adapter.",
            f"Send only {', '.join(sorted(known))}.",
            "unknown_file",
        )
    return weights[0]


def lora_of(data: bytes) -> Lora:
    """What an `adapter_config.json` says. Raises: FieldInvalid (`config_key`, `adapter_invalid`)."""
    try:
        config = json.loads(data)
    except (ValueError, RecursionError):
        raise _invalid(f"`{CONFIG}` is no JSON") from None
    check_keys(config, CONFIG)
    if not isinstance(config, dict):
        raise _invalid(f"`{CONFIG}` is no JSON object")
    known = cast(dict[str, Any], config)
    odd = [name for name in _NOT_PLAIN if known.get(name)]
    if known.get("peft_type") != "LORA" or known.get("bias", "none") != "none" or odd:
        raise _invalid(f"it is no plain LoRA{f' (`{odd[0]}` is set)' if odd else ''}")
    if known.get("task_type", "CAUSAL_LM") not in {"CAUSAL_LM", None}:
        raise _invalid("it was made for another task than writing text")
    rank, alpha, base = known.get("r"), known.get("lora_alpha"), known.get("base_model_name_or_path")
    return Lora(
        _whole(rank, 512, "r"),
        _whole(alpha, 4096, "lora_alpha"),
        bool(known.get("use_rslora")),
        base if isinstance(base, str) else None,
    )


def check_keys(config: Any, file: str) -> None:
    """Raises: FieldInvalid (`config_key`) for one that asks for code."""
    keys = sorted(set(asks_for_code(config)))
    if keys:
        message = f"`{file}` asks to run code that came with the model (`{keys[0]}`)."
        raise _refused(message, "Luthier loads weights, never code.", "config_key")


def config_text(lora: Lora, base: str, revision: str, tensors: Mapping[str, Tensor]) -> bytes:
    """An `adapter_config.json` that says only what was checked."""
    suffixes = sorted({path.rpartition(".")[2] for path, _ in map(_parts, tensors)})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": revision,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "use_rslora": lora.rslora,
        "target_modules": suffixes,
        "bias": "none",
        "inference_mode": True,
    }
    return (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()


def check_fits(tensors: Mapping[str, Tensor], lora: Lora, base: BaseShape) -> None:
    """Let pass pairs of the config's rank that fit the layers of the base. Raises: FieldInvalid (`adapter_invalid`)."""
    sizes = _sizes(base)
    layers: dict[str, set[str]] = {}
    for name, tensor in tensors.items():
        path, letter = _parts(name)
        layers.setdefault(path, set()).add(letter)
        match = _LAYER.fullmatch(path)
        if match is None or match["layer"] not in sizes or int(match["number"]) >= base.layers:
            raise _invalid("it has weights for a layer that the base does not have")
        inner, outer = sizes[match["layer"]]
        wanted = (lora.rank, inner) if letter == "A" else (outer, lora.rank)
        if tensor.shape != wanted:
            raise _invalid(f"a weight has the shape {_shape(tensor.shape)}, and rank and base need {_shape(wanted)}")
    if any(letters != {"A", "B"} for letters in layers.values()):
        raise _invalid("a layer has only one of its two matrices")


def is_finite(data: bytes, dtype: str) -> bool:
    """Whether all numbers of a piece of a tensor are numbers. A sum of floats tells: it is none where one of them is none."""
    code, mask, limit = _CODES[dtype]
    values = array(code, data)
    if not limit:
        return math.isfinite(sum(values))
    return all(value & mask < limit for value in set(values))  # type: ignore[operator]  # of whole numbers here


def _sizes(base: BaseShape) -> dict[str, tuple[int, int]]:
    """Numbers in and out, by layer."""
    queries, keys = base.heads * base.head_dim, base.kv_heads * base.head_dim
    return {
        "self_attn.q_proj": (base.hidden, queries),
        "self_attn.k_proj": (base.hidden, keys),
        "self_attn.v_proj": (base.hidden, keys),
        "self_attn.o_proj": (queries, base.hidden),
        "mlp.gate_proj": (base.hidden, base.intermediate),
        "mlp.up_proj": (base.hidden, base.intermediate),
        "mlp.down_proj": (base.intermediate, base.hidden),
    }


def _parts(name: str) -> tuple[str, str]:
    match = _KEY.fullmatch(name)
    if match is None:
        raise _invalid("it has a weight whose name is none of PEFT's")
    return match["path"], match["letter"]


def _whole(value: Any, most: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 <= value <= most or value != int(value):
        raise _invalid(f"`{name}` is no whole number from 1 to {most}")
    return int(value)


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "of one number"


def _invalid(how: str) -> FieldInvalid:
    return _refused(f"This adapter cannot be used: {how}.", "Save it once more with PEFT's `save_pretrained`.", "adapter_invalid")


def _refused(message: str, hint: str, code: str) -> FieldInvalid:
    return FieldInvalid(message, hint=hint, code=code, param="file")
