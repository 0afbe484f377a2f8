"""Asking the classifier that is in Production."""

from __future__ import annotations

from pathlib import Path

from luthier.accounts.types import Actor
from luthier.bases.service import Bases
from luthier.datasets.renderers import Renderers
from luthier.errors import ArtifactCorrupt, FieldInvalid, NoModel, NotFound
from luthier.registry.service import Registry
from luthier.registry.types import Model
from luthier.seams import Cache, Classification, Classified, InferenceEngine, ServedClassifier
from luthier.serving import predicting
from luthier.serving.here import folder_of
from luthier.serving.types import DEFAULT_CLASSIFIER, Prediction, PredictRequest


class Predictions:
    """Classes of images and texts, by the version in Production alone."""

    def __init__(self, registry: Registry, bases: Bases, engine: InferenceEngine, cache: Cache) -> None:
        self._registry = registry
        self._bases = bases
        self._engine = engine
        self._cache = cache
        self._renderers = Renderers()

    def predict(self, actor: Actor, request: PredictRequest) -> Prediction:
        """To which class it belongs, and how likely each is. What was asked before is answered from the cache.

        Raises: FieldInvalid, NoModel, NotFound, ModelOutputInvalid, ArtifactCorrupt, ModelNotAllowed, BaseUnavailable,
        EngineUnavailable, TooMany.
        """
        predicting.check_asked(request)
        model = self._in_production(actor, request.model_name)
        key = predicting.cache_key(actor.tenant_id, model, request)
        kept = self._cache.get(key)
        if kept is not None:
            return Prediction.model_validate_json(kept)
        found = predicting.prediction_of(model, self._asked(actor, model, request))
        self._cache.put(key, found.model_dump_json().encode())
        return found

    def _in_production(self, actor: Actor, name: str) -> Model:
        model = self._registry.in_production(actor, name)
        if model is None:
            if name == DEFAULT_CLASSIFIER or self._registry.list(actor, name=name, limit=1).data:
                raise NoModel(name)
            raise NotFound("model")
        if model.card.lineage.method != "classifier":
            raise FieldInvalid("This model is no classifier.", hint="Ask it with `POST /api/chat`.", param="model_name")
        return model

    def _asked(self, actor: Actor, model: Model, request: PredictRequest) -> Classified:
        folder = self._registry.weights(actor, model)
        about = _about(folder)
        predicting.check_fits(request, about)
        if not about.on_base:
            alone = ServedClassifier(model.id, folder, None)
            return self._engine.classify(alone, Classification(image=request.image, text=request.text))
        base = self._bases.get(model.base_model).model_copy(update={"revision": model.base_revision})
        standing = ServedClassifier(model.id, folder, folder_of(self._bases, base))
        tokens = self._renderers.of(folder).text(request.text or "")[: about.max_tokens]
        return self._engine.classify(standing, Classification(prompt_ids=tuple(tokens)))


def _about(folder: Path) -> predicting.About:
    try:
        return predicting.about_of((folder / "classifier.json").read_bytes())
    except OSError:
        raise ArtifactCorrupt("The classifier cannot be used: it has no classifier.json.", hint="Train it again.") from None
