"""One attempt from the first word to the last: prepare, train, check, evaluate, publish."""

from __future__ import annotations

import json
import shutil
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from luthier.datasets.formats import Labelled
from luthier.datasets.learning import READS
from luthier.datasets.rendering import Renderer
from luthier.errors import BaseUnavailable, LuthierError, StorageFull
from luthier.jobs.directory import EXIT_FENCED, AttemptDirectory, AttemptState, CheckpointRef, Failure
from luthier.jobs.spec import RunSpec
from luthier.modeling.base_config import check_config
from luthier.modeling.engines import why_not_fast
from luthier.modeling.fetch import fetch_base
from luthier.modeling.load import LoadedBase
from luthier.seams import BadName
from luthier.training import export, machine
from luthier.training.checkpoints import Checkpoints, fetch_checkpoint, used
from luthier.training.checks import check_adapter
from luthier.training.endings import see_endings
from luthier.training.evaluate import HeldOut, Question, Room, Sides, compare, questions_of, summary
from luthier.training.failures import AttemptFailed, Fenced, Stopping, failure_of
from luthier.training.fitting import LoadedBases, fit, load_once
from luthier.training.forgetting import forgetting
from luthier.training.gang import Work
from luthier.training.journal import Journal
from luthier.training.loop import Loop, Material
from luthier.training.materials import FetchUrl, base_source, fetch_data, renderer_of, rows_of_file
from luthier.training.method import Engine, Method
from luthier.training.methods.opening import Lengths, Make, open_method
from luthier.training.milestones import Desk
from luthier.training.plan import Fixed, Plan, plan_of, resolved
from luthier.training.ranks import ALONE, Ranks
from luthier.training.state import TrainState, resumed_state
from luthier.training.token_cache import Kept, TokenCache, key_of
from luthier.training.watch import Watch
from luthier.values import BaseSource, Source

EXIT_NO_LAST_WORD = 1
_PROBES = 4
_DONE = {
    "train": "Done: the adapter is finite, changes the answers, and loads again.",
    "classifier": "Done: the model is finite, and loads again to the same answers.",
    "fit_test": "Done: measured, and nothing was trained.",
    "evaluate": "Done: measured; the model's card has the numbers.",
    "export": "Done: the files are whole, load again, and answer as the model does.",
}
"""By kind, and whether it is a classifier."""


@dataclass(frozen=True)
class Run:
    """What an attempt works with."""

    spec: RunSpec
    attempt: AttemptDirectory
    watch: Watch
    journal: Journal
    workspace: Path
    bases: Path
    fetch_url: FetchUrl
    loaded: LoadedBases
    resumed: tuple[CheckpointRef, Path] | None
    ranks: Ranks = ALONE
    tokens: TokenCache | None = None
    """Where tokenised rows are kept for later runs."""

    def progress(self, done: float) -> None:
        """Tell how far a phase is, and leave if that is wanted. Raises: Stopping, Fenced."""
        self.watch.check()
        self.journal.progress(done)

    @property
    def source(self) -> BaseSource:
        return base_source(self.spec)


def run_attempt(run: Run, work: Callable[[Run], Work[None]] | None = None) -> Work[int]:
    """Do the work and leave the last word. Returns the exit status of the attempt."""
    try:
        yield from (work or _work_of(run.spec))(run)
        run.watch.close()
        run.journal.state("succeeded", _DONE["classifier" if run.spec.method == "classifier" else run.spec.kind])
    except Fenced:
        return EXIT_FENCED
    except Stopping as stopping:
        return _last_word(run, stopping.wish, f"Saved and {stopping.wish} at step {run.journal.status.step}.")
    except Exception as error:  # noqa: BLE001  # the edge of the process: whatever happened, its owner is told
        failure = failure_of(error)
        if not isinstance(error, (AttemptFailed, LuthierError)):
            sys.stderr.write(_where(error))
        return _last_word(run, "failed", f"{failure.message} {failure.hint}", failure)
    return 0


def _work_of(spec: RunSpec) -> Callable[[Run], Work[None]]:
    if spec.kind == "fit_test":
        from luthier.training.fit_test import measure_fit

        return measure_fit
    if spec.kind == "evaluate":
        from luthier.training.evaluating import evaluate_model

        return evaluate_model
    if spec.kind == "export":
        from luthier.training.exporting import export_model

        return export_model
    if spec.method != "classifier":
        return partial(train_on_base, finish=_finish)
    if spec.has_base:
        from luthier.training.classifiers.texts import finish

        return partial(train_on_base, finish=finish)
    from luthier.training.classifiers.work import classify

    return classify


