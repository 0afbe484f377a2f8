"""One window: its requests beside the reference, and the alarm where they are no longer alike."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from luthier.accounts.types import Actor, Role
from luthier.database import Database
from luthier.datasets.service import Datasets
from luthier.errors import Gone, NotFound
from luthier.jobs.service import Jobs
from luthier.notifications import outbox
from luthier.registry.service import Registry
from luthier.registry.types import Model
from luthier.seams import Clock, Embedder, NotEmbedded
from luthier.serving.drift import embeddings, rules, store
from luthier.serving.drift.proposals import proposal
from luthier.serving.drift.references import NoReference, References
from luthier.serving.drift.statistics import Found
from luthier.serving.drift.types import Observation, Reference, Thresholds, Window

_LOG = logging.getLogger("luthier.drift")


@dataclass(frozen=True)
class Sources:
    """The services that drift stands on."""

    registry: Registry
    datasets: Datasets
    jobs: Jobs
    references: References
    embedder: Embedder | None = None


class Judge:
    """Compares what was sampled of a version with its reference."""

    def __init__(self, database: Database, sources: Sources, thresholds: Thresholds, now: Clock) -> None:
        self._database = database
        self._sources = sources
        self._thresholds = thresholds
        self._now = now

    def judge(self, waiting: store.Waiting, now: datetime) -> bool:
        """Close the window of these samples: each window once, whoever asks, with its alarm in the same transaction.

        Returns whether it did: not where there is nothing to compare with. Raises: Unavailable where it is worth another try.
        """
        actor = Actor(waiting.tenant_id, "", Role.VIEWER)
        model = standing(self._sources.registry, actor, waiting.model_id)
        if model is None:
            with self._database.beat() as session:
                store.forget_model(session, waiting.model_id)
            return False
        reference, row = self._reference(actor, model)
        if reference is None:
            return False
        with self._database.read(waiting.tenant_id) as session:
            samples = store.unjudged(session, model.id, self._thresholds.window)
            earlier = store.windows(session, model.id, 1)
        before = Window.model_validate_json(earlier[0].data) if earlier else None
        number = before.number + 1 if before else 1
        live = [Observation.model_validate_json(sample.data) for sample in samples]
        sides = rules.Sides(reference.observations, live, answers=reference.rows_of == "held_out")
        measures = rules.judged(sides, self._thresholds, embedded=self._embedded(row, sides, number), seed=number)
        drifted = any(measure.drifted for measure in measures)
        window = Window(
            number=number,
            samples=len(samples),
            opened_at=samples[0].at,
            closed_at=now,
            drifted=drifted,
            alarmed=drifted and not (before and before.drifted),
            measures=measures,
            retrain=proposal(self._sources.jobs, self._sources.datasets, actor, model) if drifted else None,
        )
        return self._close(actor, model, window, [sample.id for sample in samples])

    def _close(self, actor: Actor, model: Model, window: Window, sample_ids: Sequence[int]) -> bool:
        with self._database.write(actor.tenant_id) as session:
            if store.still_waiting(session, sample_ids) < len(sample_ids):
                return False  # somebody else judged them, or they were forgotten, meanwhile
            store.judge(session, sample_ids)
            data = window.model_dump_json()
            session.add(store.WindowRow(tenant_id=actor.tenant_id, model_id=model.id, number=window.number, data=data))
            if window.alarmed:
                outbox.publish(session, actor.tenant_id, "drift.detected", _news(model, window), at=window.closed_at)
        return True

    def _reference(self, actor: Actor, model: Model) -> tuple[Reference | None, store.ReferenceRow]:
        """As it was made once, and stays as long as the version."""
        with self._database.read(actor.tenant_id) as session:
            row = session.get(store.ReferenceRow, model.id)
        if row is None:
            made, why = None, None
            try:
                made = self._sources.references.made(actor, model)
            except NoReference as error:
                why = str(error)
            data = None if made is None else made.model_dump_json()
            row = store.ReferenceRow(tenant_id=actor.tenant_id, model_id=model.id, data=data, why=why, made_at=self._now())
            with self._database.beat() as session:
                row = session.merge(row)
        return (None if row.data is None else Reference.model_validate_json(row.data)), row

    def _embedded(self, row: store.ReferenceRow, sides: rules.Sides, seed: int) -> tuple[str, rules.Distance] | None:
        """How texts are compared by their embeddings, or None where they cannot be; those of the reference are made once."""
        embedder = self._sources.embedder
        texts, asked = sides.texts
        if embedder is None or not texts or not asked:
            return None
        try:
            if row.vectors is None or row.embedder != embedder.name:
                row.embedder, row.vectors = embedder.name, embeddings.packed(embedder.embed(texts))
                with self._database.beat() as session:
                    session.merge(row)
            both = embeddings.unpacked(row.vectors, embedder.dimensions), embedder.embed(asked)
        except NotEmbedded as error:
            _LOG.warning("texts are compared by their words: %s", error)
            return None

        def distance(shuffles: int) -> Found:
            return embeddings.energy_distance(*both, shuffles=shuffles, seed=seed)

        return embedder.name, distance


def standing(registry: Registry, actor: Actor, model_id: str) -> Model | None:
    """The version, unless it was deleted."""
    try:
        return registry.get(actor, model_id)
    except (NotFound, Gone):
        return None


def _news(model: Model, window: Window) -> dict[str, object]:
    retrain = window.retrain
    return {
        "model_id": model.id,
        "name": model.name,
        "version": model.version,
        "window": window.number,
        "samples": window.samples,
        "measures": ", ".join(rules.worst(window.measures)),
        "retrain_usd": retrain.cost_usd if retrain else None,
        "retrain_seconds": retrain.seconds if retrain else None,
    }
