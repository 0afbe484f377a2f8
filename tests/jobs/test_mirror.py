"""The mirror: a tracker has each job and version as they are, whatever it or the platform went through."""

from __future__ import annotations

import importlib.util
import json
import threading

import pytest
from sqlalchemy import select

from luthier.backends.trackers.memory import MemoryTracker
from luthier.backends.trackers.mlflow import MlflowTracker
from luthier.errors import NotFound
from luthier.experiments.mirror import Mirror
from luthier.experiments.mirror_store import MirrorRow
from luthier.experiments.service import Experiments
from luthier.jobs.directory import AttemptStatus
from luthier.registry.store import ModelRow
from luthier.registry.types import Stage

SCORES = {"rows": 9, "base": {"loss": 2.0}, "tuned": {"loss": 0.5, "exact_match": 0.75}}


@pytest.fixture
def tracker():
    return MemoryTracker()


@pytest.fixture
def experiments(bench):
    return Experiments(bench.database, bench.storage, bench.models)


@pytest.fixture
def mirror(bench, experiments, tracker):
    return Mirror(bench.database, experiments, tracker, bench.times.now)


def leaves(run, here) -> int:
    """A training that leaves a model and what was measured; another run only a last word."""
    if json.loads(here.job.read_spec())["kind"] == "train":
        checks = {"finite": True, "changes_logits": True, "max_logit_change": 1.0, "loads_again": True, "same_after_reload": True}
        metrics = {"steps": 2, "train_loss": 0.25, "loss_curve": [[1, 2.0], [2, 0.25]]}
        files = {"checks.json": checks, "metrics.json": metrics, "final_model/adapter_config.json": {}}
        files |= {"final_model/adapter_model.safetensors": {}}
    else:
        files = {}
    for name, value in {**files, "evaluation.json": SCORES}.items():
        here.storage.write(here.name("results", *name.split("/")), json.dumps(value).encode())
    here.write_status(AttemptStatus(attempt=here.number, state="succeeded"))
    return 0


@pytest.fixture
def trained(bench, alice):
    bench._supervisor = bench.another(registry=bench.models)
    bench.trainer.attempts = [leaves]

    def make(actor=alice, name="numbers", **changes):
        job = bench.submit(actor, name=name, validation_dataset=bench.dataset_id, **changes)
        bench.settle()
        return bench.models.get(actor, bench.get(job, actor).model_id)

    return make


def run_of(tracker, job_id: str):
    return next(run for run in tracker.runs.values() if run.key == job_id)


def later(bench, mirror, seconds: float) -> int:
    bench.times.pass_s(seconds)
    return mirror.round()


def test_a_job_and_its_version_arrive_with_all_that_is_known(mirror, tracker, trained):
    model = trained(metadata={"ticket": "7", "luthier.kind": "mine"})
    assert mirror.round() == 1
    run = run_of(tracker, model.job_id)
    assert (run.status, run.name, run.experiment) == ("FINISHED", "numbers", "luthier/team_alice")
    assert (run.params["base_model"], run.params["lora.rank"], run.params["seed"]) == ("luthier/tiny", "16", "42")
    assert [point for point in run.metrics if point[0] == "loss"] == [("loss", 2.0, 1), ("loss", 0.25, 2)]
    last = {name: value for name, value, _ in run.metrics}
    assert (last["train_loss"], last["tuned_exact_match"]) == (0.25, 0.75)
    assert (run.tags["ticket"], run.tags["luthier.kind"], run.tags["luthier.model"]) == ("7", "train", "numbers@1")
    assert {"metrics.json", "evaluation.json", "checks.json", "card.json"} <= set(run.artifacts)
    version = tracker.versions["team_alice.numbers", model.id]
    assert (version.number, version.stage, run_of(tracker, model.job_id)) == (1, "None", tracker.runs[version.run_id])
    assert mirror.round() == 0


def test_stages_and_deletions_follow_and_each_version_has_a_run_of_its_own(bench, mirror, tracker, trained, alice):
    models = [trained() for _ in range(2)]
    with bench.database.write(alice.tenant_id) as session:  # as if each had passed the gate
        for stage, model in zip(("Archived", "Production"), models, strict=True):
            bench.models._stages._moved(session, alice, session.get(ModelRow, model.id), Stage(stage))
    mirror.round()
    assert tracker.production("team_alice.numbers") == 2
    assert len({version.run_id for version in tracker.versions.values()}) == 2
    bench.models.delete(alice, models[0].id)
    later(bench, mirror, 1)
    assert [key for _, key in tracker.versions] == [models[1].id]


def test_a_tracker_that_is_down_is_told_when_it_is_back_and_asked_ever_more_rarely(bench, mirror, tracker, trained, alice):
    tracker.down = True
    models = [trained() for _ in range(3)]
    for _ in range(20):
        later(bench, mirror, 1)
    assert tracker.asked == 2  # at once, after 5 s; the next one after 30
    assert Experiments(bench.database, bench.storage, bench.models).run(alice, models[0].job_id).error == "down"
    tracker.down = False
    later(bench, mirror, 40)
    assert [version.number for version in tracker.versions.values()] == [1, 2, 3]
    assert Experiments(bench.database, bench.storage, bench.models).run(alice, models[0].job_id).error is None


