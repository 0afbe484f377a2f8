"""What goes to Production: what was measured on held-out rows, is no worse than its base, and no worse than what stands there.

Versions never change, and neither do the rows that they are measured on: a measurement against the version that stands in
Production now does not age. It stops counting at the moment in which another version goes there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from luthier.errors import EvaluationNeeded
from luthier.registry.types import Evaluation, Lineage, ModelCard, Scores

_LOWER_IS_BETTER = frozenset({"loss", "perplexity"})
_MEASURE = "Measure it on held-out rows: `model evaluate <model> --dataset <dataset>`."


@dataclass(frozen=True)
class GateRule:
    """What a version must show against today's Production."""

    metric: str = "loss"
    """`loss`, `exact_match`, `f1`, `accuracy`, ...: where a pair of models has no such number, the loss decides."""
    margin: float = 0.0
    """By how much it must be better; below 0: by how much it may be worse."""
    second_person: bool = False
    """Whether who asks for Production needs somebody else who asks for the same."""
    own: bool = False
    """Whether the team decided any of this; otherwise the settings of the server say so."""

    @property
    def whose(self) -> str:
        """For whoever wants to know where it comes from."""
        return "the gate of your team" if self.own else "the gate of this server"


@dataclass(frozen=True)
class Beside:
    """A version and today's Production on the same held-out rows."""

    rows: int
    dataset: str
    tuned: Scores
    production: Scores


@dataclass(frozen=True)
class Refusal:
    """Why a version does not go to Production."""

    message: str
    hint: str
    unmeasured: bool = False
    """A measurement is missing; otherwise it is there, and is not good enough."""
    details: dict[str, Any] = field(default_factory=dict[str, Any])


def check_gate(card: ModelCard, production: ModelCard | None = None, rule: GateRule | None = None) -> None:
    """Let pass what is good enough. Raises: EvaluationNeeded, with the numbers; `details.unmeasured` where there are none."""
    refused = refusal(card, production, rule or GateRule())
    if refused is not None:
        raise EvaluationNeeded(refused.message, hint=refused.hint, details={"unmeasured": refused.unmeasured, **refused.details})


def refusal(card: ModelCard, production: ModelCard | None, rule: GateRule) -> Refusal | None:
    """None for a version that may go to Production."""
    return _against_base(card) or (None if production is None else _against_production(card, production, rule))


def trained_on(lineage: Lineage, dataset: str, sha256: str | None) -> bool:
    """Whether these are the rows that the model learned from: the same version, or other rows byte for byte the same."""
    return dataset == lineage.dataset or (sha256 is not None and sha256 == lineage.dataset_sha256)


@dataclass(frozen=True)
class HeldOut:
    """What was measured on rows that the model did not learn from."""

    dataset: str
    sha256: str | None
    evaluation: Evaluation
    against: str | None = None

    @property
    def rows(self) -> tuple[str | None, int]:
        """The same for the same rows, whatever their dataset is called."""
        return self.sha256, self.evaluation.rows


def measurements(card: ModelCard) -> list[HeldOut]:
    """All of them, newest first; what training measured last."""
    made = card.lineage
    later = [HeldOut(each.dataset, each.dataset_sha256, each.evaluation, each.against) for each in card.evaluations]
    own = [] if card.evaluation is None else [HeldOut(made.validation_dataset or "", made.validation_sha256, card.evaluation)]
    return [each for each in (*later, *own) if not trained_on(made, each.dataset, each.sha256)]


def held_out(card: ModelCard) -> Evaluation | None:
    """What was measured last, by an evaluation or else by training."""
    return next((each.evaluation for each in measurements(card)), None)


def beside(card: ModelCard, production: ModelCard) -> Beside | None:
    """The newest measurement of both on the same rows.

    In one run; of two that no run can hold together (classifiers, models on different bases), in a run of each.
    """
    found = measurements(card)
    for each in found:
        if each.against == production.id and each.evaluation.against is not None:
            return Beside(each.evaluation.rows, each.dataset, each.evaluation.tuned, each.evaluation.against)
    if one_run_holds(card, production):
        return None
    theirs = {each.rows: each.evaluation for each in reversed(measurements(production))}
    for each in found:
        other = theirs.get(each.rows)
        if other is not None and each.sha256 is not None:
            return Beside(each.evaluation.rows, each.dataset, each.evaluation.tuned, other.tuned)
    return None


def one_run_holds(card: ModelCard, other: ModelCard) -> bool:
    """Whether one run of the kind evaluate can measure both: neither is a classifier, and they stand on the same base."""
    bases = {(each.base_model, each.lineage.base_revision) for each in (card, other)}
    return len(bases) == 1 and can_be_evaluated(card) and can_be_evaluated(other)


