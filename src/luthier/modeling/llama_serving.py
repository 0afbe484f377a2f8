"""llama.cpp in the engine process: bases and adapters become GGUFs when they are first asked, and answers go on side by side.

Implements `passes.Loader` and `passes.Passes`, so that queue, batches, streams and refusals are those of the other engine. As
llama.cpp applies an adapter to all tokens of a pass, a step has a pass for each adapter that is asked.
"""

from __future__ import annotations

import secrets
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from luthier.errors import ArtifactCorrupt, ModelNotAllowed
from luthier.modeling import adapter_files, gguf_adapters, gguf_files
from luthier.modeling.base_config import check_config
from luthier.modeling.gguf_files import NotGguf
from luthier.modeling.llama_sequences import At, Cells, LlamaAdapter, LlamaSequences

_MOST_TOKENS = 8192
"""Of all answers of a base together, prompts and all: room for them is taken when it is loaded."""
_PREFIX = "base_model.model."


class Sequences(Protocol):
    """What `LlamaSequences` is to `LlamaPasses`."""

    @property
    def vocab(self) -> int: ...
    def decode(self, adapter: LlamaAdapter | None, tokens: Sequence[At]) -> NDArray[np.float32]: ...
    def forget(self, sequence: int, place: int = 0) -> None: ...


@dataclass(frozen=True, eq=False)
class LlamaBase:
    """A base as llama.cpp has it in memory."""

    sequences: LlamaSequences
    passes: LlamaPasses
    context: int
    n_bytes: int

    @property
    def vocab(self) -> int:
        return self.sequences.vocab

    @property
    def n_params(self) -> int:
        return self.sequences.n_params


class LlamaLoader:
    """Implements `passes.Loader`. GGUFs lie in `folder`."""

    def __init__(self, folder: Path, active: int, threads: int | None = None) -> None:
        """active: answers of a base at a time."""
        self._folder = folder
        self._active = active
        self._threads = threads

    def base(self, folder: Path) -> LlamaBase:
        """See `passes.Loader`."""
        try:
            check_config(folder)
            made = self._file()
            gguf_files.write(folder, made, "base", "f16")
            context = min(int(gguf_files.architecture_of(folder)[0]["max_position_embeddings"]), _MOST_TOKENS)
            cells = Cells(min(_MOST_TOKENS, self._active * context), self._active)
            sequences = LlamaSequences(made, cells, self._threads)
        except (NotGguf, ValueError, OSError, SafetensorError) as error:
            raise _refused(error) from None
        n_bytes = made.stat().st_size
        made.unlink()  # what is mapped of it stays until it is let go
        return LlamaBase(sequences, LlamaPasses(sequences, cells), context, n_bytes)

    def adapter(self, base: LlamaBase, base_folder: Path, folder: Path) -> LlamaAdapter:
        """See `passes.Loader`."""
        made = self._file()
        try:
            write_adapter(folder, base_folder, made)
            return base.sequences.adapter(made)
        except (NotGguf, ValueError, OSError, SafetensorError) as error:
            raise _refused(error) from None
        finally:
            made.unlink(missing_ok=True)

    def passes(self, base: LlamaBase) -> LlamaPasses:
        """See `passes.Loader`."""
        return base.passes

    def _file(self) -> Path:
        return self._folder / f"{secrets.token_hex(8)}.gguf"


def write_adapter(folder: Path, base_folder: Path, target: Path) -> None:
    """PEFT's files as a GGUF of full precision. Raises: NotGguf, ValueError, OSError, SafetensorError."""
    shape = adapter_files.read_shape(folder)
    with safe_open(folder / adapter_files.WEIGHTS, "np") as file:
        names = list(file.keys())
        matrices = {name.removeprefix(_PREFIX): file.get_tensor(name).astype("float32") for name in names}
    gguf_adapters.write(matrices, shape.scale, base_folder, target, "f32")


def _refused(error: Exception) -> ModelNotAllowed | ArtifactCorrupt:
    if isinstance(error, NotGguf):
        told = f"llama.cpp does not serve this model: {error}."
        return ModelNotAllowed(told, hint="Serve it with LUTHIER_ENGINE=transformers.")
    return ArtifactCorrupt(f"llama.cpp cannot load this model ({type(error).__name__}).", hint="Train it again.")


