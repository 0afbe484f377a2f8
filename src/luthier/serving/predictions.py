"""Asking the classifier that is in Production."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from luthier.accounts.types import Actor
from luthier.bases.service import Bases
from luthier.billing.token_rules import Served
from luthier.billing.tokens import Account
from luthier.datasets.renderers import Renderers
from luthier.errors import ArtifactCorrupt, FieldInvalid, NoModel, NotFound
from luthier.registry.service import Registry
from luthier.registry.types import Model
from luthier.seams import Cache, Classification, Classified, InferenceEngine, ServedClassifier
from luthier.serving import pictures, predicting
from luthier.serving.drift.observing import Asked
from luthier.serving.here import folder_of
from luthier.serving.notes import Notes
from luthier.serving.types import DEFAULT_CLASSIFIER, Prediction, PredictRequest

_MOST_READY = 64


@dataclass(frozen=True)
class _Ready:
    """A version that is in Production, and what its files say of it. They never change."""

    model: Model
    served: ServedClassifier
    about: predicting.About


@dataclass(frozen=True)
class Known:
    """What is known of a request: whom it asks, who pays, and the answer if it was given before."""

    ready: _Ready
    account: Account
    key: str
    kept: bytes | None


@dataclass(frozen=True)
class Asking:
    """A request, and what the engine is to be asked for it."""

    known: Known
    request: PredictRequest
    question: Classification

    @property
    def served(self) -> ServedClassifier:
        return self.known.ready.served


class Predictions:
    """Classes of images and texts, by the version in Production alone."""

    def __init__(self, registry: Registry, bases: Bases, engine: InferenceEngine, cache: Cache, notes: Notes) -> None:
        self._registry = registry
        self._observer = notes.observer
        self._bases = bases
        self._engine = engine
        self._cache = cache
        self._meter = notes.meter
        self._renderers = Renderers()
        self._ready: OrderedDict[str, _Ready] = OrderedDict()

    @property
    def cache_is_near(self) -> bool:
        """Whether it takes microseconds to look there, so that the event loop may."""
        return not self._cache.remote

    def glance(self, actor: Actor, body: bytes) -> Known | None:
        """What can be told at once of a request by its bytes alone, none of them read as JSON. For the event loop.

        None where more must be found out, which `find` does. Raises: DatabaseBusy.
        """
        name = predicting.name_in(body) if self.cache_is_near else None
        model_id = None if name is None else self._registry.production_id(actor.tenant_id, name)
        ready = self._ready.get(model_id or "")
        if ready is None:
            return None
        known = self._known(actor, ready, body)
        at_once = known.kept is not None or (not ready.about.on_base and self._registry.copies.used(ready.served.folder))
        return known if at_once and self._meter.admitted(actor, known.account) else None

    def again(self, known: Known, kept: bytes, body: bytes) -> bytes:
        """The answer that was given before, counted as another one."""
        self._meter.add(known.account, Served(requests=1))
        self._observer.observe(known.account.tenant_id, known.ready.model, Asked(unread=(body, kept)))
        return kept

    def find(self, actor: Actor, request: PredictRequest, body: bytes | None = None) -> Asking | bytes:
        """What the engine is to be asked, or what it answered before. Asks the disk, the database and other machines for it.

        `body`: the bytes in which the request came; they are what `glance` knows it by.
        Raises: FieldInvalid, NoModel, NotFound, ArtifactCorrupt, ModelNotAllowed, BaseUnavailable, QuotaExceeded, BudgetExceeded.
        """
        predicting.check_asked(request)
        ready = self._in_production(actor, request.model_name)
        body = body or predicting.asked_in(request)
        known = self._known(actor, ready, body)
        self._meter.admit(actor, known.account)
        return self.asking(known, request) if known.kept is None else self.again(known, known.kept, body)

    def asking(self, known: Known, request: PredictRequest) -> Asking:
        """What the engine is to be asked. Raises: FieldInvalid."""
        predicting.check_asked(request)
        return Asking(known, request, self._question(known.ready, request))

    def ask(self, served: ServedClassifier, questions: Sequence[Classification]) -> Sequence[Classified]:
        """Put the questions to one classifier to the engine, at once. Raises: as `seams.InferenceEngine.classify`."""
        with self._registry.copies.holding(served.folder):
            return self._engine.classify(served, questions)

    def answered(self, asking: Asking, found: Classified) -> bytes:
        """The answer as JSON; it is counted, and kept for whoever asks the same. Raises: ModelOutputInvalid."""
        known, request = asking.known, asking.request
        answer = predicting.prediction_of(known.ready.model, found)
        self._meter.add(known.account, Served(requests=1, prompt_tokens=len(asking.question.prompt_ids or ())))
        data = answer.model_dump_json().encode()
        self._cache.put(known.key, data)
        asked = Asked(request.image, request.text, str(answer.prediction), answer.confidence)
        self._observer.observe(known.account.tenant_id, known.ready.model, asked)
        return data

    def look_at(self, actor: Actor, name: str, picture: bytes, *, digit: bool = False) -> PredictRequest:
        """The question that a picture file is, to the version of `name` in Production.

        Raises: FieldInvalid, TooLarge, and what `find` raises where nothing can be asked.
        """
        side = predicting.side_of(self._in_production(actor, name).about)
        return PredictRequest(image=pictures.pixels_of(picture, side, digit=digit), model_name=name)

    def answer(self, actor: Actor, model: Model, request: PredictRequest) -> Prediction:
        """What exactly this version answers, past the cache, neither counted nor observed.

        Raises: as `find` and `ask`; ModelOutputInvalid.
        """
        ready = self._ready.get(model.id) or self._opened(actor, model)
        (found,) = self.ask(ready.served, [self._question(ready, request)])
        return predicting.prediction_of(model, found)

    def _known(self, actor: Actor, ready: _Ready, body: bytes) -> Known:
        account = self._meter.account(actor, "predict", ready.model.id, ready.model.base_model)
        key = predicting.cache_key(actor.tenant_id, ready.model.id, body)
        return Known(ready, account, key, self._cache.get(key))

    def _in_production(self, actor: Actor, name: str) -> _Ready:
        model_id = self._registry.production_id(actor.tenant_id, name)
        ready = self._ready.get(model_id or "")
        if ready is not None and self._registry.copies.used(ready.served.folder):
            return ready
        model = self._registry.in_production(actor, name)
        if model is None:
            if name == DEFAULT_CLASSIFIER or self._registry.list(actor, name=name, limit=1).data:
                raise NoModel(name)
            raise NotFound("model")
        if model.card.lineage.method != "classifier":
            raise FieldInvalid("This model is no classifier.", hint="Ask it with `POST /api/chat`.", param="model_name")
        self._ready[model.id] = ready = self._opened(actor, model)
        while len(self._ready) > _MOST_READY:
            self._ready.popitem(last=False)
        return ready

    def _opened(self, actor: Actor, model: Model) -> _Ready:
        folder = self._registry.weights(actor, model)
        about = _about(folder)
        if not about.on_base:
            return _Ready(model, ServedClassifier(model.id, folder, None), about)
        base = self._bases.get(model.base_model).model_copy(update={"revision": model.base_revision})
        return _Ready(model, ServedClassifier(model.id, folder, folder_of(self._bases, base)), about)

    def _question(self, ready: _Ready, request: PredictRequest) -> Classification:
        """What the engine is asked. Raises: FieldInvalid."""
        predicting.check_fits(request, ready.about)
        if not ready.about.on_base:
            return Classification(image=request.image, text=request.text)
        tokens = self._renderers.of(ready.served.folder).text(request.text or "")[: ready.about.max_tokens]
        return Classification(prompt_ids=tuple(tokens))


def _about(folder: Path) -> predicting.About:
    try:
        return predicting.about_of((folder / "classifier.json").read_bytes())
    except OSError:
        raise ArtifactCorrupt("The classifier cannot be used: it has no classifier.json.", hint="Train it again.") from None
