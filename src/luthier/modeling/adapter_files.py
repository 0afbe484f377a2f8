"""Adapters in PEFT's format: `adapter_model.safetensors` and `adapter_config.json`. What is read is not trusted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Parameter

from luthier.modeling.lora import Adapter, Linears, Pair
from luthier.modeling.types import LoraShape

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
HEAD = "score.weight"
"""The head of classes, as the architectures of transformers name it."""
_HEADS = ["classifier", "score"]
_CLASSES = "SEQ_CLS"
_PREFIX = "base_model.model."
_MAX_CONFIG_BYTES = 1024 * 1024
_MAX_RANK = 4096
_FLOATS = frozenset({"F32", "F16", "BF16", "F64"})
# Variants of LoRA that would be read wrongly as plain LoRA. Any value but false, none or empty is refused.
_NOT_PLAIN = (
    "use_dora", "use_qalora", "alora_invocation_tokens", "modules_to_save", "rank_pattern", "alpha_pattern",
    "fan_in_fan_out", "lora_bias", "layer_replication", "megatron_config", "target_parameters", "trainable_token_indices",
)  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """What was learned, and on what."""

    adapter: Adapter
    linears: Linears
    base_model: str
    revision: str
    head_CD: Tensor | None = None
    """Of classes, as `AutoModelForSequenceClassification` has it."""


def save(trained: Trained, folder: Path) -> None:
    """Write both files into `folder`. The same weights give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    adapter, linears, head_CD = trained.adapter, trained.linears, trained.head_CD
    weights: dict[str, Tensor] = {**adapter.parameters, **({} if head_CD is None else {HEAD: head_CD})}
    tensors = {f"{_PREFIX}{name}": weight.detach().cpu().contiguous() for name, weight in weights.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    shape = adapter.shape
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if head_CD is None else _CLASSES,
        "base_model_name_or_path": trained.base_model,
        "revision": trained.revision,
        "r": shape.rank,
        "lora_alpha": shape.alpha,
        "lora_dropout": shape.dropout,
        "use_rslora": shape.rslora,
        "target_modules": _target_names(adapter, linears),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None if head_CD is None else _HEADS,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def load(linears: Linears, folder: Path, device: torch.device) -> Adapter:
    """The adapter saved in `folder`, for the model of `linears`.

    Raises: ValueError where the files are no plain LoRA, or do not fit this model layer by layer.
    """
    return _load(linears, folder, device, None)[0]


def load_with_head(linears: Linears, folder: Path, device: torch.device, head: tuple[int, int]) -> tuple[Adapter, Tensor]:
    """The adapter and the head of classes saved in `folder`. head: its shape, (classes, hidden width).

    Raises: ValueError as `load`, and where the head is another one, or none.
    """
    adapter, weights = _load(linears, folder, device, head)
    return adapter, weights[_PREFIX + HEAD]


def _load(
    linears: Linears, folder: Path, device: torch.device, head: tuple[int, int] | None
) -> tuple[Adapter, dict[str, Tensor]]:
    shape = _read_shape(folder / CONFIG, has_head=head is not None)
    heads = {} if head is None else {_PREFIX + HEAD: head}
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            names: list[str] = sorted(file.keys())
            if not heads.keys() <= set(names):
                raise ValueError("the adapter has no head of classes")
            paths = _paths([name for name in names if name not in heads], linears)
            wanted = _wanted_shapes(paths, linears, shape.rank) | heads
            # Shapes are read from the header: a hostile file is refused before its tensors take memory.
            for name, size in wanted.items():
                part = file.get_slice(name)
                if tuple(part.get_shape()) != size or part.get_dtype() not in _FLOATS:
                    raise ValueError(f"a weight of the adapter has another shape than the base model needs ({size})")
            weights = {name: file.get_tensor(name).to(device=device, dtype=torch.float32) for name in names}
    except (OSError, SafetensorError) as error:
        raise ValueError("the adapter's weights are missing or no safetensors file") from error
    pairs = {path: Pair(Parameter(weights[_key(path, "A")]), Parameter(weights[_key(path, "B")]), shape.scale) for path in paths}
    return Adapter(shape, pairs), weights


def _key(path: str, letter: str) -> str:
    return f"{_PREFIX}{path}.lora_{letter}.weight"


def _paths(names: list[str], linears: Linears) -> list[str]:
    # The files themselves say which layers learn; in the model's order, so that parameters are always listed alike.
    present = set(names)
    paths = [path for path in linears.by_path if _key(path, "A") in present and _key(path, "B") in present]
    if not paths or 2 * len(paths) != len(names):
        raise ValueError("the adapter holds weights for layers that this base model does not have")
    return paths


def _wanted_shapes(paths: list[str], linears: Linears, rank: int) -> dict[str, tuple[int, int]]:
    wanted: dict[str, tuple[int, int]] = {}
    for path in paths:
        layer = linears.by_path[path]
        wanted[_key(path, "A")] = (rank, layer.in_features)
        wanted[_key(path, "B")] = (layer.out_features, rank)
    return wanted


def read_shape(folder: Path) -> LoraShape:
    """The form of the adapter in `folder`, by its config alone. Raises: ValueError where that is no plain LoRA."""
    return _read_shape(folder / CONFIG, has_head=False)


def _target_names(adapter: Adapter, linears: Linears) -> list[str]:
    """Names that PEFT will match to exactly these layers: the last part of the path where that is enough, else all of it."""
    suffixes = {path.rsplit(".", 1)[-1] for path in adapter.pairs}
    matched = {path for path in linears.by_path if path.rsplit(".", 1)[-1] in suffixes}
    clash = linears.head_path is not None and linears.head_path.rsplit(".", 1)[-1] in suffixes
    return sorted(suffixes) if matched == set(adapter.pairs) and not clash else sorted(adapter.pairs)


def _read_shape(path: Path, *, has_head: bool) -> LoraShape:
    config = _read_config(path)
    if has_head:
        if config.get("task_type") != _CLASSES or config.get("modules_to_save") != _HEADS:
            raise ValueError("the adapter has no head of classes")
        del config["modules_to_save"]
    odd = [name for name in _NOT_PLAIN if config.get(name)]
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none" or odd:
        raise ValueError(f"the adapter is no plain LoRA{f' ({odd[0]} is set)' if odd else ''}")
    rank, alpha = _number(config, "r", 1, _MAX_RANK), _number(config, "lora_alpha", 0, 1e6)
    if rank != int(rank) or alpha != int(alpha):
        raise ValueError("the adapter's rank and alpha are whole numbers")
    targets = config.get("target_modules")
    names = tuple(str(name) for name in cast(list[Any], targets)) if isinstance(targets, list) else None
    dropout = _number({"lora_dropout": 0.0, **config}, "lora_dropout", 0, 1)
    return LoraShape(int(rank), int(alpha), dropout, names, bool(config.get("use_rslora", False)))


def _read_config(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise ValueError("the adapter's config is too large")
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError("the adapter's config is missing or not JSON") from error
    if not isinstance(config, dict):
        raise ValueError("the adapter's config is not a JSON object")
    return cast(dict[str, Any], config)


def _number(config: dict[str, Any], name: str, low: float, high: float) -> float:
    value = config.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"`{name}` of the adapter is not a number from {low:g} to {high:g}")
    return float(value)