@dataclass(eq=False)
class _Row:
    """A sequence: of an answer, or free, with what it still knows of its last one."""

    sequence: int
    adapter: LlamaAdapter | None = None
    ids: list[int] = field(default_factory=list[int])
    """Tokens that are kept."""
    by: weakref.ref[LlamaAdapter] | None = None
    """Whose they are, of a free one: what is remembered keeps no adapter in memory."""
    most: int = 0
    """Tokens that it may come to keep; 0 of a free one."""

    @property
    def length(self) -> int:
        return len(self.ids)

    def shared(self, adapter: LlamaAdapter | None, prompt: Sequence[int]) -> int:
        """How many tokens of a prompt it knows; the last one is always read, for its logits."""
        owner = None if self.by is None else self.by()
        if owner is not adapter or (self.by is not None and owner is None):
            return 0
        pairs = zip(self.ids, prompt[:-1], strict=False)
        return next((place for place, (one, other) in enumerate(pairs) if one != other), min(self.length, len(prompt) - 1))


class LlamaPasses:
    """Implements `passes.Passes`. A prompt that begins as an earlier answer of the same model did is read from there on."""

    def __init__(self, sequences: Sequences, cells: Cells) -> None:
        self._sequences = sequences
        self._room = cells.tokens
        self._free = [_Row(number) for number in range(cells.sequences)]
        """Those that ended last stand last."""
        self._taken: list[_Row] = []

    def begin(self, adapter: LlamaAdapter | None, prompt: Sequence[int], most: int) -> _Row | None:
        """See `passes.Passes`."""
        wanted = len(prompt) + most
        if not self._free or wanted + sum(row.most for row in self._taken) > self._room:
            return None
        row = max(self._free, key=lambda each: (each.shared(adapter, prompt), -each.length))
        self._forget(row, row.shared(adapter, prompt))
        row.adapter, row.most = adapter, wanted
        self._free.remove(row)
        self._taken.append(row)
        # What is still known of earlier answers must not stand in the way.
        for other in self._free:
            if sum(each.most for each in self._taken) + sum(each.length for each in self._free) > self._room:
                self._forget(other, 0)
        return row

    def read(self, rows: Sequence[_Row], pieces: Sequence[Sequence[int]]) -> Tensor:
        """See `passes.Passes`."""
        logits_BV = torch.empty(len(rows), self._sequences.vocab)
        for adapter in dict.fromkeys(row.adapter for row in rows):
            places = [place for place, row in enumerate(rows) if row.adapter is adapter]
            logits_BV[places] = self._pass(adapter, [(rows[place], pieces[place]) for place in places])
        return logits_BV

    def decode(self, rows: Sequence[_Row], tokens: Sequence[int]) -> Tensor:
        """See `passes.Passes`."""
        return self.read(rows, [[token] for token in tokens])

    def end(self, row: _Row) -> None:
        """See `passes.Passes`."""
        if row in self._taken:
            row.most, row.by, row.adapter = 0, row.adapter and weakref.ref(row.adapter), None
            self._taken.remove(row)
            self._free.append(row)

    def _pass(self, adapter: LlamaAdapter | None, pieces: Sequence[tuple[_Row, Sequence[int]]]) -> Tensor:
        """Of rows of one adapter; logits after each piece."""
        at = [
            At(token, row.sequence, row.length + n, n == len(piece) - 1) for row, piece in pieces for n, token in enumerate(piece)
        ]
        try:
            logits_BV = self._sequences.decode(adapter, at)
        except RuntimeError:
            for row, _ in pieces:  # how much of it was kept is not known
                self._forget(row, 0)
            raise
        for row, piece in pieces:
            row.ids += piece
        return torch.from_numpy(logits_BV)

    def _forget(self, row: _Row, place: int) -> None:
        if row.length > place or not place:
            self._sequences.forget(row.sequence, place)
            del row.ids[place:]
