"""Asking a model: render, generate in the engine process, decode as it comes."""

from __future__ import annotations

from collections.abc import Iterator

from luthier.accounts.types import Actor
from luthier.bases.service import Bases
from luthier.registry.service import Registry
from luthier.seams import InferenceEngine
from luthier.serving.types import ChatAnswer, ChatDelta, ChatRequest


class Serving:
    """Chat with tuned models and bare bases."""

    def __init__(self, registry: Registry, bases: Bases, engine: InferenceEngine) -> None: ...

    def chat(self, actor: Actor, request: ChatRequest) -> Iterator[ChatDelta]:
        """The answer, piece by piece. All refusals come before this returns; closing the iterator stops the engine.

        Raises: NotFound, Gone, ModelNotAllowed, FieldInvalid (`context_length`), BaseUnavailable, EngineUnavailable.
        """
        raise NotImplementedError

    def answer(self, actor: Actor, request: ChatRequest) -> ChatAnswer:
        """The whole answer. Raises: as `chat`."""
        raise NotImplementedError
