"""An adapter from its base to its published results: load, train, check, evaluate, publish."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from luthier.jobs.directory import CheckpointRef
from luthier.modeling.engines import why_not_fast
from luthier.modeling.load import LoadedBase
from luthier.training import export, machine
from luthier.training.checkpoints import Checkpoints, fetch_checkpoint, used
from luthier.training.checks import check_adapter
from luthier.training.endings import see_endings
from luthier.training.evaluate import HeldOut, Sides, compare, summary
from luthier.training.failures import AttemptFailed
from luthier.training.fitting import fit, load_once
from luthier.training.forgetting import forgetting
from luthier.training.gang import Work
from luthier.training.judging import seat_judges
from luthier.training.loop import Loop, Material
from luthier.training.method import Engine, Method
from luthier.training.milestones import Desk
from luthier.training.plan import Fixed, Plan, plan_of, resolved
from luthier.training.reading import Data, questions_from, read_data
from luthier.training.run import Run, fetch_base_of
from luthier.training.state import TrainState, resumed_state

_PROBES = 4


@dataclass(frozen=True)
class Trained:
    """An adapter on its base, and what its run goes by."""

    engine: Engine
    plan: Plan
    state: TrainState


def train_on_base(run: Run, finish: Callable[[Run, Path, Data, Trained], None]) -> Work[None]:
    """Train an adapter. finish: what follows the last step."""
    base = fetch_base_of(run)
    data = read_data(run, base)
    made = make(run, base, data)
    state = made.state
    run.journal.phase("training", "Training begins." if state.step == 0 else f"Training goes on after step {state.step}.")
    checkpoints = Checkpoints(run.attempt, run.workspace)
    material = Material(run.spec, made.plan, made.engine, data.method, data.validation)
    loop = Loop(material, Desk(run.journal, checkpoints, run.watch, ranks=run.ranks), state, run.resumed)
    yield from loop.run()
    if run.ranks.leads:
        finish(run, base, data, made)


def make(run: Run, base: Path, data: Data) -> Trained:
    """The base in memory with the run's adapter, as it is now, and the run's plan. From here on the job is running."""
    state = resumed_state(run.resumed)
    if run.spec.train.deterministic:
        machine.be_deterministic()
    run.watch.check()
    run.journal.phase("loading base", "Loading the base model.")
    disable_progress_bar()  # of transformers: job.log has lines of ours
    loaded = load_once(run.loaded, run.spec, base, state)
    seat_judges(run, data)
    engine, fixed = fit(run.spec, loaded, data.method, state)
    fixed = run.ranks.led(partial(replace, fixed))
    engine.recompute = fixed.recompute
    if run.resumed is not None:
        _take_over(engine, data.method, *run.resumed)
    torch.set_num_threads(fixed.threads)
    plan = plan_of(run.spec, fixed, len(data.method), data.max_seq_len, data.hidden)
    state = state or TrainState(fixed)
    run.journal.facts(total_steps=plan.total_steps, device=fixed.device, step=state.step)
    held = fixed.precision if loaded.quantization == "none" else f"{fixed.precision}, its base in {loaded.quantization}"
    how = f"on {fixed.device} in {held}, {fixed.engine} engine"
    run.journal.state("running", f"{plan.total_steps} steps of {plan.rows_per_step} rows {how}.")
    say_why_plain(run, loaded, fixed)
    return Trained(engine, plan, state)


def _take_over(engine: Engine, method: Method, ref: CheckpointRef, folder: Path) -> None:
    """Raises: AttemptFailed for an adapter that is none of this run's, or that is broken."""
    with used(ref):
        engine.load_adapter(folder, head=method.head)
    weights = [*engine.parameters.values(), *([] if method.head is None else [method.head])]
    if not all(bool(weight.isfinite().all()) for weight in weights):
        raise AttemptFailed(
            "diverged",
            f"The adapter in the checkpoint of step {ref.step} holds numbers that are not finite.",
            "Submit the run again with a lower `train.learning_rate`; this checkpoint cannot be mended.",
        )


