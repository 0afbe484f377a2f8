"""The files of an export, of each format."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from luthier.datasets.rendering import Renderer
from luthier.jobs.spec import ExportSpec
from luthier.modeling import adapter_files, llama
from luthier.modeling.load import LoadedBase
from luthier.modeling.lora import merge
from luthier.training import export
from luthier.training.failures import AttemptFailed

MODELFILE = "Modelfile"
_IN_GGUF = frozenset({"gguf", "gguf-adapter"})


@dataclass(frozen=True)
class Export:
    """What is made of which base, and into which folder."""

    folder: Path
    base: Path
    wanted: ExportSpec
    dtype: torch.dtype
    """Of the model in memory, and of what is stored where it is no GGUF."""

    @property
    def stored(self) -> str:
        """How the matrices are stored."""
        if self.wanted.format not in _IN_GGUF:
            return str(self.dtype).removeprefix("torch.")
        usual = "f32" if self.wanted.format == "gguf-adapter" else "f16"
        return usual if self.wanted.precision == "base" else self.wanted.precision


def check_can_write(wanted: ExportSpec) -> None:
    """Before anything is loaded: whether this machine can make it. Raises: AttemptFailed."""
    if wanted.precision in llama.K_QUANTS and not llama.installed():
        raise AttemptFailed(
            "bad_data",
            f"The precision {wanted.precision} is made by llama.cpp, which is not installed where this run was computed.",
            'Install `pip install "luthier[llama]"` there, or export with `precision: q8_0`.',
        )


def dtype_of(base: Path, wanted: ExportSpec) -> torch.dtype:
    """Of the model in memory; as the base's files have it, unless another one was asked for."""
    if wanted.format in _IN_GGUF:
        return torch.float32  # rounded once, when the file is written
    if wanted.precision != "base":
        return torch.bfloat16 if wanted.precision == "bf16" else torch.float32
    config = json.loads((base / "config.json").read_text("utf-8"))
    text = config.get("text_config") or config
    name = config.get("dtype") or config.get("torch_dtype") or text.get("dtype") or text.get("torch_dtype")
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(str(name), torch.float32)


def write(base: LoadedBase, wished: Export, adapter: Path, name: str, renderer: Renderer) -> Export:
    """Write the files of the export. The base in memory is the merged model afterwards, but for an adapter's formats.

    Raises: AttemptFailed for a model that the format, or our writer, has no place for.
    """
    if wished.wanted.format == "adapter":
        shutil.copytree(adapter, wished.folder)
        return wished
    from luthier.modeling.gguf_files import NotGguf

    try:
        match wished.wanted.format:
            case "gguf-adapter":
                _adapter_gguf(base, wished, adapter)
            case "gguf":
                merged = wished.folder.with_name("merged")
                _merged(base, wished, adapter, merged)
                _gguf(wished, merged, name, renderer)
                shutil.rmtree(merged)
            case _:
                _merged(base, wished, adapter, wished.folder)
    except NotGguf as error:
        hint = "Export it as `adapter`." if wished.wanted.format == "gguf-adapter" else "Export it as `merged`."
        raise AttemptFailed("bad_data", f"This model cannot become a GGUF file: {error}.", hint) from None
    return wished


def _merged(base: LoadedBase, wished: Export, adapter: Path, folder: Path) -> None:
    cast(Any, merged(base, adapter)).to(wished.dtype).save_pretrained(folder)
    export.copy_tokenizer(wished.base, folder)


def merged(base: LoadedBase, adapter: Path) -> nn.Module:
    """The base with the adapter's update in its weights."""
    merge(base.linears, adapter_files.load(base.linears, adapter, base.device))
    return base.model


def _gguf(wished: Export, folder: Path, name: str, renderer: Renderer) -> None:
    """One GGUF file and a Modelfile. K-quants are made of f16: what that loses is a hundredth of what they do."""
    from luthier.modeling import gguf_files

    wished.folder.mkdir()
    target = wished.folder / gguf_files.FILE
    if wished.stored in llama.K_QUANTS:
        whole = folder / "whole.gguf"
        gguf_files.write(folder, whole, name, "f16")
        llama.quantise(whole, target, wished.stored, torch.get_num_threads())
    else:
        gguf_files.write(folder, target, name, cast(gguf_files.Precision, wished.stored))
    stops = gguf_files.texts_of(folder, renderer.stop_ids)
    (wished.folder / MODELFILE).write_text(gguf_files.modelfile(stops), "utf-8")


def _adapter_gguf(base: LoadedBase, wished: Export, adapter: Path) -> None:
    from luthier.modeling import gguf_adapters

    read = adapter_files.load(base.linears, adapter, base.device)
    matrices = {name: weight.detach().numpy() for name, weight in read.parameters.items()}
    wished.folder.mkdir()
    precision = cast(gguf_adapters.Precision, wished.stored)
    gguf_adapters.write(matrices, read.shape.scale, wished.base, wished.folder / gguf_adapters.FILE, precision)
