"""A version beside its base and beside today's Production: what was measured, and what the gate says of it."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from luthier.registry import gate_rules
from luthier.registry.gate_rules import GateRule
from luthier.registry.types import Forgetting, Model, Sample, Scores, Stage
from luthier.values import Frozen


class VersionName(Frozen):
    """Which version."""

    id: str
    name: str
    version: str
    stage: Stage


class Gate(Frozen):
    """Whether it may go to Production now."""

    passes: bool
    metric: str = Field(description="By which number it is compared with today's Production.")
    margin: float
    message: str | None = Field(default=None, description="Why not.")
    hint: str | None = None


class Comparison(Frozen):
    """Base, this version and today's Production on the same held-out rows."""

    model: VersionName
    production: VersionName | None = Field(default=None, description="What stands in Production under this name, if not itself.")
    rows: int | None = Field(default=None, description="Held-out rows; none where nothing was measured.")
    dataset: str | None = None
    measured_at: datetime | None = Field(default=None, description="None where training itself measured it.")
    measured_by: str | None = Field(default=None, description="The job; its cost is on the bill.")
    base: Scores | None = None
    tuned: Scores | None = None
    against: Scores | None = Field(
        default=None, description="Of today's Production; of what was there before, if it is that itself."
    )
    forgetting: Forgetting | None = None
    samples: tuple[Sample, ...] = ()
    gate: Gate
    running: tuple[str, ...] = Field(default=(), description="Jobs that measure it now, or wait to.")
    warnings: tuple[str, ...] = ()


def comparison_of(model: Model, production: Model | None, rule: GateRule, running: tuple[str, ...]) -> Comparison:
    """From what stands on the cards. Of several measurements that against today's Production, else the newest."""
    card = model.card
    other = production if production is not None and production.id != model.id else None
    facts = _measured(model, other)
    return Comparison.model_validate(
        {
            **facts,
            "forgetting": facts.get("forgetting") or card.forgetting,
            "model": version_name(model),
            "production": version_name(other) if other is not None else None,
            "gate": _gate(model, other, rule),
            "running": running,
            "warnings": card.warnings,
        }
    )


def version_name(model: Model) -> VersionName:
    """A version by its names."""
    return VersionName(id=model.id, name=model.name, version=model.version, stage=model.stage)


def _gate(model: Model, production: Model | None, rule: GateRule) -> Gate:
    refused = gate_rules.refusal(model.card, None if production is None else production.card, rule)
    if refused is None:
        return Gate(passes=True, metric=rule.metric, margin=rule.margin)
    return Gate(passes=False, metric=rule.metric, margin=rule.margin, message=refused.message, hint=refused.hint)


def _measured(model: Model, production: Model | None) -> dict[str, object]:
    card = model.card
    # What stands in Production itself is shown beside what it was compared with last.
    wanted = None if production is None else production.id
    records = sorted(card.evaluations, key=lambda each: each.against is None if wanted is None else each.against != wanted)
    if records:
        first = records[0]
        found, beside = first.evaluation, wanted is None or first.against == wanted
        about = {"dataset": first.dataset, "measured_at": first.at, "measured_by": first.job_id}
    elif card.evaluation is not None:
        found, beside = card.evaluation, False
        about = {"dataset": card.lineage.validation_dataset, "measured_by": model.job_id}
    else:
        return {}
    compared = None if production is None else gate_rules.beside(card, production.card)
    other = found.against if beside else None if compared is None else compared.production
    samples = found.samples if beside else tuple(each.model_copy(update={"against": None}) for each in found.samples)
    sides = {"base": found.base, "tuned": found.tuned, "against": other, "forgetting": found.forgetting}
    return {"rows": found.rows, "samples": samples, **about, **sides}