def test_one_job_that_a_tracker_never_takes_does_not_hold_up_the_others_for_ever(bench, experiments, trained):
    class Picky(MemoryTracker):
        def put_run(self, run, run_id):
            self.down = run.key == refused
            return super().put_run(run, run_id)

    models = [trained() for _ in range(2)]
    refused, picky = models[0].job_id, Picky()
    mirror = Mirror(bench.database, experiments, picky, bench.times.now)
    for _ in range(8):
        later(bench, mirror, 301)
    assert [run.key for run in picky.runs.values()] == [models[1].job_id]


def test_what_a_tracker_lost_is_told_again_at_the_start_and_every_hour(bench, mirror, experiments, tracker, trained):
    trained()
    mirror.round()
    for again in (mirror, Mirror(bench.database, experiments, tracker, bench.times.now)):
        tracker.runs.clear()
        tracker.versions.clear()
        later(bench, again, 3601)
        assert (len(tracker.runs), len(tracker.versions)) == (1, 1)


def test_what_happens_while_it_is_told_is_told_again(bench, mirror, tracker, trained, alice):
    model = trained()
    real = tracker.put_version

    def archived_meanwhile(version) -> None:
        real(version)
        tracker.put_version = real
        bench.models.transition(alice, model.id, Stage.ARCHIVED)
        mirror._note_news()

    tracker.put_version = archived_meanwhile
    mirror.round()
    later(bench, mirror, 1)
    assert tracker.versions["team_alice.numbers", model.id].stage == "Archived"


def test_two_mirrors_do_not_tell_of_the_same_job_at_once(bench, mirror, experiments, tracker, trained):
    trained()
    other = Mirror(bench.database, experiments, tracker, bench.times.now)
    mirror.note_everything()
    held = mirror._claimed()
    assert (len(held), other.round()) == (1, 0)
    bench.times.pass_s(601)  # the first one died: its lease runs out
    assert other.round() == 1


def test_an_evaluation_is_a_run_and_brings_its_models_version_up_to_date(bench, mirror, tracker, trained, alice):
    model = trained()
    mirror.round()
    job = bench.jobs.submit(alice, bench.spec(kind="evaluate", model=model.id, base_model="", dataset=bench.dataset_id)).job
    bench.settle()
    later(bench, mirror, 1)
    assert run_of(tracker, job.id).tags["luthier.kind"] == "evaluate"
    assert json.loads(run_of(tracker, model.job_id).artifacts["card.json"])["evaluations"][0]["job_id"] == job.id


def test_a_failed_job_is_a_failed_run_and_one_that_never_ran_is_none(bench, mirror, tracker, fake, alice):
    bench.trainer.attempts = [fake.fails("diverged")]
    failed = bench.submit(alice)
    bench.settle()
    bench.jobs.cancel(alice, bench.submit(alice).id)
    mirror.round()
    assert [(run.key, run.status, run.tags["luthier.error"]) for run in tracker.runs.values()] == [
        (failed.id, "FAILED", "diverged")
    ]


def test_a_run_is_shown_by_either_id_without_asking_the_tracker_and_to_its_team_alone(
    mirror, experiments, tracker, trained, alice, bob
):
    model = trained()
    before = experiments.run(alice, model.job_id)
    assert (before.run_id, before.mirrored_at, before.model) == (None, None, "numbers@1")
    mirror.round()
    asked = tracker.asked
    found = experiments.run(alice, model.job_id)
    assert experiments.run(alice, found.run_id) == found
    assert (found.metrics["train_loss"], found.status, found.mirrored_at is not None) == (0.25, "FINISHED", True)
    assert tracker.asked == asked
    for actor, ref in ((bob, found.run_id), (bob, model.job_id), (alice, "0" * 32), (alice, "job_x")):
        with pytest.raises(NotFound):
            experiments.run(actor, ref)


def test_the_thread_goes_on_after_an_error_of_its_own_and_ends_when_told(bench, experiments, trained):
    trained()
    stop = threading.Event()

    class Surprising(MemoryTracker):
        def put_run(self, run, run_id):
            if self.asked == 0:
                self.asked = 1
                raise RuntimeError("a bug")
            stop.set()
            return super().put_run(run, run_id)

    tracker = Surprising()
    mirror = Mirror(bench.database, experiments, tracker, bench.times.now)

    def passing() -> int:
        bench.times.pass_s(601)
        return real()

    real, mirror.round = mirror.round, passing
    mirror.run(stop, pause_s=0)
    assert len(tracker.runs) == 1


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow-skinny is not installed")
@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
def test_card_registry_and_mlflow_itself_agree_also_after_mlflow_was_away(bench, experiments, trained, alice, tmp_path):
    mirror = Mirror(bench.database, experiments, MlflowTracker("http://127.0.0.1:9", tmp_path), bench.times.now)
    first = trained()
    mirror.round()
    assert "MlflowException" in experiments.run(alice, first.job_id).error
    bench.models.transition(alice, first.id, Stage.STAGING)
    second = trained()
    tracker = MlflowTracker(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "artifacts")
    later(bench, Mirror(bench.database, experiments, tracker, bench.times.now), 10)
    found = {
        each.tags["luthier.model_id"]: each for each in tracker._client().search_model_versions("name = 'team_alice.numbers'")
    }
    for model in (first, second):
        known, kept = bench.models.get(alice, model.id), found[model.id]
        assert (str(kept.version), kept.tags["stage"]) == (known.version, known.stage)
        assert kept.run_id == experiments.run(alice, model.job_id).run_id
        assert json.loads(bench.storage.read(f"model_registry/{model.id}.json"))["stage"] == kept.tags["stage"]
    with bench.database.read(alice.tenant_id) as session:
        assert all(row.next_at is None for row in session.scalars(select(MirrorRow)))
