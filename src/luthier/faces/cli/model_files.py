"""`model download`, `exports`, `deploy`, `link`, `import`: models as files, on their way out and in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from luthier.faces.cli.edge import connect, usage
from luthier.faces.cli.model_runs import FORMATS, PRECISIONS
from luthier.faces.cli.options import AsJson, Force, ModelArgument, ModelOption, the_model
from luthier.faces.cli.saving import is_the_same, may_replace, parts_removed_when_full, transfer
from luthier.faces.cli.shown import moment, out, out_json, plain, size, table, talk

Output = Annotated[Path | None, typer.Option("--output", "-o", help="Folder to write into; ./<model id> by default.")]
Form = Annotated[
    str | None,
    typer.Option("--format", help=f"Its newest export of that format, one of {', '.join(FORMATS)}; else its own files."),
]
DEPLOY_STAGES = ("Production", "any")
Target = Annotated[str | None, typer.Option("--to", help="Name of the target; without it they are listed.")]
DeployStage = Annotated[str, typer.Option("--stage", help="`any` also takes a version that is not in Production.")]
Seconds = Annotated[int, typer.Option("--seconds", min=1, max=604800, help="How long it opens.")]
Folder = Annotated[Path, typer.Argument(help="Folder with adapter_config.json and adapter_model.safetensors, or a .gguf.")]
ModelName = Annotated[str, typer.Option("--name", help="Of the model; versions of a name are numbered.")]
BaseModel = Annotated[str | None, typer.Option("--base-model", help="The base; by default its config's own.")]
Precision = Annotated[str | None, typer.Option("--precision", help="Which of its exports of that format, e.g. q8_0.")]


def add_to(app: typer.Typer) -> None:
    """The commands of this module."""
    app.command()(download)
    app.command()(exports)
    app.command()(deploy)
    app.command()(link)
    app.command("import")(import_adapter)


def download(
    model: ModelArgument = None,
    model_id: ModelOption = None,
    form: Form = None,
    precision: Precision = None,
    output: Output = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write its files (adapter, tokenizer, template), or those of an export; checked, and taken up where it broke off."""
    if form is not None and form not in FORMATS:
        raise usage(f"--format is one of {', '.join(FORMATS)}.")
    if precision is not None and (form is None or precision not in PRECISIONS):
        raise usage(f"--precision goes with --format, and is one of {', '.join(PRECISIONS)}.")
    with connect() as client:
        found = client.models.get(the_model(model, model_id))
        exported = None if form is None else client.models.exported(found.id, form, precision)
        files = client.models.files(found.id) if exported is None else client.jobs.files(exported.job_id)
        # The folder is named by the id: what the server calls the model is no path of ours.
        folder = output or Path(found.id if form is None else f"{found.id}-{form}")
        paths = [folder / file.name for file in files]
        may_replace([path for path, file in zip(paths, files, strict=True) if not is_the_same(path, file)], force=force)
        with transfer("download") as report, parts_removed_when_full(paths):
            if exported is None:
                client.models.download(found.id, folder, on_progress=report)
            else:
                client.jobs.download(exported.job_id, folder, on_progress=report)
    if as_json:
        out_json({"id": found.id, "folder": str(folder), "files": [plain(file) for file in files]})
    else:
        out(str(folder))


def exports(model: ModelArgument = None, model_id: ModelOption = None, as_json: AsJson = False) -> None:
    """What a model was exported as, and what was proven of each: `model download --format` fetches them."""
    with connect() as client:
        found = client.models.exports(the_model(model, model_id))
    if as_json:
        out_json([each.raw for each in found])
        return
    rows = [
        (each.job_id, each.format, each.precision, size(each.bytes), _agreement(each.checks.raw), moment(each.created_at))
        for each in found
    ]
    out(table(("JOB", "FORMAT", "PRECISION", "SIZE", "SAME TOKENS", "CREATED"), rows))
    if not found:
        talk("None yet: model export <model> --format gguf")


def deploy(
    model: ModelArgument = None,
    model_id: ModelOption = None,
    target: Target = None,
    stage: DeployStage = "Production",
    precision: Precision = None,
    as_json: AsJson = False,
) -> None:
    """Put a model's GGUF where it is served from: a folder or git repository of the server, or a link for webhooks."""
    if stage not in DEPLOY_STAGES:
        raise usage(f"--stage is one of {', '.join(DEPLOY_STAGES)}.")
    with connect() as client:
        if target is None:
            known = "\n".join(f"  {each.name}  ({each.kind})" for each in client.models.targets())
            raise usage(f"Say where to, with --to:\n{known}")
        done = client.models.deploy(the_model(model, model_id), target, stage=stage, precision=precision)
    if as_json:
        out_json(done)
        return
    out(done.commit or done.path or done.url)
    talk(f"{done.name}@{done.version} is in {done.target}{', and pushed' if done.pushed else ''}. Endpoints are told.")


def link(
    model: ModelArgument = None,
    model_id: ModelOption = None,
    precision: Precision = None,
    seconds: Seconds = 3600,
    as_json: AsJson = False,
) -> None:
    """A link to a model's GGUF that needs no key and opens for a while: `wget` it from a workflow."""
    with connect() as client:
        made = client.models.link(the_model(model, model_id), precision=precision, seconds=seconds)
    if as_json:
        out_json(made)
        return
    out(made.url)
    talk(f"It opens until {moment(made.until)}; sha256 {made.sha256}.")


def import_adapter(folder: Folder, name: ModelName, base_model: BaseModel = None, as_json: AsJson = False) -> None:
    """Make an adapter that was trained elsewhere a version here: PEFT's folder, or one GGUF. It is checked, not measured."""
    with connect() as client:
        made = client.models.import_adapter(folder, name, base_model=base_model)
    if as_json:
        out_json(made)
        return
    out(made.id)
    talk(f"It is {made.name}@{made.version}, on {made.base_model}. Measure it: model evaluate {made.id} --dataset <dataset>")


def _agreement(checks: object) -> str:
    share = checks.get("token_agreement") if isinstance(checks, dict) else None
    return f"{share:.1%}" if isinstance(share, float) else "-"
