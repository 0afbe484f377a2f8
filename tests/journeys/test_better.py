"""Is it better? Two trainings on real processes: compared without being asked, promoted, rolled back, and all of it in MLflow."""

from __future__ import annotations

import importlib.util

import pytest

from luthier.errors import EvaluationNeeded

from .test_one_job import finished, spec, upload

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(420),
    pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow-skinny is not installed"),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]


def in_mlflow(url: str, name: str) -> tuple[str, dict[str, str], dict[str, str]]:
    """The number that the alias points to; stage and run id of each number."""
    from mlflow import MlflowClient

    client = MlflowClient(url, registry_uri=url)
    found = client.search_model_versions(f"name = '{name}'")
    stages = {str(each.version): each.tags["stage"] for each in found}
    runs = {str(each.version): each.run_id for each in found}
    return str(client.get_registered_model(name).aliases.get("production")), stages, runs


def test_a_better_version_takes_its_place_and_everybody_agrees(house, tmp_path):
    url = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = house.start(LUTHIER_MLFLOW_URL=url)
    train, held_out = upload(client, tmp_path, "train", 60), upload(client, tmp_path, "held-out", 8)
    first = client.models.get(finished(client, house, client.jobs.submit(spec(train, held_out, max_steps=10)).id).model_id)
    forgot = first.card["evaluation"]["forgetting"]
    assert forgot["tokens"] > 300
    assert first.card["forgetting"]["tuned"] == forgot["tuned"] != forgot["base"]
    assert client.models.transition(first.id, "Production").stage == "Production"

    second = client.models.get(finished(client, house, client.jobs.submit(spec(train, held_out)).id).model_id)
    try:  # the comparison that nobody asked for may have ended already
        client.models.transition(second.id, "Production")
    except EvaluationNeeded as needed:
        finished(client, house, needed.details["job_id"])
        client.models.transition(second.id, "Production")
    (run,) = [job for job in client.jobs.list() if job.kind == "evaluate"]
    assert client.billing.job_cost(run.id).settled
    found = client.models.compare("colours@2")
    assert (found.measured_by, found.rows) == (run.id, 8)
    assert found.tuned.loss < found.against.loss < found.base.loss
    assert all(sample.against is not None for sample in found.samples)
    assert client.models.rollback("colours").id == first.id

    name = f"{client.me().tenant_id}.colours"
    stages = {"1": "Production", "2": "Archived"}
    house.wait_until(lambda: in_mlflow(url, name)[:2] == ("1", stages), "MLflow agrees", 60)
    runs = in_mlflow(url, name)[2]
    assert len(set(runs.values())) == 2
    for number, model in (("1", first), ("2", second)):
        told = client.experiments.run(runs[number])
        assert (told.job_id, told.model, told.status) == (model.job_id, f"colours@{number}", "FINISHED")
