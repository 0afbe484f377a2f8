"""The kind export: a model's files as others load them, and the proof that what they load answers as the model does.

adapter: PEFT's folder as it was registered. merged: the base's weights with the adapter's update added, and the tokenizer.
gguf: those as one file, with a Modelfile for Ollama. All are loaded again by transformers (and PEFT, where it is installed), and
answer the same questions.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from luthier.datasets.rendering import Renderer
from luthier.jobs.spec import ExportSpec
from luthier.modeling import adapter_files
from luthier.modeling.base_config import check_config
from luthier.modeling.load import LoadedBase, load_base
from luthier.modeling.lora import merge
from luthier.modeling.types import Sampling
from luthier.training import export, machine
from luthier.training.attempt import Run, fetch_base_of
from luthier.training.checkpoints import sha256_of
from luthier.training.evaluating import carried
from luthier.training.failures import AttemptFailed
from luthier.training.gang import Work
from luthier.training.materials import fetch_model, renderer_of

FOLDER = "export"
_QUESTIONS = ("Hello!", "What is 2 + 2?", "Write one sentence about the sea.", "List three colours as JSON.")
_ANSWER_TOKENS = 24
_SAME: dict[object, float] = {
    torch.float32: 1e-3,
    torch.bfloat16: 0.06,
    torch.float16: 0.02,
    "f32": 1e-3,
    "f16": 0.02,
    "q8_0": 0.08,
}
"""Largest change of a logit, relative to the largest logit, that counts as the same: what is stored was rounded once more."""


@dataclass(frozen=True)
class Answered:
    """A question with its answer, and what the model thought at each token of it."""

    ids: Sequence[int]
    start: int
    """Where the answer begins."""
    logits_TV: Tensor


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
    adapter, made = run.workspace / "adapter", run.workspace / FOLDER
    fetch_model(
        run.attempt.job, run.spec.model or "", run.spec.sources.model if run.spec.sources else None, run.fetch_url, adapter
    )
    run.watch.check()
    disable_progress_bar()
    dtype = _dtype_of(base, wanted)
    run.journal.phase("loading base", "Loading the base model.")
    loaded = _base_in(base, dtype)
    torch.set_num_threads(machine.threads_for(loaded.n_params))
    run.journal.facts(device="cpu")
    run.journal.state("running", f"{wanted.format} of {run.spec.base_model} on cpu.")
    answered = _answers(loaded, adapter, renderer_of(base, run.source), run.spec.seed)
    run.watch.check()
    run.journal.phase("exporting", "Writing the files.")
    stored: object = dtype
    if wanted.format == "adapter":
        shutil.copytree(adapter, made)
    else:
        cast(Any, _merged(loaded, adapter)).to(dtype).save_pretrained(made)
        export.copy_tokenizer(base, made)
    del loaded  # the check loads what was written, and memory may not hold both
    if wanted.format == "gguf":
        stored = _to_gguf(run, made, wanted)
    run.watch.check()
    run.journal.phase("checking", "Loading the files again.")
    checks = _check(made, base, stored, answered)
    run.watch.check()
    run.journal.phase("saving", "Publishing the files.")
    _publish(run, made, checks | {"precision": str(stored).removeprefix("torch.")})


def _to_gguf(run: Run, made: Path, wanted: ExportSpec) -> str:
    """Put one GGUF file and a Modelfile in the place of merged weights. Returns the precision of its matrices.

    Raises: AttemptFailed for a model that the format, or our writer, has no place for.
    """
    from luthier.training import gguf_files

    precision = cast(gguf_files.Precision, "f16" if wanted.precision == "base" else wanted.precision)
    merged = made.with_name("merged")
    made.rename(merged)
    made.mkdir()
    try:
        gguf_files.write(merged, made / gguf_files.FILE, run.spec.model or "", precision)
    except gguf_files.NotGguf as error:
        raise AttemptFailed("bad_data", f"This model cannot become a GGUF file: {error}.", "Export it as `merged`.") from None
    stops = gguf_files.texts_of(merged, renderer_of(merged, run.source).stop_ids)
    (made / gguf_files.MODELFILE).write_text(gguf_files.modelfile(stops), "utf-8")
    shutil.rmtree(merged)
    return precision


def _dtype_of(base: Path, wanted: ExportSpec) -> torch.dtype:
    """Of the merged weights; as the base's files have them, unless another one was asked for."""
    if wanted.format == "gguf":
        return torch.float32  # rounded once, when the file is written
    if wanted.precision != "base":
        return torch.bfloat16 if wanted.precision == "bf16" else torch.float32
    config = json.loads((base / "config.json").read_text("utf-8"))
    text = config.get("text_config") or config
    name = config.get("dtype") or config.get("torch_dtype") or text.get("dtype") or text.get("torch_dtype")
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(str(name), torch.float32)


