"""Chats by llama.cpp, in an engine process of its own; classifiers, which it does not have, are the usual engine's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.backends.engines.child import COMMAND
from luthier.seams import Classification, Classified, Generation, InferenceEngine, Piece, ServedClassifier, ServedModel

LLAMA_COMMAND = (*COMMAND, "--engine", "llama.cpp")
"""The engine process with llama.cpp in it: `EngineProcess` speaks to it as to the other."""


class LlamaEngine:
    """Implements `seams.InferenceEngine`. `llama` is a client of the process that `LLAMA_COMMAND` starts."""

    def __init__(self, llama: InferenceEngine, usual: InferenceEngine) -> None:
        self._llama = llama
        self._usual = usual

    def generate(self, model: ServedModel, request: Generation) -> Iterator[Piece]:
        """Stream the answer. Raises: as that engine; ModelNotAllowed for a model that llama.cpp has no place for."""
        return self._llama.generate(model, request)

    def classify(self, model: ServedClassifier, questions: Sequence[Classification]) -> Sequence[Classified]:
        """By the usual engine. Raises: as that."""
        return self._usual.classify(model, questions)

    def score(self, model: ServedModel, prompt_ids: Sequence[int], answers: Sequence[Sequence[int]]) -> Sequence[float]:
        """See `seams.InferenceEngine`: the usual engine does it."""
        return self._usual.score(model, prompt_ids, answers)

    def unload(self, folder: Path) -> None:
        """See `seams.InferenceEngine`: both do."""
        self._llama.unload(folder)
        self._usual.unload(folder)

    def state(self) -> Mapping[str, Any]:
        """That of llama.cpp's process, and the other one's besides."""
        return {**self._llama.state(), "usual": self._usual.state()}

    def close(self) -> None:
        """End both processes."""
        self._llama.close()
        self._usual.close()
