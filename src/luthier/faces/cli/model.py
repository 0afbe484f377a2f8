"""`model`: look at, download, promote and talk to tuned models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from luthier.faces.cli import finding, gate, model_files, model_runs, predicting, promoting
from luthier.faces.cli.edge import connect, new_app, run, usage
from luthier.faces.cli.options import After, AsJson, Limit, ModelArgument, ModelOption, Raw, Yes, sure, the_model
from luthier.faces.cli.shown import moment, out, out_json, plain, size, table, talk

if TYPE_CHECKING:
    from luthier.faces.sdk.answers import Model

app = new_app("Look at, download, promote and talk to tuned models.")

Once = Annotated[str | None, typer.Option("--once", help="Ask this one question, print the answer, and end.")]
VersusOption = Annotated[
    str | None, typer.Option("--versus", metavar="MODEL", help="Ask this model the same, and show both answers side by side.")
]
System = Annotated[str | None, typer.Option("--system", help="What the model is told before the first question.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer.")]
Temperature = Annotated[float, typer.Option("--temperature", min=0.0, max=2.0, help="0 takes the most likely token each time.")]


@app.command("list")
def list_models(limit: Limit = 50, after: After = None, as_json: AsJson = False) -> None:
    """Your team's models, newest first."""
    with connect() as client:
        page = client.models.list(limit=limit, after=after)
    if as_json:
        out_json({"data": [model.raw for model in page], "next_cursor": page.next_cursor})
        return
    out(table(("ID", "NAME", "STAGE", "BASE MODEL", "EXACT MATCH", "SIZE", "CREATED"), [_row(model) for model in page]))
    if page.next_cursor:
        talk(f"There are more: model list --after {page.next_cursor}")


@app.command()
def show(model: ModelArgument = None, model_id: ModelOption = None, as_json: AsJson = False) -> None:
    """One model: where it stands, and how it compares with its base."""
    found = _found(model, model_id)
    if as_json:
        out_json(found)
        return
    from luthier.faces.cli.reports import model_text

    out(model_text(found))


@app.command()
def card(model: ModelArgument = None, model_id: ModelOption = None, as_json: AsJson = False) -> None:
    """The model card: from what it was made, what was measured, what to know before it is used."""
    found = _found(model, model_id)
    if as_json:
        out_json(found.card)
        return
    import json

    # Hundreds of numbers tell a reader nothing; `--json` has them.
    told = {name: value for name, value in plain(found.card).items() if name != "embedding"}
    out(json.dumps(told, indent=2))


@app.command()
def delete(model: ModelArgument = None, model_id: ModelOption = None, yes: Yes = False, as_json: AsJson = False) -> None:
    """Remove a model and its files; refused while it is in Production, needed, or answering."""
    found = _found(model, model_id)
    sure(f"Delete {found.name}@{found.version} and its files?", yes=yes)
    with connect() as client:
        client.models.delete(found.id)
    if as_json:
        out_json({"id": found.id, "deleted": True})
    talk("Deleted.")


@app.command()
def chat(
    model: ModelArgument = None,
    model_id: ModelOption = None,
    once: Once = None,
    system: System = None,
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.0,
    raw: Raw = False,
    versus: VersusOption = None,
    as_json: AsJson = False,
) -> None:
    """Talk to a model or a base. /reset forgets, /save FILE keeps the conversation, /exit ends."""
    from luthier.faces.cli.chatting import Conversation, Drawing, Versus, converse

    ref = the_model(model, model_id)
    if as_json and (once is None or versus is not None):
        raise usage("--json goes with --once and one model: a conversation is no JSON document.")
    with connect() as client:
        drawing = Drawing(max_tokens, temperature, raw)
        talk_with = Conversation(client, ref, drawing, system)
        partner = talk_with if versus is None else Versus(talk_with, Conversation(client, versus, drawing, system))
        if once is None:
            converse(partner)
        elif as_json:
            out_json(talk_with.whole(once))
        else:
            partner.ask(once)


finding.add_to(app)
promoting.add_to(app)
gate.add_to(app)
model_files.add_to(app)
model_runs.add_to(app)
predicting.add_to(app)


def _found(model: str | None, model_id: str | None) -> Model:
    ref = the_model(model, model_id)
    with connect() as client:
        return client.models.get(ref)


def _row(model: Model) -> tuple[object, ...]:
    tuned = (model.card.get("evaluation") or {}).get("tuned") or {}
    exact = tuned.get("exact_match")
    return (
        model.id,
        f"{model.name}@{model.version}",
        model.stage,
        model.base_model,
        None if exact is None else f"{exact:.1%}",
        size(model.bytes),
        moment(model.created_at),
    )


def main() -> None:
    """The command."""
    run(app)


if __name__ == "__main__":
    main()
