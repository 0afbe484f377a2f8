"""Several sequences side by side in llama.cpp: one GGUF, one context, and adapters beside it.

llama.cpp applies an adapter to all tokens of a pass, so those of one pass are of one adapter; what was kept of the others
stays where it is. Low-level calls of llama-cpp-python, as in `llama.h`.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from luthier.modeling.llama import library

PASS = 512
"""Most tokens of one call of `decode`."""


@dataclass(frozen=True)
class Cells:
    """How much a context holds."""

    tokens: int
    """Of all sequences together."""
    sequences: int
    kept_in: Literal["f16", "f32"] = "f16"


@dataclass(frozen=True)
class At:
    """A token of a pass: its sequence, its place in it, and whether the next one is asked for."""

    id: int
    sequence: int
    place: int
    asks: bool


@dataclass(frozen=True, eq=False)
class LlamaAdapter:
    """An adapter in memory, which holds the base that it stands on. It ends with the last who holds it."""

    base: LlamaSequences
    handle: int


class LlamaSequences:
    """A GGUF in memory, until nobody holds it any more. Not for two threads at once.

    Raises: ValueError for a file that llama.cpp refuses.
    """

    def __init__(self, path: Path, cells: Cells, threads: int | None = None) -> None:
        self._lib = lib = library()
        lib.llama_backend_init()
        model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
        if not model:
            raise ValueError("llama.cpp cannot read this file")
        # Not by its owner: answers may still go on when a base has left the shelf. Last made, first called.
        weakref.finalize(self, lib.llama_model_free, model)
        self._context: Any = lib.llama_init_from_model(model, _context(lib, cells, threads))
        if not self._context:
            raise ValueError("llama.cpp has no room for this context")
        weakref.finalize(self, lib.llama_free, self._context)
        self._batch = lib.llama_batch_init(PASS, 0, 1)
        weakref.finalize(self, lib.llama_batch_free, self._batch)
        self._model = model
        self._carried: int | None = None
        self.vocab = int(lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model)))
        self.n_params = int(lib.llama_model_n_params(model))

    def adapter(self, path: Path) -> LlamaAdapter:
        """An adapter's GGUF. Raises: ValueError for one that does not fit."""
        handle = self._lib.llama_adapter_lora_init(self._model, str(path).encode())
        if not handle:
            raise ValueError("llama.cpp cannot read this adapter")
        adapter = LlamaAdapter(self, handle)
        weakref.finalize(adapter, self._free, handle)
        return adapter

    def decode(self, adapter: LlamaAdapter | None, tokens: Sequence[At]) -> NDArray[np.float32]:
        """Keep these tokens, at most `PASS`; what comes after each that asks, shape (asked, vocabulary).

        Raises: RuntimeError where there is no room for them.
        """
        self._carry(None if adapter is None else adapter.handle)
        batch = self._batch
        batch.n_tokens = len(tokens)
        for number, token in enumerate(tokens):
            batch.token[number], batch.pos[number] = token.id, token.place
            batch.n_seq_id[number], batch.seq_id[number][0] = 1, token.sequence
            batch.logits[number] = token.asks
        failed = self._lib.llama_decode(self._context, batch)
        if failed:
            raise RuntimeError(f"llama_decode answered {failed}")
        shape = sum(token.asks for token in tokens), self.vocab
        return np.ctypeslib.as_array(self._lib.llama_get_logits(self._context), shape).copy()

    def forget(self, sequence: int, place: int = 0) -> None:
        """What was kept of a sequence from this place on."""
        self._lib.llama_memory_seq_rm(self._lib.llama_get_memory(self._context), sequence, place, -1)

    def _free(self, handle: int) -> None:
        if handle == self._carried:
            self._carry(None)
        self._lib.llama_adapter_lora_free(handle)

    def _carry(self, handle: int | None) -> None:
        if handle == self._carried:
            return
        given = [] if handle is None else [handle]
        handles = (self._lib.llama_adapter_lora_p_ctypes * 1)(*given)
        self._lib.llama_set_adapters_lora(self._context, handles, len(given), (ctypes.c_float * 1)(1.0))
        self._carried = handle


def _context(lib: Any, cells: Cells, threads: int | None) -> Any:
    made = lib.llama_context_default_params()
    made.n_ctx, made.n_seq_max, made.kv_unified = cells.tokens, cells.sequences, True
    made.n_batch = made.n_ubatch = min(PASS, cells.tokens)
    made.type_k = made.type_v = lib.GGML_TYPE_F32 if cells.kept_in == "f32" else lib.GGML_TYPE_F16
    if threads:
        made.n_threads = made.n_threads_batch = threads
    return made
