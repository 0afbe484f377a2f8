"""Runs as an experiment tracker sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pydantic import Field

from luthier.values import Frozen


@dataclass(frozen=True)
class VersionFacts:
    """A model version, as the registry tells of it."""

    model_id: str
    name: str
    number: int
    stage: str
    source: str
    tags: Mapping[str, str]
    description: str
    card: str
    """As JSON."""
    metrics: Mapping[str, float]
    deleted: bool = False


class Versions(Protocol):
    """What the mirror needs of the registry, which stands above it."""

    def facts(self, tenant_id: str, job_id: str) -> VersionFacts | None:
        """The version that this job made."""
        ...


class MirroredRun(Frozen):
    """A job, as it was told to MLflow."""

    run_id: str | None = Field(description="MLflow's id; none while MLflow does not have it.")
    experiment: str
    job_id: str
    name: str
    status: str
    params: dict[str, str]
    metrics: dict[str, float] = Field(description="The last value of each.")
    tags: dict[str, str]
    artifacts: tuple[str, ...]
    model: str | None = Field(default=None, description="The version that came out, `name@3`.")
    started_at: datetime
    ended_at: datetime | None = None
    mirrored_at: datetime | None = Field(default=None, description="When MLflow took it last.")
    error: str | None = Field(default=None, description="Why MLflow did not take it when it was told last.")
