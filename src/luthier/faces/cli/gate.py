"""`model gate`: what your team asks of a version before it goes to Production."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Annotated, Any

import typer

from luthier.faces.cli.edge import connect, usage
from luthier.faces.cli.options import AsJson
from luthier.faces.cli.shown import clean, out, out_json, table

DEFAULT = "default"
_AGAIN = f"`{DEFAULT}` takes the platform's."
gate_app = typer.Typer(help="What a version must show before it goes to Production.")

Metric = Annotated[str | None, typer.Option("--metric", help=f"loss, exact_match, f1, accuracy, ...; {_AGAIN}")]
Margin = Annotated[str | None, typer.Option("--margin", help=f"By how much better; below 0: worse by that at most. {_AGAIN}")]
People = Annotated[str | None, typer.Option("--people", help=f"1, or 2 where a second person must want it; {_AGAIN}")]


def add_to(app: typer.Typer) -> None:
    """Make the verbs of this file commands of `app`."""
    app.add_typer(gate_app, name="gate")


@gate_app.callback(invoke_without_command=True)
def gate(context: typer.Context, as_json: AsJson = False) -> None:
    """What your team asks of a version before it goes to Production."""
    if context.invoked_subcommand is None:
        with connect() as client:
            _show(client.models.gate(), as_json=as_json)


@gate_app.command("set")
def gate_set(metric: Metric = None, margin: Margin = None, people: People = None, as_json: AsJson = False) -> None:
    """Change the gate of your team; what is not named stays. For admins."""
    given = {"metric": metric, "margin": margin, "second_person": people}
    wanted = {name: _read(name, text) for name, text in given.items() if text is not None}
    if not wanted:
        raise usage("Say what to change: --metric, --margin or --people.")
    with connect() as client:
        before = client.models.gate()
        kept = {name: before[name] for name in before.own}
        _show(client.models.set_gate(**{**kept, **wanted}), as_json=as_json)


def _read(name: str, text: str) -> Any:
    if text == DEFAULT:
        return None
    if name == "second_person":
        if text not in {"1", "2"}:
            raise usage(f"--people is 1, 2 or {DEFAULT}.")
        return text == "2"
    if name == "margin":
        return _number(text)
    return text


def _number(text: str) -> float:
    with suppress(ValueError):
        number = float(text)
        if math.isfinite(number):
            return number
    raise usage(f"--margin is a number, or {DEFAULT}.")


def _show(found: Any, *, as_json: bool) -> None:
    if as_json:
        out_json(found)
        return
    rows = [
        ("metric", clean(found.metric), _whose(found, "metric")),
        ("margin", f"{found.margin:g}", _whose(found, "margin")),
        ("people", "2" if found.second_person else "1", _whose(found, "second_person")),
    ]
    out(table(("GATE", "IS", "SET BY"), rows))


def _whose(found: Any, name: str) -> str:
    return "your team" if name in found.own else "the platform"
