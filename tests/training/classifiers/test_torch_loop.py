"""The loop of networks: it learns, it can be interrupted anywhere, and going on changes nothing."""

from datetime import UTC, datetime

import numpy as np
import pytest
import torch

from luthier.backends.storage.local import LocalStorage
from luthier.jobs.directory import JobDirectory
from luthier.jobs.spec import RunSpec
from luthier.modeling.classifiers.registry import entry_of, options_of
from luthier.modeling.classifiers.saving import About, TorchClassifier
from luthier.training.checkpoints import Checkpoints, fetch_checkpoint
from luthier.training.classifiers.torch_loop import ClassifierLoop, Material
from luthier.training.classifiers.work import plan_of
from luthier.training.failures import AttemptFailed, Stopping
from luthier.training.journal import Journal
from luthier.training.milestones import Desk
from luthier.training.plan import Fixed
from luthier.training.state import BestCheckpoint, TrainState, read_state
from luthier.training.watch import Watch

from .conftest import images, samples

TRAINING, VALIDATION = samples(images(48, side=8)), samples(images(18, seed=9, side=8))


class Bench:
    """One job directory, its loop made anew for each attempt."""

    def __init__(self, folder, *, model="mlp", options=None, validation=None, **train) -> None:
        self.folder = folder
        self.job = JobDirectory(LocalStorage(folder), "")
        section = {"model": model, **(options or {})}
        fields = {"method": "classifier", "dataset": "d", "classifier": section, "train": {"learning_rate": 0.01, **train}}
        self.spec = RunSpec.model_validate({**fields, **({} if validation is None else {"validation_dataset": "v"})})
        self.validation = validation
        self.training = TRAINING
        self.number = 0
        self.now = 0.0

    def attempt(self, resume=None) -> ClassifierLoop:
        self.number += 1
        workspace = self.folder / "attempts" / str(self.number) / "work"
        workspace.mkdir(parents=True)
        directory = self.job.attempt(self.number)
        self.watch = Watch(self.job.control, self.number)
        self.journal = Journal(directory, lambda: datetime(2026, 11, 21, tzinfo=UTC))
        self.journal.begin(resume)
        entry, options = entry_of(self.spec.base_model), self.spec.classifier_model.options
        torch.manual_seed(self.spec.seed)
        about = About(model=self.spec.base_model, options=options, reads="images", pixels=64, classes=TRAINING.classes)
        self.classifier = TorchClassifier(about, entry.build(options_of(entry, options), about.shape))
        self.state, resumed = TrainState(Fixed(8, 8, 1, "cpu", "fp32")), None
        if resume is not None:
            assert fetch_checkpoint(self.job, resume, workspace / "resume")
            resumed = (resume, workspace / "resume")
            self.state = read_state(workspace / "resume")
            if self.state.best.step == resume.step:
                self.state.best_checkpoint = BestCheckpoint(resume.attempt, resume.step, resume.sha256)
        plan = plan_of(self.spec, self.state.fixed, len(self.training))
        material = Material(self.spec, plan, self.classifier, self.training, self.validation)
        desk = Desk(self.journal, Checkpoints(directory, workspace), self.watch, lambda: self.now)
        return ClassifierLoop(material, desk, self.state, resumed)

    @property
    def weights(self) -> dict[str, list[float]]:
        return {name: tensor.flatten().tolist() for name, tensor in self.classifier.module.state_dict().items()}

    def losses(self):
        return [(step[0], step[1]) for event in self.job.events() if event.kind == "step" for step in event.data["steps"]]

    def steps_with_checkpoint(self):
        return [ref.step for ref in self.job.attempt(self.number).checkpoints()]


def stop_at(bench, loop, step) -> None:
    """Ask for a stop once this many steps are done."""
    told = bench.journal.step

    def tell(report):
        told(report)
        if report.step == step:
            bench.watch.ask("stopped")

    bench.journal.step = tell
    with pytest.raises(Stopping):
        loop.run()


