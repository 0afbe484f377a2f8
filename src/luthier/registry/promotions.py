"""Is it better? Measured after every training without being asked, and before Production where it was not."""

from __future__ import annotations

import hashlib
import logging
from typing import Any

from luthier.accounts.types import Actor, Idempotency, Role
from luthier.errors import DatabaseBusy, EvaluationNeeded, Gone, LuthierError, NotFound, StorageFull
from luthier.jobs.service import Jobs
from luthier.jobs.spec import RunSpec
from luthier.jobs.types import Job
from luthier.registry import gate_rules
from luthier.registry.comparison import Comparison, comparison_of
from luthier.registry.service import Registry
from luthier.registry.types import Finished, Model, Stage

_LOG = logging.getLogger("luthier.registry")


class Promotions:
    """The registry's verbs that queue runs. `automatic`: whether a training is followed by a comparison with Production."""

    def __init__(self, registry: Registry, jobs: Jobs, *, automatic: bool = True) -> None:
        self._registry = registry
        self._jobs = jobs
        self._automatic = automatic

    def transition(self, actor: Actor, ref: str, stage: Stage) -> Model:
        """Move a version to a stage. Where a measurement is missing for Production, a run that makes it is queued, and named.

        Raises: NotFound, Gone, ModelNotReady, EvaluationNeeded, ApprovalNeeded.
        """
        try:
            return self._registry.transition(actor, ref, stage)
        except EvaluationNeeded as needed:
            details: dict[str, Any] = dict(needed.details) if isinstance(needed.details, dict) else {}
            if not details.get("unmeasured"):
                raise
            model = self._registry.resolve(actor, ref)
            production = self._registry.in_production(actor, model.name)
            job = self._evaluating(actor, model, production)
            if job is None:
                raise
            raise EvaluationNeeded(
                f"{needed.message} The run {job.id} measures it.",
                hint=f"Follow it with `tune logs {job.id} --follow`, then promote again.",
                details={**details, "job_id": job.id},
            ) from None

    def compare(self, actor: Actor, ref: str) -> Comparison:
        """A version beside its base and today's Production, and what the gate says. Raises: NotFound, Gone, ModelNotReady."""
        model = self._registry.resolve(actor, ref)
        running = tuple(job.id for job in self._jobs.evaluating(actor, model.id))
        rule = self._registry.gates.rule_of(actor)
        return comparison_of(model, self._registry.in_production(actor, model.name), rule, running)

    def register(self, finished: Finished) -> Model:
        """As `Registry.register`; then queue a comparison with today's Production, once a job. It fails alone."""
        model = self._registry.register(finished)
        if self._automatic and finished.spec.evaluate.automatic:
            actor = Actor(finished.tenant_id, finished.created_by, Role.MEMBER)
            production = self._registry.in_production(actor, model.name)
            if production is not None and production.id != model.id:
                self._follow(actor, finished, model, production)
        return model

    def attach(self, finished: Finished) -> Model:
        """As `Registry.attach`."""
        return self._registry.attach(finished)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _follow(self, actor: Actor, finished: Finished, model: Model, production: Model) -> None:
        spec = _run(model, production, finished.spec)
        if spec is None:
            return
        once = Idempotency(f"after-{finished.job_id}", hashlib.sha256(model.id.encode()).hexdigest())
        try:
            job = self._jobs.submit(actor, spec, once).job
        except (DatabaseBusy, StorageFull):
            raise  # the supervisor comes back
        except LuthierError as error:  # no money left, its data deleted meanwhile: the model is there all the same
            _LOG.warning("%s is not compared with %s: %s", model.id, production.id, error)
        else:
            _LOG.info("%s compares %s with %s, which is in Production", job.id, model.id, production.id)

    def _evaluating(self, actor: Actor, model: Model, production: Model | None) -> Job | None:
        """A run that measures what the gate misses: one that is under way, else a new one; None where no run can."""
        against = None if production is None else production.id
        spec = _run(model, production, self._made_by(actor, model))
        if spec is None:
            return None
        for job in self._jobs.evaluating(actor, model.id):
            if job.spec.against == spec.against and (against is None or job.dataset == spec.dataset):
                return job
        return self._jobs.submit(actor, spec).job

    def _made_by(self, actor: Actor, model: Model) -> RunSpec | None:
        try:
            return self._jobs.get(actor, model.job_id).spec
        except (NotFound, Gone):
            return None


def _run(model: Model, production: Model | None, made_by: RunSpec | None) -> RunSpec | None:
    """The run that measures a version beside today's Production; None where its rows are not known, or no run can."""
    card, other = model.card, None if production is None else production.card
    dataset = gate_rules.rows_to_measure_on(card, other)
    if dataset is None or not gate_rules.can_be_evaluated(card):
        return None
    asked: dict[str, Any] = {"kind": "evaluate", "model": model.id, "dataset": dataset}
    if other is not None and gate_rules.one_run_holds(card, other):
        asked["against"] = other.id
    if made_by is not None:  # where it was trained is where it fits
        asked |= {"hardware": made_by.hardware, "evaluate": made_by.evaluate.model_dump()}
    return RunSpec.model_validate(asked)
