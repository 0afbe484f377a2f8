"""Runs as an experiment tracker sees them."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path

from luthier.errors import NotFound
from luthier.experiments.types import MirroredRun
from luthier.faces.rest.errors import problems
from luthier.faces.rest.wire import CurrentActor, CurrentPlatform, router

routes = router("/api/experiments", "experiments")
RunId = Annotated[str, Path(max_length=100, description="MLflow's id of the run, or the id of its job.")]


@routes.get("/mlflow/{run_id}", responses=problems(NotFound))
def run(run_id: RunId, actor: CurrentActor, platform: CurrentPlatform) -> MirroredRun:
    """Parameters, metrics and artifacts of a run, and whether MLflow has them. Answered also while MLflow is down."""
    return platform.experiments.run(actor, run_id)
