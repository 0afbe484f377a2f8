"""The verbs of `model` that find one: by what cards say, and by what somebody wants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from luthier.faces.cli.edge import connect, usage
from luthier.faces.cli.options import After, AsJson, Limit
from luthier.faces.cli.shown import out, out_json, table, talk

if TYPE_CHECKING:
    from luthier.faces.sdk.answers import Model

Words = Annotated[str | None, typer.Argument(metavar="[WORDS]", help="Words that all stand on the card.", show_default=False)]
Sentence = Annotated[str, typer.Argument(metavar="SENTENCE", help="What the model is to do, in plain words.", show_default=False)]
BaseModel = Annotated[str | None, typer.Option("--base-model", help="Tuned from this base.")]
Language = Annotated[str | None, typer.Option("--language", help="One of the card's languages.")]
Task = Annotated[str | None, typer.Option("--task", help="The card's task, e.g. text-generation.")]
Tags = Annotated[str | None, typer.Option("--tags", help="Tags that the card all has, with commas between them.")]
Most = Annotated[int, typer.Option("--limit", min=1, max=50, help="Most models to recommend.")]


def add_to(app: typer.Typer) -> None:
    """Make the verbs of this file commands of `app`."""
    app.command()(search)
    app.command()(recommend)


def search(
    words: Words = None,
    base_model: BaseModel = None,
    language: Language = None,
    task: Task = None,
    tags: Tags = None,
    limit: Limit = 50,
    after: After = None,
    as_json: AsJson = False,
) -> None:
    """Your team's models whose cards say all of this, newest first."""
    split = tuple(filter(None, (tag.strip() for tag in (tags or "").split(","))))
    with connect() as client:
        page = client.models.search(
            words, base_model=base_model, language=language, task=task, tags=split, limit=limit, after=after
        )
    if as_json:
        out_json({"data": [model.raw for model in page], "next_cursor": page.next_cursor})
        return
    out(table(("ID", "NAME", "STAGE", "LANGUAGE", "TASK", "TAGS"), [_row(model) for model in page]))
    if page.next_cursor:
        talk(f"There are more: add --after {page.next_cursor}")


def recommend(sentence: Sentence, limit: Most = 5, as_json: AsJson = False) -> None:
    """The models that fit a sentence best, with how well and why."""
    if not sentence.strip():
        raise usage("Say what the model is to do.")
    with connect() as client:
        found = client.models.recommend(sentence, limit=limit)
    if as_json:
        out_json(found.raw)
        return
    lines = [(each.model.id, _name(each.model), f"{each.score:.3f}", ", ".join(each.why) or None) for each in found.data]
    out(table(("ID", "NAME", "SCORE", "WORDS IN COMMON"), lines))
    talk("Compared by words: no embedder is installed." if found.by == "lexical" else f"Compared by meaning ({found.by}).")
    if found.waiting:
        talk(f"{found.waiting} models are not compared yet; ask again in a moment.")


def _row(model: Model) -> tuple[object, ...]:
    card = model.card
    return (model.id, _name(model), model.stage, ", ".join(card["language"]), card["task"], ", ".join(card["tags"]))


def _name(model: Model) -> str:
    return f"{model.name}@{model.version}"
