"""Models as values: what came out of a job, where it stands, and what is known about it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, Protocol

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
    f1: float | None = Field(default=None, description="Of the words of an answer and of the right one, on average.")
    json_valid: float | None = Field(default=None, description="Share of answers that are JSON, where JSON is right.")
    stops: float | None = Field(default=None, description="Share of answers that ended by themselves.")
    metrics: dict[str, float] = Field(default_factory=dict, description="What the method measures beside, e.g. accuracy, reward.")


class Sample(Frozen):
    """One held-out row, answered by both models."""

    model_config = ConfigDict(extra="ignore", strict=False)

    prompt: str
    expected: str
    base: str
    tuned: str
    against: str | None = None


class ClassScores(Frozen):
    """How a classifier answers the held-out rows of one class."""

    model_config = ConfigDict(extra="ignore", strict=False)

    rows: int
    precision: float
    recall: float
    f1: float


class Forgetting(Frozen):
    """Cross-entropy, in nats a token, on a neutral text that has nothing to do with what was learned."""

    model_config = ConfigDict(extra="ignore", strict=False)

    tokens: int
    base: float
    tuned: float
    against: float | None = None


class Evaluation(Frozen):
    """Base, tuned model and maybe another one on the same held-out rows (`results/evaluation.json`)."""

    model_config = ConfigDict(extra="ignore", strict=False)

    rows: int
    base: Scores
    tuned: Scores
    against: Scores | None = None
    samples: tuple[Sample, ...] = ()
    per_class: dict[str, ClassScores] = Field(
        default_factory=dict, description="Of a classifier of at most 100 classes, by the name of the class."
    )
    forgetting: Forgetting | None = None


class EvaluationRecord(Frozen):
    """A run of the kind evaluate: on what, when, and what it measured."""

    model_config = ConfigDict(extra="ignore", strict=False)

    job_id: str
    dataset: str
    dataset_sha256: str
    method: str = Field(description="As whose rows the dataset was read.")
    against: str | None = Field(default=None, description="Id of the model that was measured beside.")
    at: datetime
    evaluation: Evaluation


class Listed(NamedTuple):
    """What a list of all versions tells of one."""

    id: str
    name: str
    number: int
    stage: str
    job_id: str
    created_at: datetime


class Lineage(Frozen):
    """From what a model was made: enough to make it again."""

    job_id: str
    base_revision: str
    base_commit: str | None = Field(default=None, description="What a revision like `main` stood for.")
    dataset: str
    dataset_sha256: str
    validation_dataset: str | None = None
    validation_sha256: str | None = None
    method: str
    seed: int
    rendering_sha256: str | None = Field(
        default=None, description="Of tokenizer, template, end-of-turn and rules in training; serving with others is refused."
    )
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
    evaluation: Evaluation | None = Field(default=None, description="What training measured at its end.")
    forgetting: Forgetting | None = Field(default=None, description="What it forgot, as training measured it at its end.")
    evaluations: tuple[EvaluationRecord, ...] = Field(default=(), description="What was measured since, newest first.")
    warnings: tuple[str, ...] = Field(default=(), description="What to know before it is used, e.g. worse than its base.")
    embedding: tuple[float, ...] | None = Field(default=None, description="What it says, as a vector; in lists it is left out.")
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
    promoted_at: datetime | None = Field(default=None, description="When it went to Production by promotion, the last time.")
    asked_by: str | None = Field(default=None, description="Who asked for Production, while a second person has not.")


@dataclass(frozen=True)
class Finished:
    """A job that succeeded, as the supervisor hands it over: one that trained, or one that evaluated. Metrics and evaluation
    are read from its results."""

    tenant_id: str
    created_by: str
    job_id: str
    spec: RunSpec
    """With `sources` filled in; `name` may be None, then the base and the job name the model."""
    results: str
    """Storage name of the results folder: `users/<tenant>/jobs/<job>/attempts/<n>/results`."""


class Registered(Protocol):
    """A model as far as a supervisor cares."""

    @property
    def id(self) -> str: ...


class Registrar(Protocol):
    """Makes visible what came out of a finished job, once a job, however often it is asked."""

    def register(self, finished: Finished) -> Registered: ...

    def attach(self, finished: Finished) -> Registered: ...


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
    promoted_at: datetime | None = None
