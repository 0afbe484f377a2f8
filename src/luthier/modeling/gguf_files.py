"""A model as one GGUF file, for llama.cpp, Ollama and their kind. The format: https://github.com/ggml-org/ggml, docs/gguf.md.

Made from a folder of merged weights. Matrices are f32, f16 or q8_0 (blocks of 32 numbers with one scale); vectors stay f32.
llama.cpp turns pairs of neighbours where transformers turns halves, so rows of queries and keys change places for `llama`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
from numpy.typing import NDArray

Precision = Literal["f32", "f16", "q8_0"]
FILE = "model.gguf"
MODELFILE = "Modelfile"

_ARCHITECTURES = {"llama": "LLAMA", "mistral": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3"}
_TYPES: Mapping[Precision, tuple[gguf.GGMLQuantizationType, gguf.LlamaFileType]] = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
_BLOCK = 32
_QWEN = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"
_LLAMA3 = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"


class NotGguf(ValueError):
    """This model cannot be written as GGUF here; the words go on where they stand: `its rope is scaled`."""


def write(folder: Path, target: Path, name: str, precision: Precision) -> None:
    """The merged weights and the tokenizer of `folder` as the one file `target`. Raises: NotGguf."""
    config, arch = architecture_of(folder)
    writer = gguf.GGUFWriter(target, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_name(name)
    writer.add_file_type(_TYPES[precision][1])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_sizes(writer, config)
    _add_tokenizer(writer, folder, config["vocab_size"])
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    for source, weight in _weights(folder):
        named = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if named is None:
            raise NotGguf(f"its tensor {source} has no place in the format")
        if arch == gguf.MODEL_ARCH.LLAMA:
            weight = interleaved(source, weight, config)  # noqa: PLW2901  # the same weight in another order
        data, kind_of = _stored(weight, precision)
        writer.add_tensor(named, np.ascontiguousarray(data), raw_dtype=kind_of)
    finish(writer)


def finish(writer: gguf.GGUFWriter) -> None:
    """Write all that was added, and close the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def architecture_of(folder: Path) -> tuple[dict[str, Any], gguf.MODEL_ARCH]:
    """The `config.json` of a model folder, and what the format calls its architecture. Raises: NotGguf."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    kind = str(config.get("model_type"))
    if kind not in _ARCHITECTURES:
        raise NotGguf(f"its architecture is {kind}, and {', '.join(_ARCHITECTURES)} are written")
    return config, gguf.MODEL_ARCH[_ARCHITECTURES[kind]]


def modelfile(stops: Iterable[str]) -> str:
    """Ollama's Modelfile for the file beside it; the chat template lies in the GGUF itself.

    >>> print(modelfile(["<|im_end|>"]), end="")
    FROM ./model.gguf
    PARAMETER stop "<|im_end|>"
    """
    lines = [f"FROM ./{FILE}", *(f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops)]
    return "\n".join(lines) + "\n"


def texts_of(folder: Path, ids: Iterable[int]) -> list[str]:
    """What these tokens are called in the tokenizer of `folder`."""
    by_id = _names(json.loads((folder / "tokenizer.json").read_text("utf-8")))
    return sorted(by_id[number] for number in ids if number in by_id)


def _names(made: Mapping[str, Any]) -> dict[int, str]:
    added = {each["id"]: each["content"] for each in made["added_tokens"]}
    return {number: text for text, number in made["model"]["vocab"].items()} | added


def _add_sizes(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if (rope.get("rope_type") or rope.get("type") or "default") != "default":
        raise NotGguf("its positions are scaled (`rope_type`), which is not written yet")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0))


def _add_tokenizer(writer: gguf.GGUFWriter, folder: Path, vocab_size: int) -> None:
    made = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    model = made["model"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise NotGguf(f"its tokenizer is {model['type']}, and byte-level BPE is written")
    added = {each["id"]: each for each in made["added_tokens"]}
    by_id = _names(made)
    tokens = [by_id.get(number, f"[PAD{number}]") for number in range(vocab_size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(made))
    writer.add_token_list(tokens)
    writer.add_token_types([_type_of(number, by_id, added) for number in range(vocab_size)])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    numbers = {text: number for number, text in by_id.items()}
    for role in ("bos", "eos", "pad", "unk"):
        token = config.get(f"{role}_token")
        text = token.get("content") if isinstance(token, dict) else token
        if text in numbers:
            getattr(writer, f"add_{role}_token_id")(numbers[text])
    writer.add_add_bos_token(False)
    template = folder / "chat_template.jinja"
    if template.is_file():
        writer.add_chat_template(template.read_text("utf-8"))


def _type_of(number: int, by_id: Mapping[int, str], added: Mapping[int, Mapping[str, Any]]) -> gguf.TokenType:
    if number not in by_id:
        return gguf.TokenType.UNUSED
    if number in added:
        return gguf.TokenType.CONTROL if added[number]["special"] else gguf.TokenType.USER_DEFINED
    return gguf.TokenType.NORMAL


def _pre_tokenizer(made: Mapping[str, Any]) -> str:
    """llama.cpp's name of how text is cut before it is merged. Raises: NotGguf for what it has no name for."""
    steps = made.get("pre_tokenizer") or {}
    parts = steps.get("pretokenizers") or [steps]
    patterns = [part["pattern"].get("Regex", "") for part in parts if part.get("type") == "Split"]
    digits = any(part.get("type") == "Digits" and part.get("individual_digits") for part in parts)
    if not patterns and any(part.get("type") == "ByteLevel" and part.get("use_regex", True) for part in parts):
        return "smollm" if digits else "gpt-2"
    for begins, name in ((_LLAMA3, "llama-bpe"), (_QWEN, "qwen2")):
        if len(patterns) == 1 and patterns[0].startswith(begins):
            return name
    raise NotGguf("its tokenizer cuts text in a way that llama.cpp has no name for")


def _weights(folder: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    # Here, and not above: a process that only reads an adapter's file has little memory, and needs no torch.
    import torch
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  # not a mapping
                yield name, file.get_tensor(name).to(torch.float32).numpy()


def interleaved(name: str, weight: NDArray[np.float32], config: Mapping[str, Any], *, back: bool = False) -> NDArray[np.float32]:
    """Rows of q and k in llama.cpp's order: the two numbers of a rotation lie side by side; or, `back`, in transformers'."""
    heads = config["num_attention_heads"]
    of = {"q_proj": heads, "k_proj": config.get("num_key_value_heads") or heads}
    count = next((count for part, count in of.items() if f".{part}." in name), None)
    if count is None:
        return weight
    half = weight.shape[0] // count // 2
    parts = (half, 2) if back else (2, half)
    return weight.reshape(count, *parts, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def _stored(weight: NDArray[np.float32], precision: Precision) -> tuple[NDArray[Any], gguf.GGMLQuantizationType]:
    kind = _TYPES[precision][0]
    if weight.ndim < 2 or (precision == "q8_0" and weight.shape[-1] % _BLOCK):
        return weight, gguf.GGMLQuantizationType.F32
    if precision == "q8_0":
        return gguf.quants.quantize(weight, kind), kind
    return weight.astype(np.float16) if precision == "f16" else weight, kind
