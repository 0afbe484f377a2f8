"""The verbs of `model` that decide what serves: compare, promote, roll back."""

from __future__ import annotations

from typing import Annotated

import typer

from luthier.faces.cli.edge import connect, usage
from luthier.faces.cli.options import AsJson, ModelArgument, ModelOption, the_model
from luthier.faces.cli.shown import out, out_json, talk

STAGES = ("None", "Staging", "Production", "Archived")
ToStage = Annotated[str, typer.Option("--stage", help=f"One of {', '.join(STAGES)}.")]
Name = Annotated[str, typer.Argument(help="The name of the model, without a version.")]


def add_to(app: typer.Typer) -> None:
    """Make the verbs of this file commands of `app`."""
    app.command()(compare)
    app.command()(promote)
    app.command()(rollback)


def compare(model: ModelArgument = None, model_id: ModelOption = None, as_json: AsJson = False) -> None:
    """A version beside its base and today's Production, on the same held-out rows; and whether it may go there."""
    with connect() as client:
        found = client.models.compare(the_model(model, model_id))
    if as_json:
        out_json(found)
        return
    from luthier.faces.cli.reports import comparison_text

    out(comparison_text(found))


def promote(
    model: ModelArgument = None, model_id: ModelOption = None, stage: ToStage = "Production", as_json: AsJson = False
) -> None:
    """Move a model to Production (or another stage); what was there is archived."""
    wanted = next((known for known in STAGES if known.lower() == stage.lower()), None)
    if wanted is None:
        raise usage(f"--stage is one of {', '.join(STAGES)}.")
    with connect() as client:
        found = client.models.transition(the_model(model, model_id), wanted)
    if as_json:
        out_json(found)
    else:
        out(f"{found.id}  {found.stage}")
        talk(f"{found.name}@{found.version} is now in stage {found.stage}.")


def rollback(name: Name, as_json: AsJson = False) -> None:
    """Put the version back into Production that was there before."""
    with connect() as client:
        found = client.models.rollback(the_model(name, None))
    if as_json:
        out_json(found)
    else:
        out(f"{found.id}  {found.stage}")
        talk(f"{found.name}@{found.version} is in Production again.")
