"""The kind export: a model's files as others load them, and the proof that what they load answers as the model does.

adapter: PEFT's folder as it was registered. merged: the base's weights with the adapter's update added, and the tokenizer.
gguf: those as one file, with a Modelfile for Ollama. gguf-adapter: the adapter alone, for llama.cpp beside the base's own file.
`writing.py` makes them, `reloading.py` loads them again, `replaying.py` says whether they are the same model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from luthier.datasets.learning import READS
from luthier.datasets.rendering import Renderer
from luthier.modeling.load import load_base
from luthier.training import export, machine, replaying
from luthier.training.checkpoints import sha256_of
from luthier.training.evaluate import Room, questions_of
from luthier.training.evaluating import carried
from luthier.training.failures import AttemptFailed
from luthier.training.gang import Work
from luthier.training.materials import fetch_data, fetch_model, renderer_of, rows_of_file
from luthier.training.reloading import loaded_again
from luthier.training.replaying import TOLERANCES, Answered, Spoken
from luthier.training.run import Run, fetch_base_of
from luthier.training.writing import Export, check_can_write, dtype_of, write

FOLDER = "export"
_QUESTIONS = ("Hello!", "What is 2 + 2?", "Write one sentence about the sea.", "List three colours as JSON.")
_HELD_OUT = 8
"""Prompts of the rows that the model was measured on: what it was made for, where the questions above are for any model."""


def export_model(run: Run) -> Work[None]:
    """The work of a run of the kind `export`. It asks for no pass: nothing goes back through the model.

    Raises: AttemptFailed (`artifact_corrupt` for a model that is not the one that was named, `export_differs` where the
    files do not answer as the model does), Stopping, Fenced.
    """
    yield from ()
    wanted = run.spec.export
    if wanted is None:
        raise AttemptFailed("bad_data", "The run says no format.", "Give it a section `export` with a `format`.")
    base = fetch_base_of(run)
    check_can_write(wanted)
    adapter, made = run.workspace / "adapter", run.workspace / FOLDER
    fetch_model(
        run.attempt.job, run.spec.model or "", run.spec.sources.model if run.spec.sources else None, run.fetch_url, adapter
    )
    run.watch.check()
    disable_progress_bar()
    dtype = dtype_of(base, wanted)
    run.journal.phase("loading base", "Loading the base model.")
    # Not one that the process keeps: merging changes its weights.
    loaded = load_base(base, "cpu", "bf16" if dtype == torch.bfloat16 else "fp32")
    torch.set_num_threads(machine.threads_for(loaded.n_params))
    run.journal.facts(device="cpu")
    run.journal.state("running", f"{wanted.format} of {run.spec.base_model} on cpu.")
    asked = _asked(run, base, loaded.context)
    answered = replaying.answers_of(carried(loaded, adapter, run.spec.seed), asked.prompts, asked.stop_ids, asked.most_tokens)
    loaded.linears.carry(None)
    run.watch.check()
    run.journal.phase("exporting", "Writing the files.")
    exported = write(loaded, Export(made, base, wanted, dtype), adapter, run.spec.model or "", renderer_of(base, run.source))
    del loaded  # the check loads what was written, and memory may not hold both
    run.watch.check()
    run.journal.phase("checking", "Loading the files again.")
    checks = _replayed(exported, answered, asked.spoken)
    run.watch.check()
    run.journal.phase("saving", "Publishing the files.")
    _publish(run, made, checks | {"precision": exported.stored, "prompts": len(answered), "held_out_prompts": asked.held_out})


def _replayed(exported: Export, answered: Sequence[Answered], spoken: Spoken) -> dict[str, Any]:
    """What was written, loaded as others would, on the same questions. Raises: AttemptFailed (`export_differs`)."""
    try:
        loaded = loaded_again(exported, most_tokens=max(len(each.ids) for each in answered))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _differs(f"The exported files do not load again ({type(error).__name__}).") from error
    allowed = TOLERANCES[exported.stored]
    try:
        found = replaying.measure(loaded, answered, spoken, allowed)
    finally:
        loaded.close()
    wrong = replaying.verdict(found, allowed)
    if wrong is not None:
        raise _differs(wrong)
    return replaying.as_checks(found, allowed, loaded.by)


def _differs(message: str) -> AttemptFailed:
    return AttemptFailed(
        "export_differs",
        message,
        "Nothing was published. Export with a higher `precision`, or as an adapter; `model download` has the trained files.",
    )


@dataclass(frozen=True)
class _Asked:
    """What is asked before and after."""

    prompts: Sequence[Sequence[int]]
    held_out: int
    """How many of them are rows that the model did not learn from."""
    spoken: Spoken
    stop_ids: frozenset[int]
    most_tokens: int


def _asked(run: Run, base: Path, context: int) -> _Asked:
    renderer = renderer_of(base, run.source)
    chats = [renderer.prompt([{"role": "user", "content": question}]) for question in _QUESTIONS]
    rows = [prompt for prompt in _held_out(run, renderer, context) if len(prompt) < context]
    texts = [("".join(renderer.spelled(ids)), ids) for ids in chats]
    template = base / "chat_template.jinja"
    most = min(replaying.ANSWER_TOKENS, context - max(map(len, [*chats, *rows])))
    return _Asked(
        prompts=[*chats, *rows],
        held_out=len(rows),
        spoken=Spoken(texts, template.read_text("utf-8") if template.is_file() else None),
        stop_ids=renderer.stop_ids,
        most_tokens=max(1, most),
    )


def _held_out(run: Run, renderer: Renderer, context: int) -> list[Sequence[int]]:
    """Prompts of the model's own validation data; none where it had none, or where they have gone since."""
    source = run.spec.sources.validation_dataset if run.spec.sources else None
    if source is None:
        return []
    path = run.workspace / "held-out"
    try:
        fetch_data(run.attempt.job, source.id, source, run.fetch_url, path)
    except AttemptFailed:  # an export needs no data: the manifest says that none was asked
        return []
    rows = rows_of_file(path, READS[run.spec.method], lambda _: run.watch.check())
    return [question.prompt_ids for question in questions_of(rows, renderer, _HELD_OUT, Room(context, replaying.ANSWER_TOKENS))]


def _publish(run: Run, folder: Path, checks: dict[str, Any]) -> None:
    """Files first, `results/export.json` last: who finds it finds all that it names."""
    files: list[dict[str, Any]] = []
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    for place, path in enumerate(paths):
        run.progress(place / len(paths))
        run.attempt.storage.put_file(run.attempt.name("results", FOLDER, path.name), path)
        files.append({"name": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)})
    size = sum(file["bytes"] for file in files)
    run.journal.facts(peak_memory_bytes=machine.peak_bytes("cpu"))
    wanted = run.spec.export
    manifest = {
        "model": run.spec.model,
        "name": run.spec.sources.model.name if run.spec.sources and run.spec.sources.model else None,
        "base_model": run.spec.base_model,
        "base_revision": run.source.revision,
        "format": wanted.format if wanted else None,
        "checks": checks,
        "files": files,
    }
    export.publish_json(run.attempt, "export.json", manifest)
    told = f"{len(files)} files with {size / 1e6:,.1f} MB; loaded again by {checks['loaded_by']}, same answers."
    run.journal.event("eval", told, {key: manifest[key] for key in ("format", "checks", "files")})