@pytest.mark.parametrize(("model", "options"), [("mnist-cnn", {"hidden_size": 16}), ("mlp", {"hidden_size": 64})])
def test_a_network_learns_what_it_is_shown(tmp_path, model, options):
    bench = Bench(tmp_path, model=model, options=options, epochs=60, learning_rate=0.005)
    bench.attempt().run()
    answers = bench.classifier.probabilities(TRAINING.inputs).argmax(1)
    assert (answers == TRAINING.labels).mean() > 0.95
    losses = [loss for _, loss in bench.losses()]
    assert len(losses) == bench.state.step == 360
    assert np.mean(losses[-10:]) < 0.3 * np.mean(losses[:10])


def test_every_row_is_seen_once_an_epoch(tmp_path):
    bench = Bench(tmp_path, epochs=2)
    bench.attempt().run()
    assert (bench.state.tokens_seen, bench.state.step) == (2 * len(TRAINING), 12)


@pytest.mark.parametrize("step", [1, 5, 6, 11])
def test_a_stop_and_a_resume_are_the_uninterrupted_run_bit_by_bit(tmp_path, step):
    more = {"options": {"dropout": 0.3, "hidden_size": 16}, "epochs": 2, "eval_steps": 3, "validation": VALIDATION}
    whole = Bench(tmp_path / "whole", **more)
    whole.attempt().run()
    parts = Bench(tmp_path / "parts", **more)
    stop_at(parts, parts.attempt(), step)
    assert parts.steps_with_checkpoint()[-1] == step
    parts.attempt(resume=parts.job.newest_checkpoint()).run()
    assert parts.weights == whole.weights
    assert parts.losses() == whole.losses()
    assert (parts.state.best, parts.state.eval_loss) == (whole.state.best, whole.state.eval_loss)


def test_the_size_of_a_pass_changes_nothing_that_is_learned(tmp_path):
    one, four = Bench(tmp_path / "one", epochs=1, gradient_accumulation=2), Bench(tmp_path / "four", epochs=1)
    one.attempt().run()
    loop = four.attempt()
    loop.order.rows_per_step = 16
    four.state.fixed = Fixed(16, 16, 1, "cpu", "fp32")
    assert one.losses()[0][1] == pytest.approx(loop._gradients(loop.order.of_step(0)), rel=1e-6)


def test_early_stopping_ends_the_run_and_the_best_weights_are_kept(tmp_path):
    bench = Bench(tmp_path, epochs=200, eval_steps=6, early_stopping_patience=3, learning_rate=0.05, validation=VALIDATION)
    bench.attempt().run()
    assert bench.state.finished
    assert bench.state.step < 1200
    assert bench.state.best.since == 3
    assert bench.state.best.step in bench.steps_with_checkpoint()
    assert any("training ends early" in event.message for event in bench.job.events())


def test_a_loss_that_is_no_number_ends_the_run(tmp_path):
    bench = Bench(tmp_path, epochs=5)
    bench.training = samples(images(48, side=8))
    bench.training.inputs[:] = np.inf
    with pytest.raises(AttemptFailed, match="no longer a number at step 1") as failed:
        bench.attempt().run()
    assert failed.value.failure.code == "diverged"


def test_time_that_is_over_ends_it_with_a_checkpoint(tmp_path):
    bench = Bench(tmp_path, epochs=5)
    bench.spec = bench.spec.model_copy(update={"limits": bench.spec.limits.model_copy(update={"max_seconds": 10})})
    loop = bench.attempt()
    told = bench.journal.step

    def tell(report):
        told(report)
        bench.now += 4

    bench.journal.step = tell
    with pytest.raises(Stopping):
        loop.run()
    assert bench.steps_with_checkpoint() == [3]


def test_an_evaluation_tells_accuracy_and_macro_f1(tmp_path):
    bench = Bench(tmp_path, epochs=2, validation=VALIDATION)
    bench.attempt().run()
    told = [event.data for event in bench.job.events() if event.kind == "eval"]
    assert len(told) == 2
    assert all(set(data) == {"eval_loss", "best", "accuracy", "macro_f1"} for data in told)
