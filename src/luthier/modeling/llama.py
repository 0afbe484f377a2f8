"""llama.cpp itself, through llama-cpp-python: the extra `luthier[llama]`. Only here is it imported."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.modeling.gguf_files import NotGguf

K_QUANTS = {"q4_k_m": "LLAMA_FTYPE_MOSTLY_Q4_K_M", "q5_k_m": "LLAMA_FTYPE_MOSTLY_Q5_K_M", "q6_k": "LLAMA_FTYPE_MOSTLY_Q6_K"}
"""Precisions that only llama.cpp writes, by their names there."""


def installed() -> bool:
    """Whether it can be used on this machine."""
    return find_spec("llama_cpp") is not None


def name() -> str:
    """For people: what loaded the file."""
    return f"llama.cpp (llama-cpp-python {version('llama-cpp-python')})"


def quantise(source: Path, target: Path, precision: str, threads: int) -> None:
    """A GGUF of f32 or f16 as one of K-quants. Raises: NotGguf where llama.cpp refuses it."""
    lib = library()
    wanted = lib.llama_model_quantize_default_params()
    wanted.ftype = getattr(lib, K_QUANTS[precision])
    wanted.nthread = threads
    if lib.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(wanted)) != 0:
        raise NotGguf("llama.cpp cannot quantise it")


class LlamaModel:
    """A GGUF as llama.cpp has it in memory, with an adapter or alone. Raises: ValueError for a file that it refuses."""

    def __init__(
        self,
        path: Path,
        *,
        adapter: Path | None = None,
        context: int,
        threads: int | None = None,
    ) -> None:
        lib = library()
        self.context = context
        self._llama: Any = lib.Llama(
            str(path),
            lora_path=None if adapter is None else str(adapter),
            n_ctx=context,
            n_batch=min(context, 512),
            n_threads=threads,
            logits_all=True,
            verbose=False,
        )

    @property
    def template(self) -> str | None:
        """The chat template that the file carries."""
        return self._llama.metadata.get("tokenizer.chat_template")

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Of each next token, shape (T, vocabulary)."""
        self._llama.reset()
        self._llama.eval(list(ids))
        return np.array(self._llama.scores[: len(ids)], dtype=np.float32)

    def encode(self, text: str) -> list[int]:
        """Tokens of a text in which special tokens are spelled out."""
        return list(self._llama.tokenize(text.encode(), add_bos=False, special=True))

    def close(self) -> None:
        """Give its memory back."""
        self._llama.close()


def library() -> Any:
    """llama-cpp-python, its log unheard."""
    return _loaded()[0]


@cache
def _loaded() -> tuple[Any, Any]:
    """The library, and what takes its log: the library calls that for ever, so it is kept."""
    import llama_cpp  # pyright: ignore[reportMissingImports]  # an extra that few install

    def unheard(_level: int, _text: bytes, _data: Any) -> None:
        pass

    # It would go to stderr, and is no news for the reader of a job's log: what matters is raised.
    quiet = llama_cpp.llama_log_callback(unheard)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    return llama_cpp, quiet
