"""Asking the classifier that is in Production."""

from __future__ import annotations

from collections import OrderedDict
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
from luthier.seams import Cache, Classification, InferenceEngine, ServedClassifier
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
        """Whether `kept` takes microseconds, so that the event loop may ask."""
        return not self._cache.remote

    def kept(self, actor: Actor, body: bytes) -> bytes | None:
        """The answer to a request of these very bytes, as JSON, if the version in Production gave it before.

        Raises: DatabaseBusy.
        """
        name = predicting.name_in(body)
        model_id = None if name is None else self._registry.production_id(actor.tenant_id, name)
        ready = self._ready.get(model_id or "")
        if ready is None:
            return None
        account = self._account(actor, ready)
        kept = self._cache.get(predicting.cache_key(actor.tenant_id, ready.model.id, body))
        if kept is None or not self._meter.admitted(actor, account):
            return None
        self._meter.add(account, Served(requests=1))
        self._observer.observe(actor.tenant_id, ready.model, Asked(unread=(body, kept)))
        return kept

    def predict(self, actor: Actor, request: PredictRequest, body: bytes | None = None) -> Prediction:
        """To which class it belongs, and how likely each is. What was asked before is answered from the cache.

        `body`: the bytes in which the request came; they are what `kept` knows it by.
        Raises: FieldInvalid, NoModel, NotFound, ModelOutputInvalid, ArtifactCorrupt, ModelNotAllowed, BaseUnavailable,
        EngineUnavailable, TooMany, QuotaExceeded, BudgetExceeded.
        """
        predicting.check_asked(request)
        ready = self._in_production(actor, request.model_name)
        account = self._account(actor, ready)
        self._meter.admit(actor, account)
        key = predicting.cache_key(actor.tenant_id, ready.model.id, body or predicting.asked_in(request))
        kept = self._cache.get(key)
        if kept is not None:
            self._meter.add(account, Served(requests=1))
            found = Prediction.model_validate_json(kept)
        else:
            question = self._question(ready, request)
            found = self._found(ready, question)
            self._meter.add(account, Served(requests=1, prompt_tokens=len(question.prompt_ids or ())))
            self._cache.put(key, found.model_dump_json().encode())
        asked = Asked(request.image, request.text, str(found.prediction), found.confidence)
        self._observer.observe(actor.tenant_id, ready.model, asked)
        return found

    def look_at(self, actor: Actor, name: str, picture: bytes, *, digit: bool = False) -> PredictRequest:
        """The question that a picture file is, to the version of `name` in Production.

        Raises: FieldInvalid, TooLarge, and what `predict` raises where nothing can be asked.
        """
        side = predicting.side_of(self._in_production(actor, name).about)
        return PredictRequest(image=pictures.pixels_of(picture, side, digit=digit), model_name=name)

    def answer(self, actor: Actor, model: Model, request: PredictRequest) -> Prediction:
        """What exactly this version answers, past the cache, neither counted nor observed. Raises: as `predict`."""
        ready = self._ready.get(model.id) or self._opened(actor, model)
        return self._found(ready, self._question(ready, request))

    def _found(self, ready: _Ready, question: Classification) -> Prediction:
        with self._registry.copies.holding(ready.served.folder):
            return predicting.prediction_of(ready.model, self._engine.classify(ready.served, question))

    def _account(self, actor: Actor, ready: _Ready) -> Account:
        return self._meter.account(actor, "predict", ready.model.id, ready.model.base_model)

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
