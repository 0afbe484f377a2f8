"""Answers as text for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luthier.errors import counted
from luthier.faces.cli.findings import report_text
from luthier.faces.cli.shown import clean, dollars, duration, moment, pairs, plain, size

if TYPE_CHECKING:
    from luthier.faces.sdk.answers import Comparison, Dataset, Estimate, Job, JobCost, Model

_MOST_SAMPLE = 100
_SCORES = (
    *(("loss", "loss"), ("perplexity", "perplexity"), ("exact_match", "exact match"), ("f1", "F1 of words")),
    *(("json_valid", "valid JSON"), ("stops", "ends by itself")),
)
_SHARES = frozenset({"exact_match", "json_valid", "stops"})


def estimate_text(estimate: Estimate) -> str:
    """What a run would take: memory, minutes, dollars, and what to change where it does not fit."""
    memory = estimate.memory
    there = memory.get("available_bytes")
    fits = "fits" if estimate.fits else "DOES NOT FIT"
    lines = [
        f"Memory   about {size(memory.total_bytes)}{f' of {size(there)}' if there else ''}: {fits}",
        f"Time     about {duration(estimate.seconds)}{_amount(estimate)}",
        f"Cost     about {dollars(estimate.cost_usd)} ({estimate.hardware}, {dollars(estimate.hourly_usd)} an hour)",
    ]
    if estimate.get("epochs"):
        lines.append(f"Trains   {_chosen(estimate)}")
    if note := estimate.get("basis_note"):
        lines.append(f"Basis    {note}")
    lines += _learned(estimate)
    lines += [f"Warning  {warning}" for warning in estimate.get("warnings") or ()]
    return clean("\n".join([*lines, *(f"Advice   {advice}" for advice in estimate.get("advice") or ())]))


def _learned(estimate: Estimate) -> list[str]:
    """What earlier jobs and fit tests had to do with it."""
    lines: list[str] = []
    if test := estimate.get("fit_test"):
        lines.append(f"Measured by the fit test {test.job_id} of this run: {'it fits' if test.fits else 'it does not fit'}")
    if count := estimate.get("calibrated_by"):
        lines.append(f"Learned  from what {counted(count, 'earlier job')} took")
    if error := estimate.get("earlier_error"):
        time = f"time by {error.seconds_median:.0%} (at worst {error.seconds_worst:.0%})"
        memory = error.get("memory_median")
        and_memory = "" if memory is None else f", memory by {memory:.0%} (at worst {error.memory_worst:.0%})"
        lines.append(f"Earlier  estimates ({counted(error.jobs, 'job')}) were off: {time}{and_memory}")
    return lines


def _amount(estimate: Estimate) -> str:
    if not estimate.tokens:
        return ""
    return (
        f" for {estimate.steps} steps over {estimate.tokens:,} tokens" if estimate.steps else f" for {estimate.tokens:,} tokens"
    )


def fit_text(fit: Mapping[str, Any]) -> str:
    """What a fit test measured."""
    memory = f"{size(fit['peak_memory_bytes'])} of {size(fit['available_memory_bytes'])}"
    step = f"{fit['units']} longest units, {fit['tokens']:,} tokens"
    lines = [
        f"Measured {memory}, {fit['engine']} engine: fits",
        f"Speed    {fit['tokens_per_second']:,.0f} tokens/s; a step of the {step} takes {fit['step_seconds']:.2f} s",
        f"Training at most {duration(fit['total_seconds'])}",
    ]
    return clean("\n".join([*lines, *(f"Advice   {advice}" for advice in fit.get("advice") or ())]))


def job_text(job: Job) -> str:
    """One job, in full."""
    step = f"{job.step}/{job.total_steps}" if job.get("total_steps") else job.get("step") or None
    rate = job.get("tokens_per_second")
    text = pairs(
        [
            ("id", job.id),
            ("name", job.get("name")),
            ("state", state_word(job)),
            ("phase", None if job.finished else job.get("phase")),
            ("kind", None if job.get("kind") == "train" else job.get("kind")),
            ("of model", job.get("model")),
            ("base model", job.base_model),
            ("dataset", job.dataset),
            ("trains with", _chosen(job.get("chosen"))),
            ("hardware", job.hardware),
            ("attempt", job.get("attempt") or None),
            ("step", step),
            ("loss", _rounded(job.get("loss"))),
            ("eval loss", _rounded(job.get("eval_loss"))),
            ("tokens/s", None if rate is None else f"{rate:,.0f}"),
            ("time left", duration(job.eta_seconds) if job.get("eta_seconds") is not None and not job.finished else None),
            ("cost", dollars(job.cost_usd)),
            ("model", job.get("model_id")),
            ("created", moment(job.created_at)),
            ("finished", moment(job.finished_at) if job.get("finished_at") else None),
        ]
    )
    return f"{text}\n\n{failure_text(job)}" if job.get("error") else text


def _chosen(chosen: Mapping[str, Any] | None) -> str | None:
    """What a run is trained with, once that is known."""
    if not chosen:
        return None
    rate = chosen.get("learning_rate")
    epochs = f"{chosen['epochs']:g} epoch{'' if chosen['epochs'] == 1 else 's'}"
    said = [epochs, counted(chosen["batch_size"], "row") + " a pass"]
    return ", ".join([*said, f"learning rate {rate:g}"] if rate else said)


def failure_text(job: Job) -> str:
    """Why a job failed, or was stopped by a budget, and what to do."""
    error = job.get("error") or {}
    ended = "Stopped" if job.state == "stopped" else "Failed"
    return clean(f"{ended} ({error.get('code')}): {error.get('message')}\n{error.get('hint') or ''}").strip()


def state_word(job: Job) -> str:
    """The state, and what was asked for meanwhile."""
    wish = job.get("wish")
    return f"{job.state}, {wish} asked for" if wish and not job.finished else str(job.state)


def dataset_text(dataset: Dataset) -> str:
    """One dataset with its report."""
    arriving = dataset.get("arriving")
    text = pairs(
        [
            ("id", dataset.id),
            ("name", f"{dataset.name}@{dataset.version}"),
            ("state", dataset.state),
            ("fetched", arriving and f"{size(arriving['bytes'])} of {size(arriving['total']) if arriving['total'] else '?'}"),
            ("size", size(dataset.bytes)),
            ("created", moment(dataset.created_at)),
        ]
    )
    report = dataset.get("report")
    return f"{text}\n{report_text(report)}" if report else text


def model_text(model: Model) -> str:
    """One model version and how it was measured."""
    facts = pairs(
        [
            ("id", model.id),
            ("name", f"{model.name}@{model.version}"),
            ("stage", model.stage),
            ("base model", model.base_model),
            ("dataset", model.dataset),
            ("job", model.job_id),
            ("size", size(model.bytes)),
            ("created", moment(model.created_at)),
        ]
    )
    evaluation = model.card.get("evaluation")
    measured = "not measured against its base" if not evaluation else evaluation_text(evaluation)
    measured = "\n\n".join([measured, *_later_text(model.card.get("evaluations") or ())])
    warnings = [f"Warning: {clean(warning)}" for warning in model.card.get("warnings") or ()]
    return "\n".join([facts, "", measured, *warnings])


def _later_text(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The newest of what was measured after training, and how many there are besides."""
    if not records:
        return []
    newest = records[0]
    beside = f", against {newest['against']}" if newest.get("against") else ""
    more = f" ({len(records) - 1} earlier in `model card`)" if len(records) > 1 else ""
    told = clean(f"Measured {moment(newest['at'])} on {newest.get('dataset')} by {newest.get('job_id')}{beside}{more}")
    return [f"{told}\n{evaluation_text(newest.get('evaluation') or {})}"]


