"""Decisions about models: what a card says, and what a reference means. What goes to Production: `gate_rules.py`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luthier import ids
from luthier.errors import InUse, ModelNotReady
from luthier.jobs.spec import RunSpec
from luthier.jobs.types import Job, JobState
from luthier.registry.types import Evaluation, Lineage, Stage
from luthier.values import ModelFile

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
"""Without these there is no model."""
_CLASSIFIER_FILES = tuple(("classifier.json", *weights) for weights in (("model.safetensors",), ("model.skops",), ADAPTER_FILES))
"""Those of a PyTorch module, of a scikit-learn estimator, and of an adapter with a head of classes."""
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_TUNED = re.compile(r"ft:[^:]+:[^:]*:(?P<suffix>.*):(?P<tail>[0-9a-z]{8})", re.ASCII | re.DOTALL)
"""`ft:<base>:<tenant>:<suffix>:<last 8 of the id>`: what counts is the suffix and the id; whose it is, the session knows."""
_NUMBERED = re.compile(r"(?P<name>.+)@(?P<number>[1-9][0-9]{0,8})", re.ASCII | re.DOTALL)

_MUCH_FORGOTTEN = 0.5
"""Nats a token: at the exponential of it, two thirds more words come into question at each place of a plain text."""


def missing_files(method: str, sizes: Mapping[str, int]) -> list[str]:
    """The files that a model of this method cannot be without, and that are not there or empty.

    >>> missing_files("sft", {"adapter_config.json": 9, "adapter_model.safetensors": 0})
    ['adapter_model.safetensors']
    """
    ways = _CLASSIFIER_FILES if method == "classifier" else (ADAPTER_FILES,)
    return min(([name for name in way if not sizes.get(name)] for way in ways), key=len)


def model_id_of(job_id: str) -> str:
    """The id of a job's model: the job's own 26 characters, so that registering twice after a crash is the same folder.

    >>> model_id_of("job_01h0000000000000000000000x")
    'model_01h0000000000000000000000x'
    """
    return f"{ids.MODEL}_{job_id.partition('_')[2]}"


def job_id_of(model_id: str) -> str:
    """The id of the job that a model of this id comes out of.

    >>> job_id_of("model_01h0000000000000000000000x")
    'job_01h0000000000000000000000x'
    """
    return f"{ids.JOB}_{model_id.partition('_')[2]}"


def name_of(spec: RunSpec, job_id: str) -> str:
    """The name that the user gave, else one of base and job."""
    return spec.name or f"{spec.base_model.rpartition('/')[2]}-{job_id[-8:]}"


@dataclass(frozen=True)
class Reference:
    """What a user typed to mean a model: an id, or a name with or without a number."""

    id: str | None = None
    name: str | None = None
    number: int | None = None
    tail: str | None = None
    """The last characters of the id of a version of that name, or of any name."""


def references(text: str) -> list[Reference]:
    """What `text` can mean, likeliest first: a name may itself end in `@3`.

    >>> references("intents@3")
    [Reference(id=None, name='intents', number=3, tail=None), Reference(id=None, name='intents@3', number=None, tail=None)]
    """
    if ids.is_id(text, ids.MODEL):
        return [Reference(id=text)]
    tuned = _TUNED.fullmatch(text)
    if tuned:
        return [Reference(name=tuned["suffix"] or None, tail=tuned["tail"])]
    match = _NUMBERED.fullmatch(text)
    numbered = [Reference(name=match["name"], number=int(match["number"]))] if match else []
    return [*numbered, Reference(name=text)]


def check_made(job: Job) -> None:
    """Let pass what has succeeded: its model is, or was, in the registry. Raises: ModelNotReady, with the job's state."""
    follow = f"See `tune status --job-id {job.id}`."
    match job.state:
        case JobState.SUCCEEDED:
            return
        case JobState.FAILED:
            code = f" ({job.error.code})" if job.error else ""
            raise ModelNotReady(f"There is no such model: its job failed{code}.", hint=job.error.hint if job.error else follow)
        case JobState.STOPPED | JobState.PAUSED:
            raise ModelNotReady(
                f"There is no such model yet: its job was {job.state.value} before its end.",
                hint=f"Go on with `tune resume --job-id {job.id}`.",
            )
        case JobState.CANCELLED:
            raise ModelNotReady("There is no such model: its job was cancelled.", hint="Submit the job again.")
        case _:
            raise ModelNotReady(
                f"There is no such model yet: its job is {job.state.value}.", hint=f"{follow} Ask again once it has succeeded."
            )


def check_deletable(number: int, stage: str, users: Sequence[str]) -> None:
    """Let pass what nobody needs. users: the jobs and deploys that are not done with it. Raises: InUse."""
    if stage == Stage.PRODUCTION:
        raise InUse(
            f"Version {number} of this name is in Production.",
            hint="Promote another version, or move this one to Archived, then delete it.",
        )
    if users:
        raise InUse(f"Still used by {', '.join(users)}.", hint="End what uses it first.")


