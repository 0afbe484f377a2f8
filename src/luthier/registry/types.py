"""Models as values: what came out of a job, where it stands, and what is known about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from luthier.jobs.spec import RunSpec
from luthier.values import Frozen, ModelFile


class Stage(StrEnum):
    """Where a version stands. One version of a name is in Production; promoting another archives it."""

    NONE = "None"
    STAGING = "Staging"
    PRODUCTION = "Production"
    ARCHIVED = "Archived"


class Scores(Frozen):
    """What was measured on held-out rows."""

    model_config = ConfigDict(extra="ignore", strict=False)

    loss: float
    perplexity: float | None = None
    exact_match: float | None = None
    metrics: dict[str, float] = Field(default_factory=dict, description="What the method measures beside, e.g. accuracy, reward.")


class Sample(Frozen):
    """One held-out row, answered by both models."""

    model_config = ConfigDict(extra="ignore", strict=False)

    prompt: str
    expected: str
    base: str
    tuned: str


class Evaluation(Frozen):
    """Base against tuned model on the same held-out rows (`results/evaluation.json`)."""

    model_config = ConfigDict(extra="ignore", strict=False)

    rows: int
    base: Scores
    tuned: Scores
    samples: tuple[Sample, ...] = ()


class Lineage(Frozen):
    """From what a model was made: enough to make it again."""

    job_id: str
    base_revision: str
    base_commit: str | None = Field(default=None, description="What a revision like `main` stood for.")
    dataset: str
    dataset_sha256: str
    validation_dataset: str | None = None
    method: str
    seed: int
    tokenizer_sha256: dict[str, str] = Field(
        default_factory=dict, description="Of each tokenizer and template file: the same prompt, the same tokens."
    )


class ModelCard(Frozen):
    """What is known about a model; also written to `model_registry/<id>.json`."""

    id: str
    name: str
    version: str
    base_model: str
    language: tuple[str, ...] = ()
    task: str = "text-generation"
    description: str = ""
    metrics: dict[str, float] = Field(default_factory=dict)
    tags: tuple[str, ...] = ()
    lineage: Lineage
    evaluation: Evaluation | None = None
    warnings: tuple[str, ...] = Field(default=(), description="What to know before it is used, e.g. worse than its base.")
    created_at: datetime


class Model(Frozen):
    """One immutable version of a tuned model: an adapter and the base that it belongs to."""

    id: str
    name: str
    version: str = Field(description="1, 2, 3, ... within its name.")
    stage: Stage
    base_model: str
    base_revision: str
    job_id: str
    dataset: str
    bytes: int = Field(description="Of all its files.")
    card: ModelCard
    created_by: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class Finished:
    """A job that succeeded, as the supervisor hands it over. Metrics and evaluation are read from its results."""

    tenant_id: str
    created_by: str
    job_id: str
    spec: RunSpec
    """With `sources` filled in; `name` may be None, then the base and the job name the model."""
    results: str
    """Storage name of the results folder: `users/<tenant>/jobs/<job>/attempts/<n>/results`."""


@dataclass(frozen=True)
class Archive:
    """A download of all files of a model as one tar, uncompressed: its size is known before the first byte."""

    file_name: str
    bytes: int
    chunks: Iterator[bytes]
    """Constant memory; close it where the reader left early."""


class StoredModel(BaseModel):
    """`metadata.json` of a model's folder: all that is needed to make the row again."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    tenant_id: str
    created_by: str
    stage: Stage
    files: tuple[ModelFile, ...]
    card: ModelCard
    created_at: datetime
    updated_at: datetime
