"""The contract of `seams.Tracker`, run on every backend; then what MLflow itself shows."""

import base64
import importlib.util
import shutil
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from luthier.backends.trackers.memory import MemoryTracker
from luthier.backends.trackers.mlflow import MlflowTracker, registered
from luthier.seams import TrackedRun, TrackedVersion, TrackerUnavailable

# MLflow's own tables use what this SQLAlchemy has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
NEEDS_MLFLOW = pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow-skinny is not installed")
AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
RUN = TrackedRun(
    key="job_1",
    experiment="luthier/team_1",
    name="intents",
    status="RUNNING",
    params={"train.epochs": "3", "seed": "42"},
    metrics=[("loss", 2.0, 1), ("loss", 1.0, 2)],
    tags={"luthier.kind": "train"},
    artifacts={"card.json": '{"name": "intents"}'},
    started_at=AT,
    ended_at=None,
)
VERSION = TrackedVersion(
    key="model_1",
    name="team_1.intents",
    number=1,
    run_id="",
    source="file:///models/model_1",
    stage="None",
    tags={"method": "sft"},
    description="A model.",
)
ENDED = replace(RUN, status="FINISHED", metrics=[*RUN.metrics, ("eval_loss", 0.5, 2)], ended_at=AT)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """MLflow's tables, made once: that takes two seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowTracker(f"sqlite:///{path}", path.parent).drop_version("nobody", "model_0")
    return path


@pytest.fixture
def mlflow(tmp_path, tables):
    """MLflow on a SQLite file of its own."""
    shutil.copy(tables, tmp_path / "mlflow.db")
    return MlflowTracker(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "artifacts")


@pytest.fixture(params=["memory", pytest.param("mlflow", marks=NEEDS_MLFLOW)])
def tracker(request):
    return MemoryTracker() if request.param == "memory" else request.getfixturevalue("mlflow")


def test_a_run_that_is_told_again_is_the_same_run(tracker):
    first = tracker.put_run(RUN, None)
    assert tracker.put_run(ENDED, first) == first
    assert tracker.put_run(ENDED, None) == first  # the id was lost with a crash
    assert tracker.put_run(replace(RUN, key="job_2"), None) != first


def test_a_version_that_is_told_again_is_the_same_version_and_one_that_is_deleted_leaves(tracker):
    version = replace(VERSION, run_id=tracker.put_run(ENDED, None))
    for _ in range(2):
        tracker.put_version(version)
    for _ in range(2):
        tracker.drop_version(version.name, version.key)
    tracker.drop_version("nobody", "model_9")


@NEEDS_MLFLOW
def test_mlflow_shows_params_metrics_artifacts_and_how_it_ended(mlflow, tmp_path):
    run_id = mlflow.put_run(RUN, None)
    mlflow.put_run(ENDED, run_id)
    client = mlflow._client()
    found = client.get_run(run_id)
    assert found.data.params == RUN.params
    assert found.data.metrics == {"loss": 1.0, "eval_loss": 0.5}
    assert [(point.step, point.value) for point in client.get_metric_history(run_id, "loss")] == [(1, 2.0), (2, 1.0)]
    assert (found.info.status, found.info.run_name, found.data.tags["luthier.job_id"]) == ("FINISHED", "intents", "job_1")
    assert [artifact.path for artifact in client.list_artifacts(run_id)] == ["card.json"]
    assert found.info.artifact_uri.startswith((tmp_path / "artifacts").as_uri())
    assert client.get_experiment(found.info.experiment_id).name == "luthier/team_1"


@NEEDS_MLFLOW
def test_mlflow_has_one_alias_production_and_a_run_id_for_each_version(mlflow):
    runs = [mlflow.put_run(replace(ENDED, key=f"job_{n}"), None) for n in (1, 2)]
    first, second = (replace(VERSION, key=f"model_{n}", number=n, run_id=run) for n, run in enumerate(runs, 1))
    for version in (
        replace(first, stage="Production"),
        second,
        replace(second, stage="Production"),
        replace(first, stage="Archived"),
    ):
        mlflow.put_version(version)
    client = mlflow._client()
    assert client.get_registered_model("team_1.intents").aliases == {"production": 2}
    found = {int(each.version): each for each in client.search_model_versions("name = 'team_1.intents'")}
    assert {number: each.run_id for number, each in found.items()} == dict(enumerate(runs, 1))
    assert {number: each.tags["stage"] for number, each in found.items()} == {1: "Archived", 2: "Production"}
    mlflow.put_version(replace(second, stage="Archived"))
    assert client.get_registered_model("team_1.intents").aliases == {}


@NEEDS_MLFLOW
def test_mlflow_gives_a_version_its_own_number_though_earlier_ones_are_gone(mlflow):
    run = mlflow.put_run(ENDED, None)
    mlflow.put_version(replace(VERSION, key="model_3", number=3, run_id=run))
    found = mlflow._client().search_model_versions("name = 'team_1.intents'")
    assert [(int(each.version), each.tags["luthier.model_id"]) for each in found] == [(3, "model_3")]


@NEEDS_MLFLOW
def test_what_somebody_changed_in_mlflow_is_mended(mlflow):
    version = replace(VERSION, run_id=mlflow.put_run(ENDED, None), stage="Production")
    mlflow.put_version(version)
    client = mlflow._client()
    client.delete_registered_model_alias(version.name, "production")
    client.set_model_version_tag(version.name, "1", "stage", "Archived")
    mlflow.put_version(version)
    assert client.get_registered_model(version.name).aliases == {"production": 1}
    assert client.get_model_version(version.name, "1").tags["stage"] == "Production"
    client.delete_run(version.run_id)
    assert mlflow.put_run(ENDED, version.run_id) != version.run_id


@NEEDS_MLFLOW
def test_names_that_mlflow_does_not_take_are_written_otherwise(mlflow):
    run = mlflow.put_run(ENDED, None)
    for number, name in enumerate(("team_1.it's", "team_1.a/b:c", "team_1.ü <x>"), 1):
        mlflow.put_version(replace(VERSION, key=f"model_{number}", name=name, run_id=run))
        assert mlflow._client().get_registered_model(registered(name)).name == registered(name)


@NEEDS_MLFLOW
def test_a_server_that_is_not_there_is_unavailable_at_once(tmp_path):
    began = time.monotonic()
    with pytest.raises(TrackerUnavailable):
        MlflowTracker("http://127.0.0.1:9", tmp_path).put_run(RUN, None)
    assert time.monotonic() - began < 10


class Failing(BaseHTTPRequestHandler):
    """Answers everything with 500, and with the password that it was told."""

    status = 500

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(base64.b64decode(self.headers.get("authorization", "").removeprefix("Basic ")))

    do_POST = do_GET

    def log_message(self, *_) -> None:
        pass


@NEEDS_MLFLOW
def test_a_server_that_fails_is_asked_once(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Failing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(TrackerUnavailable):
            MlflowTracker(f"http://127.0.0.1:{server.server_port}", tmp_path).put_run(RUN, None)
        server.shutdown()


@NEEDS_MLFLOW
def test_no_password_is_in_what_is_said_of_a_server_that_refuses_or_is_not_there(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Refusing", (Failing,), {"status": 401})) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for port in (server.server_port, 9):
            with pytest.raises(TrackerUnavailable) as said:
                MlflowTracker(f"http://ops:pa55word@127.0.0.1:{port}", tmp_path).put_run(RUN, None)
            assert "/api/2.0/mlflow" in str(said.value), "it says what was asked"
            assert "pa55word" in str(said.value.__cause__), "MLflow's client says more"
            assert "pa55word" not in str(said.value)
        server.shutdown()