def _where(error: Exception) -> str:
    """For job.log: what went wrong and where, without the machine's paths."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"  {Path(frame.filename).name}:{frame.lineno} in {frame.name}" for frame in frames]
    return "\n".join([*lines, f"{type(error).__name__}: {str(error)[:500]}", ""])


def _last_word(run: Run, state: AttemptState, message: str, failure: Failure | None = None) -> int:
    run.watch.close()
    if failure is not None and failure.code == "storage":
        shutil.rmtree(run.workspace, ignore_errors=True)  # on a full disk this is the room for what follows
    try:
        run.journal.state(state, message, failure)
    except Fenced:
        return EXIT_FENCED
    except (OSError, StorageFull, BadName):
        return EXIT_NO_LAST_WORD
    return 0


@dataclass(frozen=True)
class Data:
    """Tokenised rows, and what is asked at the end."""

    renderer: Renderer
    method: Method
    validation: Method | None
    max_seq_len: int
    context: int
    hidden: int


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


# -- before the first step ---------------------------------------------------------------------------------------------


def fetch_base_of(run: Run) -> Path:
    source = run.source
    run.journal.phase("fetching base", f"Fetching the base model {source.id}.")
    folder = run.ranks.led(lambda: fetch_base((source.id, source.revision, source.url), run.bases, run.progress))
    link = run.workspace / "base"
    link.symlink_to(folder, target_is_directory=True)
    return link


def read_data(run: Run, base: Path) -> Data:
    spec, sources = run.spec, run.spec.sources
    run.journal.phase("reading data", "Reading and tokenising the data.")
    context, hidden = widths_of(base)
    max_seq_len = min(spec.train.max_seq_len or context, context)
    renderer = renderer_of(base, run.source)
    tokenise = partial(tokenised, run, renderer, Lengths(max_seq_len, context, hidden))
    train = run.workspace / "train.jsonl"
    pin = sources.dataset if sources else None
    fetch_data(run.attempt.job, spec.dataset, pin, run.fetch_url, train)
    method, validation = tokenise((train, pin), "training"), None
    if spec.validation_dataset is not None:
        held_out = run.workspace / "validation.jsonl"
        pin = sources.validation_dataset if sources else None
        fetch_data(run.attempt.job, spec.validation_dataset, pin, run.fetch_url, held_out)
        validation = tokenise((held_out, pin), "validation")
    for remark in method.measured_on(validation):
        run.journal.event("warning", remark, level="warning")
    return Data(renderer, method, validation, max_seq_len, context, hidden)


@dataclass
class _Known:
    """The tokens of a data file as an earlier run kept them, or made now. Of data without a pin none are kept."""

    run: Run
    renderer: Renderer
    lengths: Lengths
    pin: Source | None
    before: bool = False
    """Whether an earlier run kept them."""

    def __call__(self, make: Make) -> Kept:
        if self.run.tokens is None or self.pin is None:
            return make(self.run.workspace)
        options = (self.run.spec.method, self.lengths.max_seq_len)
        kept, self.before = self.run.tokens.get(
            key_of(self.pin.sha256, self.renderer.fingerprint, options), partial(make, self.run.workspace)
        )
        return kept


def tokenised(run: Run, renderer: Renderer, lengths: Lengths, data: tuple[Path, Source | None], name: str) -> Method:
    """The rows of a data file for the method of the run, and a word about them. Raises: AttemptFailed (`bad_data`)."""
    path, pin = data
    kind = Labelled if run.spec.method == "classifier" else READS[run.spec.method]
    found = rows_of_file(path, kind, run.progress)
    known = _Known(run, renderer, lengths, pin)
    method = open_method(run.spec, found, renderer, lengths, known)
    rows, max_seq_len = method.rows, lengths.max_seq_len
    facts = {
        "rows": len(method),
        "tokens": rows.tokens,
        "loss_tokens": rows.loss_tokens,
        "truncated": rows.truncated,
        "dropped": rows.dropped,
        "from_cache": known.before,
    }
    how = ", tokenised by an earlier run" if known.before else ""
    message = f"{len(method)} {name} rows with {rows.tokens} tokens, {rows.loss_tokens} of them to learn{how}."
    run.journal.event("phase", message, {"phase": "reading data", "dataset": name, **facts})
    if rows.truncated or rows.dropped:
        lost = (
            f"{rows.truncated} {name} rows were cut at {max_seq_len} tokens, {rows.dropped} had no answer left and are not used."
        )
        run.journal.event("warning", lost, facts, level="warning")
    return method


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


def widths_of(base: Path) -> tuple[int, int]:
    """Context and hidden size. Raises: ModelNotAllowed; BaseUnavailable for a config that says neither."""
    check_config(base)
    try:
        config = json.loads((base / "config.json").read_text("utf-8"))
        text = config.get("text_config", config)
        return int(text.get("max_position_embeddings", 2048)), int(text.get("hidden_size", 1024))
    except (ValueError, TypeError, AttributeError) as error:
        raise BaseUnavailable(
            "config.json of this base model does not say how wide it is.", hint="Fetch the base again, or use another one."
        ) from error


def say_why_plain(run: Run, loaded: LoadedBase, fixed: Fixed) -> None:
    reason = why_not_fast(loaded) if fixed.engine == "plain" else None
    if reason is not None:
        run.journal.event("warning", f"Trains on the plain engine, slower and as right: of the fast one, {reason}.")


# -- after the last step -----------------------------------------------------------------------------------------------


def _finish(run: Run, base: Path, data: Data, trained: Trained) -> None:
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
    run.watch.check()
    run.journal.phase("saving", "Publishing the results.")
    export.publish_model(run.attempt, folder)
    export.publish_config(run.attempt, resolved(run.spec, trained.plan))
    peak = machine.peak_bytes(trained.plan.fixed.device)
    run.journal.facts(peak_memory_bytes=peak)
    metrics = export.metrics_of(trained.state, trained.plan.steps_per_epoch, peak)
    export.publish_json(run.attempt, "metrics.json", {**metrics, "rendering_sha256": data.renderer.fingerprint})


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


def questions_from(run: Run, path: Path, renderer: Renderer, context: int) -> Sequence[Question]:
    """The first rows of a data file, to be answered."""
    rows = rows_of_file(path, READS[run.spec.method], lambda _: run.watch.check())
    room = Room(context, run.spec.grpo.max_new_tokens if run.spec.grpo else 0)
    return questions_of(rows, renderer, run.spec.evaluate.rows, room)
