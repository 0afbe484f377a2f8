"""The verbs of `model` that are runs: measure a model on a dataset, and make it into files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.faces.cli import watching
from luthier.faces.cli.edge import connect, usage
from luthier.faces.cli.options import AsJson, Follow, Force, ModelArgument, ModelOption, Yes, sure, the_job, the_model, with_ids
from luthier.faces.cli.runs import described
from luthier.faces.cli.saving import is_the_same, may_replace, parts_removed_when_full, transfer
from luthier.faces.cli.shown import dollars, out, out_json, plain, talk

if TYPE_CHECKING:
    from luthier.faces.sdk.answers import Job, Submitted
    from luthier.faces.sdk.client import Client

FORMATS = ("merged", "adapter", "gguf", "gguf-adapter")
PRECISIONS = ("base", "bf16", "fp32", "f32", "f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m")
Dataset = Annotated[
    str | None,
    typer.Option("--dataset", help="Rows to measure on (id, name@version or name); by default those that training measured on."),
]
Against = Annotated[str | None, typer.Option("--against", help="Another model on the same base, on the same rows.")]
Rows = Annotated[int | None, typer.Option("--rows", min=0, help="Rows that are answered, for exact match; 200 by default.")]
Hardware = Annotated[str | None, typer.Option("--hardware", help="Where to do it; `tune pricing` lists it.")]
Format = Annotated[str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.")]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        help=f"Of merged weights (base, bf16, fp32) or gguf (f32, f16, q8_0, K-quants): one of {', '.join(PRECISIONS)}.",
    ),
]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Folder to write into; ./<name of the model> by default.")]
Made = Annotated[str | None, typer.Option("--job-id", help="Fetch what this export made, instead of a new one.")]


def add_to(app: typer.Typer) -> None:
    """Make the verbs of this file commands of `app`."""
    app.command()(evaluate)
    app.command()(export)


def evaluate(
    model: ModelArgument = None,
    model_id: ModelOption = None,
    dataset: Dataset = None,
    against: Against = None,
    rows: Rows = None,
    hardware: Hardware = None,
    follow: Follow = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Measure a model, its base, and maybe another one, on the same rows; prints the id of the run."""
    spec = _spec("evaluate", the_model(model, model_id), dataset=dataset, against=against, hardware=hardware)
    if rows is not None:
        spec["evaluate"] = {"rows": rows}
    with connect() as client:
        submitted = _submitted(client, spec, yes=yes)
        if not follow:
            _said(submitted, as_json=as_json)
            return
        job = watching.to_the_end(client, submitted.job.id)
        record = _record(client, job) if job.state == "succeeded" else None
    if as_json:
        out_json({**plain(submitted), "job": plain(job), "record": plain(record) if record else None})
    elif record is not None:
        from luthier.faces.cli.reports import evaluation_text

        out(evaluation_text(record["evaluation"]))
    watching.leave(job)


def export(
    model: ModelArgument = None,
    model_id: ModelOption = None,
    form: Format = "merged",
    precision: Precision = "base",
    output: Output = None,
    hardware: Hardware = None,
    job_id: Made = None,
    force: Force = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Make a model into files that load without Luthier, wait for them, and write them into a folder."""
    for value, known, flag in ((form, FORMATS, "--format"), (precision, PRECISIONS, "--precision")):
        if value not in known:
            raise usage(f"{flag} is one of {', '.join(known)}.")
    if job_id is not None and (model is not None or model_id is not None):
        raise usage("Name a model to export, or the job of an export, not both.")
    with connect() as client:
        if job_id is not None:
            job = client.jobs.get(the_job(None, job_id))
        else:
            spec = _spec("export", the_model(model, model_id), hardware=hardware)
            submitted = _submitted(client, {**spec, "export": {"format": form, "precision": precision}}, yes=yes)
            job = watching.to_the_end(client, submitted.job.id)
            if job.state != "succeeded":
                watching.leave(job)
        folder = output or Path(f"{job.model}-{job.spec.export.format}")
        _fetched(client, job, folder, force=force)
    if as_json:
        out_json({"job": plain(job), "folder": str(folder)})
    else:
        out(str(folder))


def _spec(kind: str, model: str, **given: str | None) -> dict[str, Any]:
    return {"kind": kind, "model": model, **{name: value for name, value in given.items() if value is not None}}


def _submitted(client: Client, asked: Mapping[str, Any], *, yes: bool) -> Submitted:
    """Say what it takes, ask where it costs something, and queue it."""
    spec = with_ids(client, asked)
    estimate = client.jobs.estimate(spec)
    from luthier.faces.cli.reports import estimate_text

    talk(f"{described(spec)}\n{estimate_text(estimate)}")
    if estimate.fits and dollars(estimate.cost_usd) != "$0.00":
        sure(f"Start it for about {dollars(estimate.cost_usd)}?", yes=yes)
    return client.jobs.submit(spec)


def _said(submitted: Submitted, *, as_json: bool) -> None:
    talk(watching.taken_in(submitted.job))
    if as_json:
        out_json(submitted)
    else:
        out(submitted.job.id)


def _record(client: Client, job: Job) -> Mapping[str, Any] | None:
    """What the run put onto the model's card."""
    found = client.models.get(job.model or "").card.get("evaluations") or ()
    return next((record for record in found if record.get("job_id") == job.id), None)


def _fetched(client: Client, job: Job, folder: Path, *, force: bool) -> None:
    files = client.jobs.files(job.id)
    paths = [folder / file.name for file in files]
    talk(f"Fetching the files; if it breaks off: model export --job-id {job.id} --output {folder}")
    may_replace([path for path, file in zip(paths, files, strict=True) if not is_the_same(path, file)], force=force)
    with transfer("export") as report, parts_removed_when_full(paths):
        client.jobs.download(job.id, folder, on_progress=report)