def _answers(base: LoadedBase, adapter: Path, renderer: Renderer, seed: int) -> list[Answered]:
    """The most likely answers of the model as it is trained and served."""
    engine = carried(base, adapter, seed)
    prompts = [renderer.prompt([{"role": "user", "content": question}]) for question in _QUESTIONS]
    most = min(_ANSWER_TOKENS, base.context - max(len(prompt) for prompt in prompts))
    completions = engine.generate(prompts, Sampling(max_new_tokens=max(1, most), stop_ids=renderer.stop_ids))
    found: list[Answered] = []
    for prompt, completion in zip(prompts, completions, strict=True):
        ids = [*prompt, *completion.token_ids]
        found.append(Answered(ids, len(prompt), engine.logits(ids)[len(prompt) - 1 :]))
    base.linears.carry(None)
    return found


def _merged(base: LoadedBase, adapter: Path) -> nn.Module:
    merge(base.linears, adapter_files.load(base.linears, adapter, base.device))
    return base.model


def _check(folder: Path, base: Path, stored: object, answered: Sequence[Answered]) -> dict[str, Any]:
    """What was written, loaded as others would, on the same questions. Raises: AttemptFailed (`export_differs`)."""
    try:
        model, loader = _loaded(folder, base, stored if isinstance(stored, torch.dtype) else torch.float32)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _differs(f"The exported files do not load again ({type(error).__name__}).") from error
    gaps: list[float] = []
    for each in answered:
        with torch.no_grad():
            logits_TV = cast(Any, model)(input_ids=torch.tensor([list(each.ids)])).logits[0].float()[each.start - 1 :]
        allowed = _SAME[stored] * float(each.logits_TV.abs().max())
        gap = float((logits_TV - each.logits_TV).abs().max())
        gaps.append(gap)
        if not gap <= allowed:  # written so that NaN does not pass
            raise _differs(f"A logit of the exported files is off by {gap:.2g}, and at most {allowed:.2g} is rounding.")
        # A token that was the likeliest must be so again; only one that another one equals but for rounding may change.
        answer_T = torch.tensor(each.ids[each.start :])
        likeliest = logits_TV[: len(answer_T)].max(-1).values
        given = logits_TV[: len(answer_T)].gather(-1, answer_T[:, None])[:, 0]
        if bool((likeliest - given > 2 * allowed).any()):
            raise _differs("The exported files give another answer than the model.")
    tokens = sum(len(each.ids) - each.start for each in answered)
    return {"loads_again": True, "same_answers": True, "max_logit_gap": max(gaps), "tokens_compared": tokens, "loaded_by": loader}


def _loaded(folder: Path, base: Path, dtype: torch.dtype) -> tuple[nn.Module, str]:
    """The exported model as its next owner has it, and by what it was loaded."""
    load = cast(Any, AutoModelForCausalLM).from_pretrained
    options: dict[str, Any] = {"dtype": dtype, "local_files_only": True, "trust_remote_code": False, "use_safetensors": True}
    by = f"transformers {version('transformers')}"
    if (folder / "model.gguf").exists():
        return load(folder, gguf_file="model.gguf", dtype=dtype, local_files_only=True).eval(), by
    if not (folder / adapter_files.CONFIG).exists():
        check_config(folder)
        return load(folder, **options).eval(), by
    if find_spec("peft") is not None:
        from peft import PeftModel

        peft = cast(Any, PeftModel).from_pretrained(load(base, **options), folder, local_files_only=True)
        return peft.eval(), f"peft {version('peft')}"
    return _merged(_base_in(base, dtype), folder), by


def _base_in(base: Path, dtype: torch.dtype) -> LoadedBase:
    # Not one that the process keeps: merging changes its weights.
    return load_base(base, "cpu", "bf16" if dtype == torch.bfloat16 else "fp32")


def _differs(message: str) -> AttemptFailed:
    return AttemptFailed(
        "export_differs",
        message,
        "Nothing was published. Export with `precision: fp32`, or as an adapter; `model download` has the trained files.",
    )


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
