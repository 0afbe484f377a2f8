"""Drift: are the requests that a version answers still like what it was trained and evaluated on?"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from luthier.accounts.types import Actor
from luthier.database import EVERY_TENANT, Database
from luthier.errors import LuthierError, NotFound
from luthier.registry.types import Model
from luthier.seams import Clock
from luthier.serving.drift import observing, rules, store
from luthier.serving.drift.buffer import Observer, Seen
from luthier.serving.drift.judging import Judge, Sources, standing
from luthier.serving.drift.types import DriftStatus, ModelDrift, Observation, Reference, Sample, Thresholds, Watched, Window

_LOG = logging.getLogger("luthier.drift")
_MOST_WINDOWS = 100
_SHOWN_WINDOWS = 10


class Drift:
    """What faces ask about drift, and the round that finds it."""

    def __init__(self, database: Database, sources: Sources, observer: Observer, thresholds: Thresholds, now: Clock) -> None:
        self._database = database
        self._registry = sources.registry
        self._judge = Judge(database, sources, thresholds, now)
        self._observer = observer
        self._thresholds = thresholds
        self._now = now

    def watch(self, actor: Actor, name: str, share: float | None) -> Watched:
        """Sample this share of a model's requests; None: as the setting says. With 0, what was kept of them is removed.

        Raises: NotFound for a name that no model of the team has.
        """
        if not self._registry.list(actor, name=name, limit=1).data:
            raise NotFound("model")
        with self._database.write(actor.tenant_id) as session:
            store.set_share(session, actor.tenant_id, name, share, self._now())
            if not (self._observer.share if share is None else share):
                store.forget_samples(session, name)
        self._learn()
        return Watched(name=name, share=self._observer.share_of(actor.tenant_id, name), own=share is not None)

    def status(self, actor: Actor, name: str | None = None) -> DriftStatus:
        """Every version that is watched or was (of one name): its windows with what was measured, those that drifted first."""
        with self._database.read(actor.tenant_id) as session:
            known, watched = store.watched_models(session), store.shares(session)
        models = {model_id: standing(self._registry, actor, model_id) for model_id in known}
        for _, each in watched:
            served = self._registry.in_production(actor, each)
            if served is not None:
                models.setdefault(served.id, served)
        with self._database.read(actor.tenant_id) as session:
            waiting = {each.model_id: each.samples for each in store.waiting(session)}
            found = [
                self._told(session, actor, model, waiting.get(model.id, 0))
                for model in models.values()
                if model is not None and name in {None, model.name}
            ]
        return DriftStatus(thresholds=self._thresholds, data=rules.by_urgency(found))

    def samples(self, actor: Actor, model_id: str, limit: int) -> list[Sample]:
        """What is kept of a version's requests, newest first. Raises: NotFound, Gone."""
        model = self._registry.get(actor, model_id)
        with self._database.read(actor.tenant_id) as session:
            rows = store.newest_samples(session, model.id, limit)
            return [Sample(at=row.at, observation=Observation.model_validate_json(row.data)) for row in rows]

    def round(self) -> int:
        """Write down what was sampled, judge the windows that are due, forget what is old. Returns how many were judged."""
        self._learn()
        now = self._now()
        self._write(self._observer.take())
        with self._database.read(EVERY_TENANT) as session:
            since = now - timedelta(seconds=self._thresholds.keep_s)
            crowded = store.has_too_much(session, since, self._thresholds.keep, _MOST_WINDOWS)
            waiting = store.waiting(session)
        if crowded:
            with self._database.beat() as session:
                store.keep(session, since, self._thresholds.keep, _MOST_WINDOWS)
        return sum(self._judged(each, now) for each in waiting)

    def _judged(self, waiting: store.Waiting, now: datetime) -> bool:
        if not rules.is_due(self._thresholds, waiting.samples, waiting.opened_at, now):
            return False
        try:
            return self._judge.judge(waiting, now)
        except LuthierError as error:  # an engine that is busy, a database too: the next round tries again
            _LOG.warning("drift of %s is not judged yet: %s", waiting.model_id, error)
            return False

    def _learn(self) -> None:
        with self._database.read(EVERY_TENANT) as session:
            self._observer.learn(store.shares(session))

    def _write(self, seen: Sequence[Seen]) -> None:
        rows = [
            store.SampleRow(
                tenant_id=each.tenant_id,
                model_id=each.model_id,
                name=each.name,
                at=each.at,
                data=observing.observed(each.asked).model_dump_json(exclude_none=True),
                judged=0,
            )
            for each in seen
        ]
        if rows:
            with self._database.beat() as session:
                session.add_all(rows)

    def _told(self, session: Session, actor: Actor, model: Model, waiting: int) -> ModelDrift:
        windows = [Window.model_validate_json(row.data) for row in store.windows(session, model.id, _SHOWN_WINDOWS)]
        held = session.get(store.ReferenceRow, model.id)
        reference = Reference.model_validate_json(held.data) if held and held.data else None
        share = self._observer.share_of(actor.tenant_id, model.name)
        return ModelDrift(
            model_id=model.id,
            name=model.name,
            version=model.version,
            stage=model.stage,
            state=rules.state_of(windows, share, lacks_reference=held is not None and reference is None),
            share=share,
            waiting=waiting,
            reference_rows=len(reference.observations) if reference else None,
            reference_of=reference.rows_of if reference else None,
            reference_dataset=reference.dataset if reference else None,
            why=held.why if held else None,
            windows=(*windows[:1], *(each.model_copy(update={"measures": ()}) for each in windows[1:])),
        )