def can_be_evaluated(card: ModelCard) -> bool:
    """Whether a run of the kind evaluate takes it; a classifier is measured by its training."""
    return card.lineage.method != "classifier"


def rows_to_measure_on(card: ModelCard, production: ModelCard | None) -> str | None:
    """The dataset of a measurement that the gate would accept: its own held-out rows, else those of today's Production."""
    own, theirs = _own_rows(card), None if production is None else next((each.dataset for each in measurements(production)), None)
    # On another base only a dataset that Production was measured on can show the two side by side.
    wanted = (own, theirs) if production is None or one_run_holds(card, production) else (theirs, own)
    return next((dataset for dataset in wanted if dataset and dataset != card.lineage.dataset), None)


def _own_rows(card: ModelCard) -> str | None:
    made = card.lineage
    beside = made.validation_dataset
    return None if beside is None or trained_on(made, beside, made.validation_sha256) else beside


def value_of(scores: Scores, metric: str) -> float | None:
    """A number of these scores by its name: one that every method has, or one of this method's own."""
    if metric in scores.metrics:
        return scores.metrics[metric]
    found = getattr(scores, metric, None) if metric in Scores.model_fields else None
    return found if isinstance(found, float) else None


def gain(found: Beside, rule: GateRule) -> tuple[str, float | None]:
    """By which metric the two are compared, and how much better than Production it is; None where nothing can be said.

    >>> better, worse = Scores(loss=0.5, exact_match=0.25), Scores(loss=0.75)
    >>> gain(Beside(9, "ds_1", better, worse), GateRule("exact_match"))
    ('loss', 0.25)
    """
    wanted = [value_of(side, rule.metric) for side in (found.tuned, found.production)]
    metric = "loss" if None in wanted else rule.metric
    tuned, production = (value_of(side, metric) for side in (found.tuned, found.production))
    if tuned is None or production is None:
        return metric, None
    return metric, production - tuned if metric in _LOWER_IS_BETTER else tuned - production


def _against_base(card: ModelCard) -> Refusal | None:
    evaluation = held_out(card)
    if evaluation is None:
        measured = card.evaluation is not None or card.evaluations
        rows = f"the rows it was trained on ({card.lineage.dataset}): that proves memory, not skill"
        message = (
            f"This model was measured only on {rows}."
            if measured
            else "This model was not measured against its base, so it cannot go to Production."
        )
        return Refusal(message, _MEASURE, unmeasured=True)
    base, tuned = evaluation.base, evaluation.tuned
    if tuned.loss <= base.loss:  # written so that NaN does not pass
        return None
    return Refusal(
        f"On {evaluation.rows} held-out rows its loss is {tuned.loss:.4f}, that of its base {base.loss:.4f}: it is worse.",
        "Train longer, with a lower learning rate or with more rows; a version that is no worse can be promoted.",
    )


def _against_production(card: ModelCard, production: ModelCard, rule: GateRule) -> Refusal | None:
    known = f"version {production.version}, which is in Production"
    details: dict[str, Any] = {"production": production.id, "metric": rule.metric, "margin": rule.margin}
    if rule.own:
        details["gate"] = "team"
    found = beside(card, production)
    if found is None:
        together = one_run_holds(card, production)
        hint = "Measure both: `model evaluate <model> --against <name>`." if together else _how_apart(card, production)
        return Refusal(f"This model was not compared with {known}.", hint, unmeasured=True, details=details)
    metric, better_by = gain(found, rule)
    if better_by is not None and better_by >= rule.margin:
        return None
    tuned, other = value_of(found.tuned, metric), value_of(found.production, metric)
    told = f"its {metric} is {_shown(tuned)}, that of {known}, {_shown(other)}"
    asked = f"; by {rule.whose} it must be better by {rule.margin:g}" if rule.margin else ""
    numbers = {"metric": metric, "rows": found.rows, "dataset": found.dataset, "tuned": tuned, "production_value": other}
    return Refusal(
        f"On {found.rows} held-out rows {told}{asked}.",
        "Train a better version; or archive the one in Production first, if it must go in any case. `model gate` shows the gate.",
        details={**details, **numbers},
    )


def _how_apart(card: ModelCard, production: ModelCard) -> str:
    rows = next((each.dataset for each in measurements(production) if each.dataset), None)
    if rows is None:
        return "The one in Production was not measured on held-out rows: archive it first, or measure it."
    if can_be_evaluated(card):
        return f"They stand on different bases: measure this one on the same rows, `model evaluate <model> --dataset {rows}`."
    return f"Train it with `validation_dataset: {rows}`, the rows that the one in Production was measured on."


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
