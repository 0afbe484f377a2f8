"""An adapter alone as one GGUF file: for llama.cpp's `--lora`, beside the base's own GGUF.

Tensors are called as the base's with `.lora_a` and `.lora_b` after their names; llama.cpp adds B A with alpha / rank. As the
base's rows of queries and keys change places for `llama`, so do those of their B.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
from numpy.typing import NDArray

from luthier.modeling import gguf_files
from luthier.modeling.gguf_files import NotGguf

FILE = "adapter.gguf"
Precision = Literal["f32", "f16"]
Matrices = Mapping[str, NDArray[np.float32]]
"""By PEFT's name without prefix: `model.layers.0.self_attn.q_proj.lora_A.weight`."""

_TYPES = {"f32": gguf.GGMLQuantizationType.F32, "f16": gguf.GGMLQuantizationType.F16}
_LETTERS = {"lora_A": "lora_a", "lora_B": "lora_b"}
_LAYERS = tuple([f"self_attn.{letter}_proj" for letter in "qkvo"] + [f"mlp.{part}_proj" for part in ("gate", "up", "down")])
"""Layers that an adapter of these architectures can have."""


def write(matrices: Matrices, scale: float, base: Path, target: Path, precision: Precision) -> None:
    """The adapter for the model in the folder `base` as the one file `target`.

    scale: what B A is multiplied by. Raises: NotGguf.
    """
    config, arch = gguf_files.architecture_of(base)
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    writer = gguf.GGUFWriter(target, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    rank = next(matrix.shape[0] for name, matrix in matrices.items() if ".lora_A." in name)
    # The format knows alpha / rank only: another scale becomes the alpha that gives it.
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, scale * rank)
    for name, matrix in sorted(matrices.items()):
        path, letter, _ = name.rsplit(".", 2)
        named = names.get_name(path)
        if named is None or path.split(".", 3)[-1] not in _LAYERS:
            raise NotGguf(f"its layer {path} has no place in the format")
        data = matrix
        if arch == gguf.MODEL_ARCH.LLAMA and letter == "lora_B":
            data = gguf_files.interleaved(f".{path}.", matrix, config)
        stored = data.astype(np.float16 if precision == "f16" else np.float32)
        writer.add_tensor(f"{named}.weight.{_LETTERS[letter]}", np.ascontiguousarray(stored), raw_dtype=_TYPES[precision])
    gguf_files.finish(writer)


def read(path: Path, base: Path) -> tuple[dict[str, NDArray[np.float32]], float]:
    """The matrices of an adapter's file for the model in the folder `base`, and their scale.

    The file is trusted to be whole: one of somebody else's is read in a process of its own. Raises: NotGguf.
    """
    config, arch = gguf_files.architecture_of(base)
    reader = gguf.GGUFReader(path)
    if _text(reader, "general.type") != "adapter" or _text(reader, gguf.Keys.Adapter.TYPE) != "lora":
        raise NotGguf("it is no LoRA adapter")
    if _text(reader, "general.architecture") != gguf.MODEL_ARCH_NAMES[arch]:
        raise NotGguf("it is for another architecture")
    known = dict(_names(config, arch))
    found: dict[str, NDArray[np.float32]] = {}
    for tensor in reader.tensors:
        name = known.get(tensor.name)
        if name is None:
            raise NotGguf("it holds a tensor that is no layer's of the base")
        matrix = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if arch == gguf.MODEL_ARCH.LLAMA and ".lora_B." in name:
            matrix = gguf_files.interleaved(name, matrix, config, back=True)
        found[name] = matrix
    alpha, ranks = _alpha(reader), {matrix.shape[0] for name, matrix in found.items() if ".lora_A." in name}
    if len(ranks) != 1:
        raise NotGguf("its layers do not have one rank")
    return found, alpha / ranks.pop()


def _names(config: Mapping[str, Any], arch: gguf.MODEL_ARCH) -> Iterator[tuple[str, str]]:
    """What the format calls each matrix, and what PEFT does."""
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    for number in range(config["num_hidden_layers"]):
        for layer in _LAYERS:
            path = f"model.layers.{number}.{layer}"
            for letter, short in _LETTERS.items():
                yield f"{names.get_name(path)}.weight.{short}", f"{path}.{letter}.weight"


def _text(reader: gguf.GGUFReader, key: str) -> str:
    field = reader.get_field(key)
    return str(field.contents()) if field is not None else ""


def _alpha(reader: gguf.GGUFReader) -> float:
    field = reader.get_field(gguf.Keys.Adapter.LORA_ALPHA)
    if field is None:
        raise NotGguf("it says no alpha")
    return float(field.contents())
