"""Asking a model: render, generate in the engine process, decode as it comes."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luthier import ids
from luthier.accounts.types import Actor
from luthier.bases.service import Bases
from luthier.bases.types import Base
from luthier.billing.token_rules import Served
from luthier.billing.tokens import Account
from luthier.datasets.decoding import StopTexts, TextStream
from luthier.datasets.renderers import Renderers
from luthier.datasets.rendering import Renderer
from luthier.errors import (
    EngineUnavailable,
    FieldInvalid,
    Gone,
    ModelNotAllowed,
    ModelNotReady,
    NotFound,
    RenderingDiffers,
)
from luthier.jobs.types import SavedStep
from luthier.registry.service import Registry
from luthier.seams import Generation, InferenceEngine, Likely, Piece, ServedModel
from luthier.serving.drift.observing import Asked
from luthier.serving.here import folder_of
from luthier.serving.notes import Notes
from luthier.serving.tool_calls import CLOSES, OPENS, schema_of_a_call
from luthier.serving.types import ChatAnswer, ChatDelta, ChatRequest, FinishReason, Sampled, TextRequest, TokenLikelihood

_WHAT = {"messages": "conversation", "prompt": "prompt"}
_SHORTER = {"messages": "Leave out older messages", "prompt": "Shorten it"}


_CHECKPOINT = re.compile(r"ft:[^:]+:[^:]*:.*:(?P<tail>[0-9a-z]{8}):ckpt-step-(?P<step>[0-9]{1,12})", re.ASCII | re.DOTALL)
Saved = Callable[[Actor, str, int], tuple[SavedStep, Path]]
"""The checkpoint of a job, by the last 8 characters of its id and the step, and where its adapter lies. Raises: NotFound."""


@dataclass(frozen=True)
class _Ready:
    """A request that may start."""

    model: ServedModel
    renderer: Renderer
    generation: Generation
    stop: tuple[str, ...]
    account: Account
    before: str = ""
    """What the answer begins with: the prompt that is echoed, or how a call is opened."""
    after: str = ""
    """What ends an answer that came to its end."""
    another: bool = False
    """To a prompt that an answer before it has counted."""


class Serving:
    """Chat with tuned models and bare bases, or let them go on with a text."""

    def __init__(
        self, registry: Registry, bases: Bases, engine: InferenceEngine, notes: Notes, saved: Saved | None = None
    ) -> None:
        """saved: what a name of a checkpoint means; without it there are none."""
        self._registry = registry
        self._saved = saved
        self._bases = bases
        self._engine = engine
        self._meter = notes.meter
        self._observer = notes.observer
        self._renderers = Renderers()

    def chat(self, actor: Actor, request: ChatRequest, *, another: bool = False) -> Iterator[ChatDelta]:
        """The answer, piece by piece. All refusals come before this returns; closing the iterator stops the engine.

        Tokens are counted as they come, whoever still waits for them; those of a prompt once, and not with `another` answer to
        the same one. Raises: NotFound, Gone, ModelNotReady, ModelNotAllowed,
        FieldInvalid (`context_length`), ArtifactCorrupt, RenderingDiffers, QuotaExceeded, BudgetExceeded, BaseUnavailable,
        EngineUnavailable.
        """
        ready = replace(self._chat(actor, request), another=another)
        try:
            deltas = self._begun(ready)
        except FieldInvalid as error:
            if request.must_call and error.param == "response_format":
                error.param = "tools"  # the schema was made of theirs
            raise
        if not another:
            self._note(actor, ready.model.id, request)
        return deltas

    def complete(self, actor: Actor, request: TextRequest, *, another: bool = False) -> Iterator[ChatDelta]:
        """How the model goes on with a text, piece by piece; otherwise as `chat`."""
        return self._begun(replace(self._text(actor, request), another=another))

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

    def _note(self, actor: Actor, model_id: str, request: ChatRequest) -> None:
        """Perhaps what was asked of a tuned model, to watch for drift."""
        question = next((each.content for each in reversed(request.messages) if each.role == "user"), None)
        if question and ids.is_id(model_id, ids.MODEL) and self._observer.watches(actor.tenant_id):
            with suppress(NotFound, Gone):  # deleted since it began to answer
                self._observer.observe(actor.tenant_id, self._registry.get(actor, model_id), Asked(text=question))

    def _begun(self, ready: _Ready) -> Iterator[ChatDelta]:
        deltas = self._deltas(ready)
        next(deltas)  # it has started: from here on `close` reaches the engine, and what the engine refuses was raised
        return deltas

    def _chat(self, actor: Actor, request: ChatRequest) -> _Ready:
        model, base, renderer = self._rendering(actor, request.model)
        messages = [message.model_dump(mode="json", exclude_none=True) for message in request.messages]
        tools = request.tools or ()
        schema, (opens, closes) = request.json_schema, ("", "")
        if request.must_call:
            schema, (opens, closes) = schema_of_a_call(tools, request.must_call), (OPENS, CLOSES)
        prompt = renderer.prompt(messages, list(tools) or None, begun=opens)
        generation = self._generation(request, prompt, (model, base, renderer), param="messages")
        account = self._admitted(actor, model, base, prompt)
        generation = replace(generation, json_schema=schema)
        return _Ready(model, renderer, generation, request.stop, account, before=opens, after=closes)

    def _text(self, actor: Actor, request: TextRequest) -> _Ready:
        model, base, renderer = self._rendering(actor, request.model)
        given = request.prompt
        prompt = renderer.text(given) if isinstance(given, str) else list(given) or renderer.text("")
        if not all(0 <= token < renderer.vocabulary_size for token in prompt):
            raise FieldInvalid(
                f"The prompt has tokens that this base does not know; its ids end at {renderer.vocabulary_size - 1}.",
                hint="Send the prompt as text: ids are those of the base's own tokenizer.",
                param="prompt",
            )
        before = "" if not request.echo else given if isinstance(given, str) else renderer.decode(given)
        generation = self._generation(request, prompt, (model, base, renderer), param="prompt")
        return _Ready(model, renderer, generation, request.stop, self._admitted(actor, model, base, prompt), before)

    def _admitted(self, actor: Actor, model: ServedModel, base: Base, prompt: Sequence[int]) -> Account:
        """Where its tokens are counted. Raises: QuotaExceeded, BudgetExceeded."""
        account = self._meter.account(actor, "chat", model.id, base.id)
        self._meter.admit(actor, account, len(prompt))
        return account

    def _rendering(self, actor: Actor, ref: str) -> tuple[ServedModel, Base, Renderer]:
        """A model, its base, and the rendering that it was trained with. Raises: RenderingDiffers, and as `_found`."""
        model, base, words, trained_with = self._found(actor, ref)
        renderer = self._renderers.of(words)
        if trained_with not in {None, renderer.fingerprint}:
            raise RenderingDiffers(f"The model {ref}")
        return model, base, renderer

    def _generation(
        self, request: Sampled, prompt: Sequence[int], asked: tuple[ServedModel, Base, Renderer], *, param: str
    ) -> Generation:
        """What the engine is asked. Raises: FieldInvalid `context_length`."""
        model, base, renderer = asked
        room = base.context - len(prompt)
        if room < 1:
            raise FieldInvalid(
                f"The {_WHAT[param]} has {len(prompt)} tokens; with its answer it may have {base.context}.",
                hint=f"{_SHORTER[param]}, or use a base with a longer context (`GET /api/bases`).",
                param=param,
                code="context_length",
            )
        return Generation(
            prompt_ids=tuple(prompt),
            max_tokens=min(request.max_tokens, room),
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            # The base's too: its generation_config.json, which may name more, does not travel with an adapter.
            stop_ids=tuple(sorted(renderer.stop_ids | self._renderers.of(model.base_folder).stop_ids)),
            logprobs=request.logprobs,
        )

    def _found(self, actor: Actor, ref: str) -> tuple[ServedModel, Base, Path, str | None]:
        """What a reference means, where its tokenizer lies, and the rendering that it was trained with.

        The ids of bases come first, their short names last.
        """
        if any(base.id == ref for base in self._bases.list()):
            return self._bare(self._bases.get(ref))
        checkpoint = _CHECKPOINT.fullmatch(ref)
        if checkpoint is not None and self._saved is not None:
            return self._of_step(*self._saved(actor, checkpoint["tail"], int(checkpoint["step"])))
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

    def _of_step(self, saved: SavedStep, weights: Path) -> tuple[ServedModel, Base, Path, str | None]:
        base = self._bases.get(saved.base.id).model_copy(update={"revision": saved.base.revision})
        folder = folder_of(self._bases, base)
        return ServedModel(saved.key, folder, weights), base, folder, saved.base.rendering_sha256

    def _bare(self, base: Base) -> tuple[ServedModel, Base, Path, None]:
        folder = folder_of(self._bases, base)
        return ServedModel(base.id, folder, None), base, folder, None

    def _deltas(self, ready: _Ready) -> Generator[ChatDelta]:
        """First an empty delta, once the engine has begun; then the answer."""
        text, stops, count = TextStream(ready.renderer.decode), StopTexts(ready.stop), 0
        facts: dict[str, Any] = {"model": ready.model.id, "prompt_tokens": len(ready.generation.prompt_ids)}
        finish: FinishReason = "stop"
        with ExitStack() as held:
            if ready.model.adapter_folder is not None:
                held.enter_context(self._registry.copies.holding(ready.model.adapter_folder))
            pieces = _explained(self._engine.generate(ready.model, ready.generation))
            held.callback(pieces.close)
            piece = next(pieces, None)
            if not ready.another:
                self._meter.add(ready.account, Served(requests=1, prompt_tokens=facts["prompt_tokens"]))
            yield ChatDelta(**facts)
            if ready.before:
                yield ChatDelta(text=ready.before, **facts)
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
        rest = stops.push(text.rest()) + stops.rest() + ("" if stops.found or finish == "length" else ready.after)
        yield ChatDelta(text=rest, finish_reason=finish, completion_tokens=count, **facts)


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
