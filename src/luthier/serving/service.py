"""Asking a model: render, generate in the engine process, decode as it comes."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.accounts.types import Actor
from luthier.bases.service import Bases
from luthier.bases.types import Base
from luthier.billing.token_rules import Served
from luthier.billing.tokens import Account, TokenMeter
from luthier.datasets.decoding import StopTexts, TextStream
from luthier.datasets.renderers import Renderers
from luthier.datasets.rendering import Renderer
from luthier.errors import (
    EngineUnavailable,
    FieldInvalid,
    ModelNotAllowed,
    ModelNotReady,
    NotFound,
    RenderingDiffers,
)
from luthier.registry.service import Registry
from luthier.seams import Generation, InferenceEngine, Likely, Piece, ServedModel
from luthier.serving.here import folder_of
from luthier.serving.types import ChatAnswer, ChatDelta, ChatRequest, FinishReason, TokenLikelihood


@dataclass(frozen=True)
class _Ready:
    """A request that may start."""

    model: ServedModel
    renderer: Renderer
    generation: Generation
    stop: tuple[str, ...]
    account: Account


class Serving:
    """Chat with tuned models and bare bases."""

    def __init__(self, registry: Registry, bases: Bases, engine: InferenceEngine, meter: TokenMeter) -> None:
        self._registry = registry
        self._bases = bases
        self._engine = engine
        self._meter = meter
        self._renderers = Renderers()

    def chat(self, actor: Actor, request: ChatRequest) -> Iterator[ChatDelta]:
        """The answer, piece by piece. All refusals come before this returns; closing the iterator stops the engine.

        Tokens are counted as they come, whoever still waits for them. Raises: NotFound, Gone, ModelNotReady, ModelNotAllowed,
        FieldInvalid (`context_length`), ArtifactCorrupt, RenderingDiffers, QuotaExceeded, BudgetExceeded, BaseUnavailable,
        EngineUnavailable.
        """
        deltas = self._deltas(self._prepared(actor, request))
        next(deltas)  # it has started: from here on `close` reaches the engine, and what the engine refuses was raised
        return deltas

    def answer(self, actor: Actor, request: ChatRequest) -> ChatAnswer:
        """The whole answer. Raises: as `chat`."""
        deltas = list(self.chat(actor, request))
        last = deltas[-1]
        return ChatAnswer(
            text="".join(delta.text for delta in deltas),
            finish_reason=last.finish_reason or "stop",
            prompt_tokens=last.prompt_tokens,
            completion_tokens=last.completion_tokens,
            model=last.model,
        )

    def _prepared(self, actor: Actor, request: ChatRequest) -> _Ready:
        model, base, words, trained_with = self._found(actor, request.model)
        renderer = self._renderers.of(words)
        if trained_with not in {None, renderer.fingerprint}:
            raise RenderingDiffers(f"The model {request.model}")
        messages = [message.model_dump(mode="json", exclude_none=True) for message in request.messages]
        prompt = renderer.prompt(messages, list(request.tools) if request.tools else None)
        room = base.context - len(prompt)
        if room < 1:
            raise FieldInvalid(
                f"The conversation has {len(prompt)} tokens; with its answer it may have {base.context}.",
                hint="Leave out older messages, or use a base with a longer context (`GET /api/bases`).",
                param="messages",
                code="context_length",
            )
        generation = Generation(
            prompt_ids=tuple(prompt),
            max_tokens=min(request.max_tokens, room),
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            # The base's too: its generation_config.json, which may name more, does not travel with an adapter.
            stop_ids=tuple(sorted(renderer.stop_ids | self._renderers.of(model.base_folder).stop_ids)),
            logprobs=request.logprobs,
            json_schema=request.json_schema,
        )
        account = self._meter.account(actor, "chat", model.id, base.id)
        self._meter.admit(actor, account, len(prompt))
        return _Ready(model, renderer, generation, request.stop, account)

    def _found(self, actor: Actor, ref: str) -> tuple[ServedModel, Base, Path, str | None]:
        """What a reference means, where its tokenizer lies, and the rendering that it was trained with.

        The ids of bases come first, their short names last.
        """
        if any(base.id == ref for base in self._bases.list()):
            return self._bare(self._bases.get(ref))
        try:
            model = self._registry.resolve(actor, ref)
        except (NotFound, ModelNotReady):
            # A base of this short name answers meanwhile: what a job may yet become is no reason to refuse it.
            try:
                return self._bare(self._bases.get(ref))
            except ModelNotAllowed:
                # Written like a hub id: then the allow-list is what the caller must hear about.
                if "/" in ref and not ref.startswith("ft:"):
                    raise
            raise
        if model.card.lineage.method == "classifier":
            raise FieldInvalid("This model is a classifier: it cannot chat.", hint="Name a language model.", param="model")
        base = self._bases.get(model.base_model).model_copy(update={"revision": model.base_revision})
        weights = self._registry.weights(actor, model)
        return ServedModel(model.id, folder_of(self._bases, base), weights), base, weights, model.card.lineage.rendering_sha256

    def _bare(self, base: Base) -> tuple[ServedModel, Base, Path, None]:
        folder = folder_of(self._bases, base)
        return ServedModel(base.id, folder, None), base, folder, None

    def _deltas(self, ready: _Ready) -> Generator[ChatDelta]:
        """First an empty delta, once the engine has begun; then the answer."""
        text, stops, count = TextStream(ready.renderer.decode), StopTexts(ready.stop), 0
        facts: dict[str, Any] = {"model": ready.model.id, "prompt_tokens": len(ready.generation.prompt_ids)}
        finish: FinishReason = "stop"
        with ExitStack() as held:
            pieces = _explained(self._engine.generate(ready.model, ready.generation))
            held.callback(pieces.close)
            piece = next(pieces, None)
            self._meter.add(ready.account, Served(requests=1, prompt_tokens=facts["prompt_tokens"]))
            yield ChatDelta(**facts)
            while piece is not None:
                count += len(piece.token_ids)
                self._meter.add(ready.account, Served(completion_tokens=len(piece.token_ids)))
                shown, likely = stops.push(text.push(piece.token_ids)), _told(ready.renderer, piece.likely)
                if shown or likely:
                    yield ChatDelta(text=shown, completion_tokens=count, likely=likely, **facts)
                if stops.found:
                    break
                if piece.finish_reason is not None:
                    finish = "length" if piece.finish_reason == "length" else "stop"
                    break
                piece = next(pieces, None)
        yield ChatDelta(text=stops.push(text.rest()) + stops.rest(), finish_reason=finish, completion_tokens=count, **facts)


def _told(renderer: Renderer, likely: Sequence[Likely]) -> tuple[TokenLikelihood, ...]:
    def one(token_id: int, logprob: float, top: tuple[TokenLikelihood, ...] = ()) -> TokenLikelihood:
        text = renderer.decode([token_id])
        return TokenLikelihood(text=text, bytes=tuple(text.encode()), logprob=logprob, top=top)

    return tuple(one(each.token_id, each.logprob, tuple(one(*other) for other in each.top)) for each in likely)


def _explained(pieces: Iterator[Piece]) -> Generator[Piece]:
    """The engine's pieces; closing this closes them. Raises: EngineUnavailable where the connection breaks."""
    try:
        yield from pieces
    except OSError as error:
        raise EngineUnavailable(
            "The engine process ended while it answered.", hint="Ask again: it is started anew with the next request."
        ) from error
