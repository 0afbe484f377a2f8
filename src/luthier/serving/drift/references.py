"""What a version was trained or evaluated on, seen as requests are: its rows, and what it answers to them."""

from __future__ import annotations

from collections.abc import Callable

from luthier.accounts.types import Actor
from luthier.datasets.service import Datasets
from luthier.errors import DatasetNotReady, FieldInvalid, Gone, ModelOutputInvalid, NotFound
from luthier.registry.types import Model
from luthier.seams import Clock
from luthier.serving.drift import observing
from luthier.serving.drift.observing import Asked
from luthier.serving.drift.types import Reference
from luthier.serving.types import Prediction, PredictRequest

ROWS = 300
"""Drawn by chance: enough to see a tenth of a distribution move, and few enough to be answered in the background."""


class NoReference(Exception):
    """There is nothing to compare with; the words say why, for people."""


class References:
    """Makes references. `answer` asks exactly this version, past the cache."""

    def __init__(self, datasets: Datasets, answer: Callable[[Actor, Model, PredictRequest], Prediction], now: Clock) -> None:
        self._datasets = datasets
        self._answer = answer
        self._now = now

    def made(self, actor: Actor, model: Model) -> Reference:
        """From the rows that it was evaluated on, or else from those that it was trained on.

        Raises: NoReference; EngineUnavailable, TooMany, Unavailable where it is worth another try.
        """
        lineage, held_out = model.card.lineage, _held_out(model)
        dataset = held_out or lineage.dataset
        try:
            rows = self._datasets.drawn(actor, dataset, ROWS)
        except (NotFound, Gone, DatasetNotReady):
            raise NoReference(f"The dataset {dataset}, which it was measured on, is not there any more.") from None
        brightest = observing.brightest_of(rows)
        questions = [asked for asked in (observing.asked_in(row, brightest) for row in rows) if asked is not None]
        if lineage.method == "classifier":
            questions = [self._answered(actor, model, asked) for asked in questions]
        if not questions:
            raise NoReference(f"No row of the dataset {dataset} asks anything.")
        return Reference(
            rows_of="held_out" if held_out else "training",
            dataset=dataset,
            made_at=self._now(),
            observations=tuple(map(observing.observed, questions)),
        )

    def _answered(self, actor: Actor, model: Model, asked: Asked) -> Asked:
        image = None if asked.image is None else tuple(map(float, asked.image))
        try:
            found = self._answer(actor, model, PredictRequest(image=image, text=asked.text, model_name=model.name))
        except (FieldInvalid, ModelOutputInvalid) as error:
            raise NoReference(f"It does not answer the rows of its dataset: {error.message}") from None
        return asked._replace(answer=str(found.prediction), confidence=found.confidence)


def _held_out(model: Model) -> str | None:
    """The dataset that it was evaluated on, in training or else since, and not trained on."""
    lineage = model.card.lineage
    measured = [lineage.validation_dataset, *(record.dataset for record in model.card.evaluations)]
    return next((dataset for dataset in measured if dataset and dataset != lineage.dataset), None)
