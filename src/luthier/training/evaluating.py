"""The kind evaluate: a model of the registry, its bare base, and maybe another model, all on the same rows. Nothing learns.

There is nothing to go on from either: an attempt that ended early is begun again from its start.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from luthier.datasets.packing import PassLimits
from luthier.jobs.spec import RunSpec
from luthier.modeling import adapter_files
from luthier.modeling.engines import open_engine
from luthier.modeling.load import LoadedBase
from luthier.modeling.plain import PlainEngine
from luthier.training import machine
from luthier.training.evaluate import HeldOut, Sides, compare
from luthier.training.failures import AttemptFailed
from luthier.training.fitting import fixed_of, load_once
from luthier.training.forgetting import forgetting
from luthier.training.gang import Work
from luthier.training.materials import fetch_data, fetch_model, renderer_of
from luthier.training.method import Method
from luthier.training.methods.opening import Lengths
from luthier.training.reading import questions_from, tokenised, widths_of
from luthier.training.run import Run, fetch_base_of
from luthier.training.tuning import publish_evaluation, say_why_plain


def evaluate_model(run: Run) -> Work[None]:
    """The work of a run of the kind `evaluate`. It asks for no pass: nothing goes back through the model.

    Raises: AttemptFailed (`artifact_corrupt` for a model that is not the one that was named), Stopping, Fenced.
    """
    yield from ()
    base = fetch_base_of(run)
    run.journal.phase("reading data", "Reading and tokenising the data.")
    path, context = run.workspace / "held_out.jsonl", widths_of(base)[0]
    pin = run.spec.sources.dataset if run.spec.sources else None
    fetch_data(run.attempt.job, run.spec.dataset, pin, run.fetch_url, path)
    renderer = renderer_of(base, run.source)
    lengths = Lengths(min(run.spec.train.max_seq_len or context, context), context)
    method = tokenised(run, renderer, lengths, (path, pin), "held-out")
    sides, limits = _sides(run, base, method)
    run.journal.phase("evaluating", "Comparing the tuned model with its base.")
    questions = questions_from(run, path, renderer, context)
    found = compare(sides, renderer, HeldOut(method, questions, limits), run.spec.evaluate, run.progress)
    publish_evaluation(run, {**found, "forgetting": forgetting(sides, renderer)})
    run.journal.facts(peak_memory_bytes=machine.peak_bytes(machine.resolve_device(run.spec.train.device)))


def _sides(run: Run, base: Path, method: Method) -> tuple[Sides, PassLimits]:
    """The models in memory, on one base; and how much goes through it at once. From here on the job is running."""
    spec = run.spec
    if spec.train.deterministic:
        machine.be_deterministic()
    run.journal.phase("loading base", "Loading the base model.")
    disable_progress_bar()
    loaded = load_once(run.loaded, spec, base, None)
    tuned = _engine(run, loaded, "model")
    against = _engine(run, loaded, "against") if spec.against is not None else None
    fixed = fixed_of(spec, tuned, method)
    torch.set_num_threads(fixed.threads)
    run.journal.facts(device=fixed.device)
    run.journal.state("running", f"{len(method)} rows on {fixed.device} in {fixed.precision}, {fixed.engine} engine.")
    say_why_plain(run, loaded, fixed)
    return Sides(tuned, against), PassLimits(fixed.batch_size if spec.train.packing else 1, fixed.tokens_per_pass)


def _engine(run: Run, base: LoadedBase, name: str) -> PlainEngine:
    folder = run.workspace / name
    pin = getattr(run.spec.sources, name, None)
    fetch_model(run.attempt.job, _named(run.spec, name), pin, run.fetch_url, folder)
    return carried(base, folder, run.spec.seed)


def _named(spec: RunSpec, name: str) -> str:
    return (spec.against if name == "against" else spec.model) or ""


def carried(base: LoadedBase, folder: Path, seed: int) -> PlainEngine:
    """The base with the adapter in `folder`. Raises: AttemptFailed for files that are no working adapter of this base."""
    try:
        engine = open_engine(base, adapter_files.load(base.linears, folder, base.device).shape, seed)
        engine.load_adapter(folder)
    except ValueError as error:
        raise AttemptFailed(
            "artifact_corrupt",
            f"The model's adapter cannot be used: {error}.",
            "Train it again, or use another version of the model.",
        ) from error
    if not all(bool(weight.isfinite().all()) for weight in engine.parameters.values()):
        raise AttemptFailed(
            "artifact_corrupt",
            "The model's adapter holds numbers that are not finite.",
            "Train it again with a lower `train.learning_rate`.",
        )
    return engine
