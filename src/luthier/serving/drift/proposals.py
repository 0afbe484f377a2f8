"""What it would take to train a version again."""

from __future__ import annotations

from luthier.accounts.types import Actor
from luthier.datasets.service import Datasets
from luthier.errors import LuthierError
from luthier.jobs.service import Jobs
from luthier.registry.types import Model
from luthier.serving.drift.types import Retrain


def proposal(jobs: Jobs, datasets: Datasets, actor: Actor, model: Model) -> Retrain:
    """The run that made it, on the newest rows of its dataset's name, and its estimated cost. Nothing is started or held."""
    try:
        spec = jobs.get(actor, model.job_id).spec
        line = datasets.list(actor, name=datasets.get(actor, spec.dataset).name, limit=1).data
        newest = line[0].id if line else spec.dataset
        spec = spec.model_copy(update={"sources": None, "dataset": newest, "name": model.name})
        estimate = jobs.estimate(actor, spec)
    except LuthierError as error:
        return Retrain(why_not=error.message)
    run = spec.model_dump(mode="json", exclude_defaults=True)
    return Retrain(run=run, cost_usd=estimate.cost_usd, seconds=estimate.seconds)
