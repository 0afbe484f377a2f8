"""One attempt of the method classifier: read the rows, learn, check what was saved, measure, publish."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from luthier.jobs import automatic
from luthier.jobs.directory import CheckpointRef
from luthier.jobs.spec import RunSpec
from luthier.modeling.classifiers import saving
from luthier.modeling.classifiers.extra import needs_sklearn
from luthier.modeling.classifiers.registry import check_reads, entry_of, options_of
from luthier.modeling.classifiers.saving import About, Classifier, SklearnClassifier, TorchClassifier, load_weights
from luthier.modeling.classifiers.types import Entry, SklearnEntry, TorchEntry
from luthier.training import export, machine
from luthier.training.checkpoints import Checkpoints, fetch_checkpoint, used
from luthier.training.classifiers import measuring, sklearn_fit
from luthier.training.classifiers.data import Samples, read_samples, remarks_on
from luthier.training.classifiers.scores import Measured
from luthier.training.classifiers.torch_loop import ClassifierLoop, Material
from luthier.training.failures import AttemptFailed
from luthier.training.materials import fetch_data
from luthier.training.milestones import Desk
from luthier.training.plan import Fixed, Plan, resolved
from luthier.training.state import TrainState, resumed_state

if TYPE_CHECKING:
    from luthier.training.gang import Work
    from luthier.training.run import Run

AUTO_LEARNING_RATE = 1e-3
_PROBES = 64
_SAME = 1e-4
"""A GPU and the CPU, on which it is loaded again, do not add up in the same order."""


@dataclass(frozen=True)
class Data:
    """Rows to learn from, and rows to measure on."""

    training: Samples
    validation: Samples | None

    @property
    def measured(self) -> Samples:
        """What the result is looked at with: the held-out rows where there are some."""
        return self.validation or self.training


@dataclass(frozen=True)
class Learned:
    """A classifier that has learned, and what is told about the way there."""

    classifier: Classifier
    config: dict[str, Any]
    metrics: dict[str, Any]


def classify(run: Run) -> Work[None]:
    """The whole attempt. It asks for no pass: it has no base to share.

    Raises: Stopping, Fenced, AttemptFailed, LuthierError.
    """
    yield from ()
    section = run.spec.classifier_model
    entry = entry_of(section.model)
    options = options_of(entry, section.options)
    if isinstance(entry, SklearnEntry):
        needs_sklearn()
    data = _read_data(run, entry)
    about = About(
        model=section.model,
        options=options.model_dump(exclude_none=True),
        reads=data.training.reads,
        pixels=data.training.pixels,
        classes=data.training.classes,
    )
    run.journal.unit = "rows"
    learned = _learn_torch(run, entry, about, data) if isinstance(entry, TorchEntry) else _learn_sklearn(run, entry, about, data)
    _finish(run, data, learned)


def _read_data(run: Run, entry: Entry) -> Data:
    spec, sources = run.spec, run.spec.sources
    run.journal.phase("reading data", "Reading the data.")
    path = run.workspace / "train"
    fetch_data(run.attempt.job, spec.dataset, sources.dataset if sources else None, run.fetch_url, path)
    training, validation = read_samples(path, run.progress), None
    check_reads(entry, spec.base_model, training.reads)
    if spec.validation_dataset is not None:
        path = run.workspace / "validation"
        pin = sources.validation_dataset if sources else None
        fetch_data(run.attempt.job, spec.validation_dataset, pin, run.fetch_url, path)
        validation = read_samples(path, run.progress, training)
    facts = {"rows": len(training), "classes": len(training.classes), "pixels": training.pixels}
    held_out = "" if validation is None else f", {len(validation)} to measure on"
    message = f"{len(training)} rows of {len(training.classes)} classes{held_out}."
    run.journal.event("phase", message, {"phase": "reading data", **facts})
    held_out_N = None if validation is None else validation.labels
    for remark in remarks_on(training.labels, held_out_N, len(training.classes)):
        run.journal.event("warning", remark, level="warning")
    return Data(training, validation)


# -- PyTorch -----------------------------------------------------------------------------------------------------------


def _learn_torch(run: Run, entry: TorchEntry, about: About, data: Data) -> Learned:
    spec = run.spec
    state = resumed_state(run.resumed)
    if spec.train.deterministic:
        machine.be_deterministic()
    torch.manual_seed(spec.seed)
    module = entry.build(options_of(entry, about.options), about.shape)
    fixed = state.fixed if state is not None else _fixed(spec, module, len(data.training))
    torch.set_num_threads(fixed.threads)
    plan = plan_of(spec, fixed, len(data.training))
    state = state or TrainState(fixed)
    classifier = TorchClassifier(about, module.to(fixed.device))
    run.journal.facts(total_steps=plan.total_steps, device=fixed.device, step=state.step)
    run.journal.state("running", f"{plan.total_steps} steps of {plan.rows_per_step} rows on {fixed.device}.")
    run.journal.phase("training", "Training begins." if state.step == 0 else f"Training goes on after step {state.step}.")
    desk = Desk(run.journal, Checkpoints(run.attempt, run.workspace), run.watch)
    _loop(run, Material(spec, plan, classifier, data.training, data.validation), desk, state).run()
    _take_best(run, classifier, state)
    config = resolved(spec, plan)
    config["train"]["max_seq_len"] = spec.train.max_seq_len  # there are no tokens
    return Learned(classifier, config, export.metrics_of(state, plan.steps_per_epoch, machine.peak_bytes(fixed.device)))


def _loop(run: Run, material: Material, desk: Desk, state: TrainState) -> ClassifierLoop:
    """Before its first step, or where the checkpoint stood. Raises: AttemptFailed for one that holds another model."""
    if run.resumed is None:
        return ClassifierLoop(material, desk, state, None)
    with used(run.resumed[0]):
        loop = ClassifierLoop(material, desk, state, run.resumed)
        if not material.classifier.finite:
            raise ValueError("it holds weights that are not finite")
    return loop


def _fixed(spec: RunSpec, module: torch.nn.Module, rows: int) -> Fixed:
    asked = spec.train.batch_size
    batch_size = automatic.batch_size(rows) if asked == "auto" else asked
    return Fixed(
        batch_size=batch_size,
        tokens_per_pass=batch_size,  # a row counts as a token
        threads=machine.threads_for(sum(weights.numel() for weights in module.parameters())),
        device=machine.resolve_device(spec.train.device),
        precision="fp32",
    )


def plan_of(spec: RunSpec, fixed: Fixed, rows: int) -> Plan:
    """Steps and groups for this many rows."""
    train = spec.train
    rows_per_step, steps_per_epoch, total_steps = automatic.steps_of(spec, rows, fixed.batch_size)
    return Plan(
        fixed=fixed,
        rows_per_step=rows_per_step,
        rows_per_pass=fixed.batch_size,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        eval_steps=(train.eval_steps or steps_per_epoch) if spec.validation_dataset is not None else None,
        max_seq_len=0,
        learning_rate=AUTO_LEARNING_RATE if train.learning_rate == "auto" else train.learning_rate,
        epochs=None if train.max_steps else automatic.epochs_of(train, rows),
    )


def _take_best(run: Run, classifier: TorchClassifier, state: TrainState) -> None:
    """The weights with the lowest validation loss become the result, where that was measured."""
    best = state.best_checkpoint
    if best is None or best.step == state.step:
        return
    folder = run.workspace / "best"
    ref = CheckpointRef(attempt=best.attempt, step=best.step, sha256=best.sha256)
    if fetch_checkpoint(run.attempt.job, ref, folder):
        with used(ref):
            load_weights(classifier.module, folder)
        message = f"The weights of step {best.step} are the result: their validation loss was the lowest."
        run.journal.event("checkpoint", message)
    else:
        message = f"The checkpoint of step {best.step}, the best, no longer verifies: the result is that of step {state.step}."
        run.journal.event("warning", message, level="warning")


# -- scikit-learn ------------------------------------------------------------------------------------------------------


def _learn_sklearn(run: Run, entry: SklearnEntry, about: About, data: Data) -> Learned:
    estimator = entry.build(options_of(entry, about.options), about.shape, run.spec.seed)
    run.journal.facts(device="cpu")
    run.journal.state("running", f"{about.model} learns from {len(data.training)} rows in one go.")
    run.journal.phase("training", "Training begins.")
    began = time.monotonic()
    sklearn_fit.fit(entry, estimator, data.training, run.journal, run.watch)
    seconds = max(time.monotonic() - began, 1e-3)
    metrics = {
        "tokens_seen": len(data.training),
        "tokens_per_second": round(len(data.training) / seconds, 1),
        "seconds": round(seconds, 1),
        "peak_memory_bytes": machine.peak_bytes("cpu"),
    }
    return Learned(SklearnClassifier(about, estimator), run.spec.model_dump(mode="json"), metrics)


# -- after learning ----------------------------------------------------------------------------------------------------


def _finish(run: Run, data: Data, learned: Learned) -> None:
    run.watch.check()
    run.journal.phase("checking", "Checking the model.")
    folder = run.workspace / "final_model"
    folder.mkdir()
    export.publish_json(run.attempt, "checks.json", check(learned.classifier, data.measured, folder))
    run.journal.phase("evaluating", "Measuring the model.")
    rows = data.measured
    answers = learned.classifier.probabilities(rows.inputs)
    measured = Measured(rows.classes, data.training.labels, rows.labels, answers)
    scores = measuring.publish(run.attempt, run.journal, measured, held_out=data.validation is not None)
    run.watch.check()
    run.journal.phase("saving", "Publishing the results.")
    export.publish_model(run.attempt, folder)
    learned.config["classifier"] = {"model": learned.classifier.about.model, **learned.classifier.about.options}
    export.publish_config(run.attempt, learned.config)
    run.journal.facts(peak_memory_bytes=learned.metrics["peak_memory_bytes"])
    export.publish_json(run.attempt, "metrics.json", {**learned.metrics, **scores})


def check(classifier: Classifier, samples: Samples, folder: Path) -> dict[str, Any]:
    """Save it into `folder`, load it from there, and compare the answers. Returns `checks.json`.

    Raises: AttemptFailed where it is no working model.
    """
    probes = samples.first(_PROBES)
    before = classifier.probabilities(probes)
    if not (classifier.finite and bool(np.isfinite(before).all())):
        hint = "Lower `train.learning_rate`, then start again."
        raise AttemptFailed("diverged", "The model holds weights that are not numbers.", hint)
    classifier.save(folder)
    gap = float(np.abs(saving.load(folder).probabilities(probes) - before).max())
    if gap > _SAME:
        said = f"The saved model does not give the same answers when it is loaded again (they differ by {gap:.1e})."
        raise AttemptFailed("crashed", said, "Resume the job: it is saved anew.")
    return {
        "finite": True,
        "answers_differ": bool((before != before[0]).any()),
        "loads_again": True,
        "same_after_reload": True,
        "max_probability_change": gap,
    }
