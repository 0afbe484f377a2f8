"""An export as its next owner loads it: by llama.cpp or transformers, PEFT where it is installed; never by what wrote it.

The one exception is an adapter's GGUF where llama.cpp is not installed: nothing else reads it, so its numbers are read back
with the `gguf` package and put on the base.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from transformers import AutoModelForCausalLM, AutoTokenizer

from luthier.modeling import llama
from luthier.modeling.base_config import check_config
from luthier.modeling.load import load_base
from luthier.modeling.lora import Adapter, Pair, merge
from luthier.modeling.types import LoraShape
from luthier.training.replaying import Loaded
from luthier.training.writing import Export, merged

_ROOM = 8
"""Places of llama.cpp's context beyond the longest answer."""


def loaded_again(exported: Export, *, most_tokens: int) -> Loaded:
    """The files, ready to be asked. Raises: OSError, ValueError, KeyError, RuntimeError where they do not load."""
    match exported.wanted.format:
        case "gguf":
            return _by_llama(exported, most_tokens) if llama.installed() else _gguf_by_transformers(exported)
        case "gguf-adapter":
            return _adapter_by_llama(exported, most_tokens) if llama.installed() else _read_back(exported)
        case "adapter":
            return _adapter(exported)
        case _:
            check_config(exported.folder)
            model = _from_pretrained(exported.folder, exported.dtype).eval()
            return Loaded(_transformers(), _asking(model), *_tokenizer(exported.folder))


def _by_llama(exported: Export, most_tokens: int) -> Loaded:
    from luthier.modeling.gguf_files import FILE

    model = llama.LlamaModel(exported.folder / FILE, context=most_tokens + _ROOM, threads=torch.get_num_threads())
    return Loaded(llama.name(), _asking_llama(model), model.encode, model.template, model.close)


def _adapter_by_llama(exported: Export, most_tokens: int) -> Loaded:
    """Beside the base's own GGUF, which is made for this alone."""
    from luthier.modeling import gguf_adapters, gguf_files

    base = exported.folder.with_name("base.gguf")
    gguf_files.write(exported.base, base, "base", "f32")
    model = llama.LlamaModel(
        base, adapter=exported.folder / gguf_adapters.FILE, context=most_tokens + _ROOM, threads=torch.get_num_threads()
    )

    def close() -> None:
        model.close()
        base.unlink()

    return Loaded(llama.name(), _asking_llama(model), close=close)


def _asking_llama(model: llama.LlamaModel):
    def logits(ids: Sequence[int]) -> Tensor:
        return torch.from_numpy(model.logits(ids))

    return logits


def _gguf_by_transformers(exported: Export) -> Loaded:
    from luthier.modeling.gguf_files import FILE

    options = {"gguf_file": FILE, "local_files_only": True}
    model = cast(Any, AutoModelForCausalLM).from_pretrained(exported.folder, dtype=torch.float32, **options).eval()
    return Loaded(_transformers(), _asking(model), *_tokenizer(exported.folder, **options))


def _adapter(exported: Export) -> Loaded:
    if find_spec("peft") is not None:
        from peft import PeftModel

        base = _from_pretrained(exported.base, exported.dtype)
        model = cast(Any, PeftModel).from_pretrained(base, exported.folder, local_files_only=True).eval()
        return Loaded(f"peft {version('peft')}", _asking(model))
    return Loaded(_transformers(), _asking(merged(_base(exported), exported.folder)))


def _read_back(exported: Export) -> Loaded:
    from luthier.modeling import gguf_adapters

    matrices, scale = gguf_adapters.read(exported.folder / gguf_adapters.FILE, exported.base)
    base = _base(exported)
    pairs = {
        name.removesuffix(".lora_A.weight"): Pair(
            Parameter(torch.from_numpy(matrix)),
            Parameter(torch.from_numpy(matrices[name.replace(".lora_A.", ".lora_B.")])),
            scale,
        )
        for name, matrix in matrices.items()
        if name.endswith(".lora_A.weight")
    }
    merge(base.linears, Adapter(LoraShape(next(iter(pairs.values())).a_RI.shape[0], 1), pairs))
    return Loaded(f"gguf {version('gguf')}", _asking(base.model))


def _base(exported: Export):
    return load_base(exported.base, "cpu", "bf16" if exported.dtype == torch.bfloat16 else "fp32")


def _from_pretrained(folder: Path, dtype: torch.dtype) -> nn.Module:
    options = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}
    return cast(Any, AutoModelForCausalLM).from_pretrained(folder, dtype=dtype, **options)


def _tokenizer(folder: Path, **options: Any):
    found = cast(Any, AutoTokenizer).from_pretrained(folder, **{"local_files_only": True, "trust_remote_code": False, **options})

    def encode(text: str) -> Sequence[int]:
        return found.encode(text, add_special_tokens=False)

    return encode, found.chat_template


def _asking(model: Any):
    def logits(ids: Sequence[int]) -> Tensor:
        with torch.no_grad():
            return model(input_ids=torch.tensor([list(ids)])).logits[0].float()

    return logits


def _transformers() -> str:
    return f"transformers {version('transformers')}"
