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
from luthier.registry.types import Evaluation, Finished, ModelCard
from luthier.values import ModelFile


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
        lineage=rules.lineage(finished.job_id, spec, results.files).model_copy(update={"base_commit": results.base_commit}),
        evaluation=evaluation,
        warnings=rules.warnings(spec, evaluation, results.checks),
        created_at=now,
    )


def config_of(spec: RunSpec) -> dict[str, Any]:
    """`config.json` of a model's folder: the base it needs, and how it was trained."""
    kept = spec.model_dump(mode="json", include={"base_model", "method", "seed", "train", *_form_of(spec)})
    revision = spec.sources.base.revision if spec.sources else None
    return {"base_model": spec.base_model, "base_revision": revision, **kept}


def _form_of(spec: RunSpec) -> set[str]:
    return {"classifier"} if spec.method == "classifier" else {"lora"}


def _evaluation(found: Mapping[str, Any]) -> Evaluation | None:
    try:
        return Evaluation.model_validate(found) if found else None
    except ValidationError:
        raise ArtifactCorrupt("The job's evaluation.json cannot be read.", hint="Train again.") from None