def evaluation_text(evaluation: Mapping[str, Any], against: str = "against") -> str:
    """Base, tuned model and maybe another one, as a small table. against: what the third is called."""
    names = [name for name in ("base", "tuned", "against") if evaluation.get(name)]
    sides: list[Mapping[str, Any]] = [evaluation[name] for name in names]
    head = f"on {evaluation.get('rows')} held-out rows"
    lines = [f"{head:24}" + "".join(f" {against if name == 'against' else name:>10}" for name in names)]
    lines += [_score_line(name, label, sides) for name, label in _SCORES if any(side.get(name) is not None for side in sides)]
    measures: list[Mapping[str, Any]] = [side.get("metrics") or {} for side in sides]
    lines += [_score_line(name, name.replace("_", " "), measures) for name in (measures[1] if len(measures) > 1 else ())]
    if forgot := evaluation.get("forgetting"):
        lines.append(_score_line("neutral", "neutral text, nats", [{"neutral": forgot.get(name)} for name in names]))
    return "\n".join(lines)


def comparison_text(found: Comparison) -> str:
    """The table, the gate's word, and answers side by side."""
    model, production = found.model, found.get("production")
    title = f"{model.name}@{model.version} ({model.stage})"
    beside = f", Production is @{production['version']}" if production else ""
    lines = [clean(f"{title}{beside}"), ""]
    third = "production" if production else "against"
    lines.append(evaluation_text(plain(found), third) if found.get("tuned") else _not_measured(found))
    if found.get("tuned") and found.get("measured_by"):
        lines.append(clean(f"measured on {found.get('dataset')} by {found.get('measured_by')}"))
    lines += ["", *_gate_lines(found)]
    for sample in found.get("samples") or ():
        lines += ["", *_sample_lines(sample, third)]
    return "\n".join([*lines, *(f"Warning: {clean(warning)}" for warning in found.get("warnings") or ())])


def _not_measured(found: Comparison) -> str:
    forgot = found.get("forgetting")
    told = f"; neutral text, nats: base {forgot['base']:.4f}, tuned {forgot['tuned']:.4f}" if forgot else ""
    return f"not measured on held-out rows{told}"


def _gate_lines(found: Comparison) -> list[str]:
    running = [f"Measured now by {clean(job_id)}" for job_id in found.running]
    if found.gate.passes:
        return ["Gate: it may go to Production.", *running]
    return [clean(f"Gate: {found.gate.message}"), clean(found.gate.get("hint") or ""), *running]


def _sample_lines(sample: Mapping[str, Any], third: str) -> list[str]:
    """A question, and what each said, a line each: what is longer is in `--json`."""
    named = [(name, sample.get(name)) for name in ("prompt", "expected", "base", "tuned", "against")]
    shown = [(third if name == "against" else name, text) for name, text in named if text is not None]
    return [f"  {name:10}  {_cut(clean(text).replace(chr(10), ' '))}" for name, text in shown]


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_SAMPLE else f"{text[: _MOST_SAMPLE - 3]}..."


def _score_line(name: str, label: str, sides: Sequence[Mapping[str, Any]]) -> str:
    return f"{label:24}" + "".join(f" {_score(name, side.get(name)):>10}" for side in sides)


def cost_text(cost: JobCost) -> str:
    """What a job has cost so far."""
    return pairs(
        [
            ("job", cost.job_id),
            ("hardware", cost.hardware),
            ("time", duration(cost.elapsed_seconds)),
            ("cost", f"{dollars(cost.cost_usd)}{'' if cost.settled else ' so far'}"),
            ("held", None if cost.settled else dollars(cost.held_usd)),
        ]
    )


def _score(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1%}" if name in _SHARES else f"{value:.4f}" if value < 1000 else f"{value:.3g}"


def _rounded(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"
