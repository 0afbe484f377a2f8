"""What is watched of a model in use, and what was found."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from luthier.registry.types import Stage
from luthier.values import Frozen, UsdSum

Share = Annotated[float, Field(ge=0, le=1)]


class Thresholds(Frozen):
    """When a window is judged, what counts as drift, and how long what is sampled stays."""

    window: int = Field(description="Sampled requests after which a window is judged.")
    window_s: float = Field(description="Seconds after which it is judged with fewer.")
    least: int = Field(description="Never with fewer than these.")
    p: float = Field(description="Chance of a false alarm in a window in which nothing has changed, all measures together.")
    psi: float = Field(description="PSI from which a difference counts.")
    distance: float = Field(description="The same for the distance of embeddings, from 0 to 1.")
    keep_s: float = Field(description="Seconds after which a sampled request is removed.")
    keep: int = Field(description="At most how many of one version are kept.")


class Observation(Frozen):
    """What is kept of one request."""

    features: dict[str, float] = Field(default_factory=dict)
    answer: str | None = Field(default=None, description="The class that a classifier gave.")
    confidence: float | None = None
    text: str | None = Field(default=None, description="What was asked, without keys and personal data, cut.")


class Reference(Frozen):
    """What a version was trained or evaluated on, seen in the way in which requests are."""

    rows_of: Literal["held_out", "training"]
    dataset: str
    made_at: datetime
    observations: Annotated[tuple[Observation, ...], Field(strict=False)]


class Measure(Frozen):
    """One comparison of a window with the reference."""

    name: str
    kind: Literal["feature", "class", "confidence", "text"]
    test: Literal["ks", "chi_squared", "permutation"]
    by: str | None = Field(default=None, description="Of texts: the embedder, or `tokens` where words were counted.")
    psi: float | None = Field(description="Population stability index; none where embeddings were compared.")
    statistic: float = Field(description="KS: largest gap of the distributions; else chi-squared, PSI or energy distance.")
    p: float = Field(description="How likely chance alone makes it as large.")
    drifted: bool
    bins: tuple[float | str, ...] = Field(default=(), description="Edges between the counts, or the class of each count.")
    reference: tuple[int, ...] = Field(default=(), description="Rows in each bin.")
    live: tuple[int, ...] = ()


class Retrain(Frozen):
    """What a new training would take: the job that made the version, on the newest rows of the same name."""

    run: dict[str, Any] | None = Field(default=None, description="Give it to `POST /api/jobs`.")
    cost_usd: UsdSum | None = None
    seconds: int | None = None
    why_not: str | None = Field(default=None, description="Where no such run can be estimated.")


class Window(Frozen):
    """Sampled requests that were compared with the reference, once."""

    number: int
    samples: int
    opened_at: datetime
    closed_at: datetime
    drifted: bool
    alarmed: bool = Field(description="Whether this window told of it: the first of several that drifted.")
    measures: tuple[Measure, ...] = ()
    retrain: Retrain | None = None


class DriftState(StrEnum):
    """Where a version stands."""

    OFF = "off"
    COLLECTING = "collecting"
    NO_REFERENCE = "no_reference"
    STEADY = "steady"
    DRIFTED = "drifted"


class ModelDrift(Frozen):
    """One version in use."""

    model_id: str
    name: str
    version: str
    stage: Stage
    state: DriftState
    share: float = Field(description="Share of the requests that are sampled.")
    waiting: int = Field(description="Samples of the window that is not judged yet.")
    reference_rows: int | None = None
    reference_of: Literal["held_out", "training"] | None = None
    reference_dataset: str | None = None
    why: str | None = Field(default=None, description="Why there is no reference.")
    windows: tuple[Window, ...] = Field(default=(), description="Newest first; only the first has its measures.")


class DriftStatus(Frozen):
    """Versions that are watched or were, those that drifted first."""

    thresholds: Thresholds
    data: tuple[ModelDrift, ...]


class WatchChange(Frozen):
    """How many of a model's requests are sampled."""

    share: Share | None = Field(
        description="From 0 (none, and what was kept is removed) to 1; null: as the server's setting says."
    )


class Watched(Frozen):
    """What is sampled of a model's requests from now on."""

    name: str
    share: float
    own: bool = Field(description="Whether the team said so; else it is the server's setting.")


class Sample(Frozen):
    """What is kept of one request."""

    at: datetime
    observation: Observation
