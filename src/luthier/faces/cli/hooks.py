"""`tune hooks`: runs that others may start."""

from __future__ import annotations

from typing import Annotated

import typer

from luthier import ids
from luthier.faces.cli.edge import connect, new_app, usage
from luthier.faces.cli.options import AsJson, Yes, sure, with_ids
from luthier.faces.cli.runs import RunFlags, described, takes_run
from luthier.faces.cli.shown import dollars, moment, out, out_json, table, talk

app = new_app("Inbound webhooks: runs that others may start.")


def add_to(tune: typer.Typer) -> None:
    """Make the verbs of this file commands of `tune hooks`."""
    tune.add_typer(app, name="hooks")


@app.command()
@takes_run
def add(
    run: RunFlags,
    hook_name: Annotated[str, typer.Argument(metavar="NAME", help="What the hook is called.")],
    allow: Annotated[list[str] | None, typer.Option("--allow", help="A field that a call may give. Repeat it.")] = None,
    spend_cap_usd: Annotated[str | None, typer.Option("--spend-cap-usd", help="What all its jobs may cost together.")] = None,
    as_json: AsJson = False,
) -> None:
    """Let others start a run, and print the hook's id and the secret that they sign with."""
    spec = run.spec()
    with connect() as client:
        made = client.hooks.add(hook_name, with_ids(client, spec), overrides=allow or ("dataset",), spend_cap_usd=spend_cap_usd)
    if as_json:
        out_json(made)
        return
    out(f"{made.id}\n{made.secret}")
    talk(f"The second line is its secret: it is shown this once. Whoever has it calls POST {made.path}.")


@app.command("list")
def list_hooks(as_json: AsJson = False) -> None:
    """All hooks of your team."""
    with connect() as client:
        found = client.hooks.list()
    if as_json:
        out_json({"data": [each.raw for each in found]})
        return
    rows = [
        (each.id, each.name, described(each.run), " ".join(each.overrides), _cap(each.spend_cap_usd), moment(each.created_at))
        for each in found
    ]
    out(table(("ID", "NAME", "RUN", "MAY GIVE", "CAP", "MADE"), rows))


@app.command()
def remove(hook: Annotated[str, typer.Argument(metavar="HOOK", help="Its id.")], yes: Yes = False) -> None:
    """Refuse its callers from now on."""
    if not ids.is_id(hook, ids.HOOK):
        raise usage(f"This is not the id of a hook: that is {ids.HOOK}_ and 26 letters and digits.")
    sure("Remove this hook?", yes=yes)
    with connect() as client:
        client.hooks.remove(hook)


def _cap(usd: str | None) -> str:
    return "-" if usd is None else dollars(usd)
