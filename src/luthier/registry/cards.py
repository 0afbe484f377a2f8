"""The model card: what a job's spec and results say about the model that came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from luthier.errors import ArtifactCorrupt
from luthier.jobs.spec import RunSpec
from luthier.registry import rules
from luthier.registry.types import Evaluation, EvaluationRecord, Finished, Forgetting, ModelCard
from luthier.values import ModelFile

_MOST_RECORDS = 50


@dataclass(frozen=True)
class Results:
    """What a job left: its files as they were taken over, and its JSON results (`{}` where one is missing)."""

    files: tuple[ModelFile, ...]
    metrics: Mapping[str, Any]
    checks: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    languages: tuple[str, ...] = ()
    """Of the base."""
    base_commit: str | None = None


def card_of(finished: Finished, results: Results, number: int, now: datetime) -> ModelCard:
    """The card of the version with this number. `metadata` of the spec may name language, task, description and tags.

    Raises: ArtifactCorrupt where the evaluation cannot be read.
    """
    spec, about = finished.spec, finished.spec.metadata
    evaluation = _evaluation(results.evaluation)
    name = rules.name_of(spec, finished.job_id)
    return ModelCard(
        id=rules.model_id_of(finished.job_id),
        name=name,
        version=str(number),
        base_model=spec.base_model,
        language=rules.words(about.get("language", "")) or results.languages,
        task=about.get("task", rules.task_of(spec)),
        description=about.get("description", rules.description_of(spec)),
        metrics=rules.flat_metrics(results.metrics, evaluation),
        tags=rules.words(about.get("tags", "")) or rules.tags_of(spec),
        lineage=rules.lineage(finished.job_id, spec, results.files).model_copy(
            update={"base_commit": results.base_commit, "rendering_sha256": results.metrics.get("rendering_sha256")}
        ),
        evaluation=evaluation,
        forgetting=_forgetting(results.checks),
        warnings=rules.warnings(spec, evaluation, results.checks),
        created_at=now,
    )


def record_of(finished: Finished, found: Mapping[str, Any], now: datetime) -> EvaluationRecord:
    """What a run of the kind evaluate measured. Raises: ArtifactCorrupt where it cannot be read, or is not there."""
    evaluation, sources = _evaluation(found), finished.spec.sources
    if evaluation is None or sources is None or sources.dataset is None:
        raise ArtifactCorrupt("The job left no evaluation.", hint="Evaluate again.")
    return EvaluationRecord(
        job_id=finished.job_id,
        dataset=sources.dataset.id,
        dataset_sha256=sources.dataset.sha256,
        method=finished.spec.method,
        against=finished.spec.against,
        at=now,
        evaluation=evaluation,
    )


def with_record(card: ModelCard, record: EvaluationRecord) -> ModelCard:
    """The card with one more evaluation, once a job. Only the newest keeps its samples; of too many the oldest leave.

    What training measured stays as it is.
    """
    if any(known.job_id == record.job_id for known in card.evaluations):
        return card
    before = [
        known.model_copy(update={"evaluation": known.evaluation.model_copy(update={"samples": ()})}) for known in card.evaluations
    ]
    return card.model_copy(update={"evaluations": (record, *before)[:_MOST_RECORDS]})


def tracker_tags(card: ModelCard) -> dict[str, str]:
    """What a version is found by in an experiment tracker."""
    made = card.lineage
    return {"base_model": card.base_model, "dataset": made.dataset, "method": made.method, "tags": ",".join(card.tags)}


def config_of(spec: RunSpec) -> dict[str, Any]:
    """`config.json` of a model's folder: the base it needs, and how it was trained."""
    kept = spec.model_dump(mode="json", include={"base_model", "method", "seed", "train", *_form_of(spec)})
    revision = spec.sources.base.revision if spec.sources else None
    return {"base_model": spec.base_model, "base_revision": revision, **kept}


def _form_of(spec: RunSpec) -> set[str]:
    return {"lora"} if spec.has_base else {"classifier"}


def _forgetting(checks: Mapping[str, Any]) -> Forgetting | None:
    try:
        return Forgetting.model_validate(checks["forgetting"]) if checks.get("forgetting") else None
    except ValidationError:
        raise ArtifactCorrupt("The job's checks.json cannot be read.", hint="Submit the job again.") from None


def _evaluation(found: Mapping[str, Any]) -> Evaluation | None:
    try:
        return Evaluation.model_validate(found) if found else None
    except ValidationError:
        raise ArtifactCorrupt("The job's evaluation.json cannot be read.", hint="Submit the job again.") from None