def say_why_plain(run: Run, loaded: LoadedBase, fixed: Fixed) -> None:
    reason = why_not_fast(loaded) if fixed.engine == "plain" else None
    if reason is not None:
        run.journal.event("warning", f"Trains on the plain engine, slower and as right: of the fast one, {reason}.")


# -- after the last step -----------------------------------------------------------------------------------------------


def finish_adapter(run: Run, base: Path, data: Data, trained: Trained) -> None:
    run.watch.check()
    run.journal.phase("checking", "Checking the adapter.")
    take_best(run, data, trained)
    folder = run.workspace / "final_model"
    probed = (data.validation or data.method).rows
    probes = [probed[index].ids for index in range(min(_PROBES, len(probed)))]
    source = run.source
    save = partial(trained.engine.save_adapter, base_model=source.id, revision=source.revision)
    checks = check_adapter(trained.engine, probes, save, folder)
    if checks.sound:
        longest = data.method.rows.longest_answer
        checks = replace(checks, endings=see_endings(trained.engine, probed, longest, data.renderer.stop_ids))
        if run.spec.evaluate.automatic:
            checks = replace(checks, forgetting=forgetting(Sides(trained.engine), data.renderer))
    export.publish_json(run.attempt, "checks.json", checks.as_json())
    checks.require()
    export.copy_tokenizer(base, folder)
    if run.spec.evaluate.automatic:
        _evaluate(run, data, trained, checks.forgetting)
    publish(run, folder, trained, {"rendering_sha256": data.renderer.fingerprint})


def publish(run: Run, folder: Path, trained: Trained, more: Mapping[str, Any]) -> None:
    """The model in `folder`, with the settings and the numbers of its run. more: what else `metrics.json` tells."""
    run.watch.check()
    run.journal.phase("saving", "Publishing the results.")
    export.publish_model(run.attempt, folder)
    export.publish_config(run.attempt, resolved(run.spec, trained.plan))
    peak = machine.peak_bytes(trained.plan.fixed.device)
    run.journal.facts(peak_memory_bytes=peak)
    metrics = export.metrics_of(trained.state, trained.plan.steps_per_epoch, peak)
    export.publish_json(run.attempt, "metrics.json", {**metrics, **more})


def take_best(run: Run, data: Data, trained: Trained) -> None:
    """The adapter with the lowest validation loss becomes the result, where that was measured."""
    best, last = trained.state.best_checkpoint, trained.state.step
    if best is None or best.step == last:
        return
    ref = CheckpointRef(attempt=best.attempt, step=best.step, sha256=best.sha256)
    folder = run.workspace / "best"
    if fetch_checkpoint(run.attempt.job, ref, folder):
        _take_over(trained.engine, data.method, ref, folder)
        run.journal.event("checkpoint", f"The adapter of step {best.step} is the result: its validation loss was the lowest.")
    else:
        message = f"The checkpoint of step {best.step}, the best, no longer verifies: the result is that of step {last}."
        run.journal.event("warning", message, level="warning")


def _evaluate(run: Run, data: Data, trained: Trained, forgot: Mapping[str, Any] | None) -> None:
    if data.validation is None:
        return
    run.journal.phase("evaluating", "Comparing the tuned model with its base.")
    questions = questions_from(run, run.workspace / "validation.jsonl", data.renderer, data.context)
    held_out = HeldOut(data.validation, questions, trained.plan.limits)
    found = compare(Sides(trained.engine), data.renderer, held_out, run.spec.evaluate, run.progress)
    publish_evaluation(run, {**found, "forgetting": forgot})


def publish_evaluation(run: Run, evaluation: Mapping[str, Any]) -> None:
    """Write `results/evaluation.json`, and tell its numbers."""
    export.publish_json(run.attempt, "evaluation.json", evaluation)
    told = {name: evaluation[name] for name in ("base", "tuned", "against", "rows") if name in evaluation}
    run.journal.event("eval", summary(evaluation), told)