def check_idle(number: int, *, alone: bool) -> None:
    """Let pass what answers nobody at this moment. Raises: InUse."""
    if not alone:
        raise InUse(
            f"Version {number} of this name is being served: an engine of this server answers with it at this moment.",
            hint="Wait until its answers have ended, or hang up, then delete it: while it is idle, deleting unloads it.",
        )


def task_of(spec: RunSpec) -> str:
    """What the model is for, unless its owner says something else."""
    return "classification" if spec.method == "classifier" else "text-generation"


def description_of(spec: RunSpec) -> str:
    """One sentence about how it came to be."""
    if spec.method == "classifier":
        return f"{spec.base_model}, a classifier trained on {spec.dataset}."
    held = "" if spec.train.quantization == "none" else f", its base held in {spec.train.quantization.removesuffix('bit')} bits"
    return f"{spec.base_model}, tuned by {spec.method} on {spec.dataset}{held}."


def tags_of(spec: RunSpec) -> tuple[str, ...]:
    """What it is found by, unless its owner says something else."""
    if not spec.has_base:
        return (spec.method, spec.base_model)
    held = () if spec.train.quantization == "none" else (spec.train.quantization,)
    return (spec.method, "lora", *held)


def warnings(spec: RunSpec, evaluation: Evaluation | None, checks: Mapping[str, Any]) -> tuple[str, ...]:
    """What a reader of the card must know first."""
    found: list[str] = []
    if spec.method == "classifier":
        found += _of_classifier(evaluation)
    elif evaluation is None:
        found.append("Not measured against its base: no validation_dataset was given.")
    else:
        base, tuned = evaluation.base, evaluation.tuned
        if not tuned.loss <= base.loss:
            found.append(
                f"Worse than its base: loss {tuned.loss:.4f} against {base.loss:.4f} on {evaluation.rows} held-out rows."
            )
        if tuned.exact_match is not None and base.exact_match is not None and tuned.exact_match < base.exact_match:
            found.append(f"Fewer exact answers than its base: {tuned.exact_match:.3f} against {base.exact_match:.3f}.")
    found += _forgotten(checks.get("forgetting") or {})
    endings: Mapping[str, Any] = checks.get("endings") or {}
    if endings.get("tuned") is False:
        told = f"none of {endings.get('asked')} answers ended within {endings.get('most_tokens')} tokens"
        found.append(f"Never stops by itself: {told}. It has not learned its end of turn yet.")
    if checks.get("same_after_reload") is False:
        found.append("Loaded again from its file it answered slightly differently.")
    return tuple(found)


def _forgotten(forgetting: Mapping[str, Any]) -> list[str]:
    base, tuned = forgetting.get("base", 0.0), forgetting.get("tuned", 0.0)
    if tuned - base <= _MUCH_FORGOTTEN:
        return []
    return [f"Has forgotten: a neutral text costs it {tuned:.2f} nats a token, its base {base:.2f}."]


def _of_classifier(evaluation: Evaluation | None) -> list[str]:
    if evaluation is None:
        return ["Not measured on held-out rows: no validation_dataset was given."]
    usual, own = (scores.metrics.get("accuracy", 0.0) for scores in (evaluation.base, evaluation.tuned))
    if own > usual:
        return []
    told = f"accuracy {own:.3f} against {usual:.3f} on {evaluation.rows} held-out rows"
    return [f"No better than always giving the most frequent class: {told}."]


def flat_metrics(metrics: Mapping[str, Any], evaluation: Evaluation | None) -> dict[str, float]:
    """Every single number of the training, and of the evaluation with its side in front."""
    flat = {
        name: float(value) for name, value in metrics.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
    if evaluation is not None:
        for side, scores in (("base", evaluation.base), ("tuned", evaluation.tuned)):
            named = {**scores.metrics, **scores.model_dump(exclude={"metrics"})}
            flat |= {f"{side}_{name}": value for name, value in named.items() if value is not None}
    return flat


def lineage(job_id: str, spec: RunSpec, files: Iterable[ModelFile]) -> Lineage:
    """From what the model was made. Raises: ValueError for a spec that was never submitted."""
    if spec.sources is None or spec.sources.dataset is None:
        raise ValueError("a job that trained has its sources")
    beside = spec.sources.validation_dataset
    return Lineage(
        job_id=job_id,
        base_revision=spec.sources.base.revision,
        dataset=spec.sources.dataset.id,
        dataset_sha256=spec.sources.dataset.sha256,
        validation_dataset=beside.id if beside else None,
        validation_sha256=beside.sha256 if beside else None,
        method=spec.method,
        seed=spec.seed,
        tokenizer_sha256={file.name: file.sha256 for file in files if file.name in _TOKENIZER_FILES},
    )


def words(text: str) -> tuple[str, ...]:
    """A comma-separated list as its parts.

    >>> words("support, json,")
    ('support', 'json')
    """
    return tuple(filter(None, (part.strip() for part in text.split(","))))
