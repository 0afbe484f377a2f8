"""Jobs as values: what faces show."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal, NamedTuple

from pydantic import Field

from luthier.jobs.spec import RunSpec
from luthier.values import BaseSource, Frozen, ModelFile, Usd, UsdSum


class JobState(StrEnum):
    """Where a job stands. `rules.TRANSITIONS` says which steps there are."""

    VALIDATING = "validating"
    AWAITING_APPROVAL = "awaiting_approval"
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    PAUSED = "paused"
    STOPPED = "stopped"
    CANCELLED = "cancelled"


class JobError(Frozen):
    """Why a job failed, and what to do about it."""

    code: str = Field(
        description="`out_of_memory`, `diverged`, `bad_data`, `no_effect`, `crashed`, `storage`, `device`, `budget`, "
        "`artifact_corrupt`, ..."
    )
    message: str
    hint: str
    param: str | None = Field(default=None, description="The field of the spec at fault, where there is one.")


class MemoryEstimate(Frozen):
    """Bytes that the trainer will need at its peak, by what needs them."""

    base_bytes: int = Field(description="The frozen base model.")
    adapter_bytes: int = Field(description="The adapter's weights, gradients, and the copy that passes use.")
    optimizer_bytes: int = Field(description="Two moments of AdamW for each adapter weight.")
    activation_bytes: int = Field(description="What the way back needs of the widest pass, the longest rows with it.")
    logits_bytes: int = Field(description="Logits of one chunk of a pass, and their slopes.")
    rows_bytes: int = Field(default=0, description="The tokenised rows.")
    judge_bytes: int = Field(default=0, description="Other bases that only judge, and their widest pass.")
    runtime_bytes: int = Field(description="The process itself.")
    loading_bytes: int = Field(default=0, description="What loading the base holds for a moment, beyond all that.")
    correction_bytes: int = Field(
        default=0, description="What earlier jobs, or a fit test, took beyond all that; below 0 where it was less."
    )
    total_bytes: int
    available_bytes: int | None = Field(description="What the hardware has; null where it is not known.")


class Taken(Frozen):
    """Time and memory of a run."""

    seconds: float = Field(description="Billed seconds.")
    memory_bytes: int | None = Field(default=None, description="The most that its trainer held.")


class EarlierError(Frozen):
    """How far estimates of earlier jobs with this base, method and hardware lay from what those took: 0.2 is a fifth too much, or
    as much too little."""

    jobs: int
    seconds_median: float
    seconds_worst: float
    memory_median: float | None = None
    memory_worst: float | None = None


class FitTest(Frozen):
    """What a fit test of this very run has measured on its longest rows."""

    job_id: str
    fits: bool
    memory_bytes: int | None = None
    tokens_per_second: float | None = None


class Estimate(Frozen):
    """What a run will take, before it is submitted. Nothing is reserved by asking."""

    rows: int = Field(description="Rows that will be trained on.")
    tokens_per_epoch: int
    tokens: int = Field(description="Tokens of the whole run.")
    epochs: float
    steps: int = Field(description="Optimiser steps.")
    batch_size: int = Field(description="Rows of one forward pass.")
    learning_rate: float | None = Field(default=None, description="At its peak; null where no adapter is trained.")
    tokens_per_second: float
    seconds: int = Field(description="Billed seconds, start and evaluation included.")
    basis: Literal["measured", "assumed"] = Field(
        description="Whether the speed was measured on earlier jobs or is a stated guess."
    )
    basis_note: str = Field(description="Where the speed comes from, for people.")
    hardware: str
    hourly_usd: Usd
    cost_usd: UsdSum = Field(description="Set aside at submit, replaced by the exact cost at the end.")
    memory: MemoryEstimate
    fits: bool
    advice: tuple[str, ...] = Field(default=(), description="Where it does not fit: what to change, most effective first.")
    calibrated_by: int = Field(default=0, description="How many earlier jobs have corrected time and memory; 0 for none.")
    earlier_error: EarlierError | None = None
    fit_test: FitTest | None = None
    uncalibrated: Taken | None = Field(default=None, description="What the formulas alone say.")
    measured: Taken | None = Field(
        default=None, description="What the job took in the end; null before, or where it was not trained alone and in one piece."
    )
    warnings: tuple[str, ...] = Field(default=(), description="What would make the result worth less, e.g. leaked rows.")


class Chosen(Frozen):
    """What a run is trained with, be it asked for or what `auto` has come to."""

    epochs: float
    batch_size: int = Field(description="Rows of one forward pass.")
    learning_rate: float | None = Field(description="At its peak; null where no adapter is trained.")


class Job(Frozen):
    """One run and how far it is."""

    id: str
    name: str | None = Field(description="Name of the model that comes out.")
    state: JobState
    wish: Literal["pause", "stop", "cancel"] | None = Field(default=None, description="Asked for and under way.")
    kind: str
    method: str
    base_model: str
    dataset: str | None = Field(description="What it learns from, or is measured on; none in an export.")
    model: str | None = Field(default=None, description="The model that is evaluated or exported.")
    validation_dataset: str | None = None
    hardware: str
    attempt: int = Field(description="0 until it is first started; each restart is one more.")
    phase: str | None = Field(default=None, description="For people: fetching base, training, evaluating, ...")
    step: int = 0
    total_steps: int | None = None
    epoch: float = 0.0
    loss: float | None = None
    eval_loss: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: float | None = None
    peak_memory_bytes: int | None = None
    tokens_seen: int | None = Field(default=None, description="Tokens that were trained on so far.")
    cost_usd: UsdSum = Field(description="So far; final once the job has ended.")
    estimated_cost_usd: UsdSum
    model_id: str | None = None
    error: JobError | None = None
    created_by: str
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None = Field(default=None, description="When the latest attempt was claimed.")
    finished_at: datetime | None = None
    spec: RunSpec = Field(description="The request, as it was frozen at submit.")
    chosen: Chosen | None = Field(
        default=None, description="What `auto` in it has come to; null until the data is checked, and where nothing is trained."
    )

    @property
    def finished(self) -> bool:
        """Whether it will not move by itself any more."""
        return self.state in FINISHED


FINISHED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.PAUSED, JobState.STOPPED, JobState.CANCELLED})


@dataclass(frozen=True)
class Line:
    """Whom a supervisor looks for. Short work stands in a line of its own: who asks whether a job fits, or how good a model is,
    does not wait for one that trains."""

    hardware: Collection[str]
    short: bool = False


class Submitted(Frozen):
    """The answer to a submit: the job, and what it is expected to take."""

    job: Job
    estimate: Estimate
    replayed: bool = Field(default=False, description="This Idempotency-Key came before: the job is the one it made then.")


@dataclass(frozen=True)
class SavedStep:
    """A checkpoint, as a model: where its adapter lies, and the base below it."""

    key: str
    """One for each state of each checkpoint: what may name a copy of it."""
    base: BaseSource
    folder: str
    """Storage name of its folder."""
    files: tuple[ModelFile, ...]


class LogTail(Frozen):
    """The end of a job's log."""

    attempt: int
    text: str
    total_bytes: int
    truncated: bool = Field(description="Whether there is more before it.")


class Listed(NamedTuple):
    """What a list of all jobs tells of one."""

    id: str
    model_id: str | None
    dataset: str
    state: str
    created_at: datetime
    updated_at: datetime


class Transition(Frozen):
    """One step of a job's state machine, as it happened."""

    attempt: int
    from_state: JobState | None
    to_state: JobState
    at: datetime
    reason: str
