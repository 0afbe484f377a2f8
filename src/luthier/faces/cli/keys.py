"""`tune keys`: what programs send instead of a password."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from luthier import ids
from luthier.faces.cli.edge import connect, new_app, usage
from luthier.faces.cli.options import After, AsJson, Limit, Yes, sure
from luthier.faces.cli.shown import moment, out, out_json, table, talk

if TYPE_CHECKING:
    from luthier.faces.sdk.answers import NewKey

app = new_app("API keys: what programs send instead of a password.")

KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="Its id: key_...", show_default=False)]


def add_to(tune: typer.Typer) -> None:
    """Make the verbs of this file commands of `tune keys`."""
    tune.add_typer(app, name="keys")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    scope: Annotated[list[str] | None, typer.Option("--scope", help="read or write. Repeat it; both by default.")] = None,
    expires_in_days: Annotated[int | None, typer.Option(help="Days until it ends; never by default.")] = None,
    audience: Annotated[str, typer.Option(help="api, mcp or webhook: the only door that it opens.")] = "api",
    spend_cap_usd: Annotated[str | None, typer.Option(help="What its jobs may cost together, like 25.00.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key, and print its secret this once."""
    with connect() as client:
        made = client.keys.create(
            name, scopes=scope, expires_in_days=expires_in_days, audience=audience, spend_cap_usd=spend_cap_usd
        )
    _told(made, as_json=as_json)


@app.command("list")
def list_keys(limit: Limit = 50, after: After = None, as_json: AsJson = False) -> None:
    """Your keys, newest first; an admin sees the whole team's."""
    with connect() as client:
        page = client.keys.list(limit=limit, after=after)
    if as_json:
        out_json({"data": [key.raw for key in page], "next_cursor": page.next_cursor})
        return
    rows = [
        (
            key.id,
            key.name,
            "revoked" if key.revoked_at else "all" if key.scopes is None else " ".join(key.scopes),
            key.audience,
            moment(key.expires_at) if key.expires_at else "never",
            moment(key.last_used_at) if key.last_used_at else "never",
        )
        for key in page
    ]
    out(table(("ID", "NAME", "MAY", "FOR", "ENDS", "USED"), rows))
    if page.next_cursor:
        talk(f"There are more: tune keys list --after {page.next_cursor}")


@app.command()
def rotate(
    key: KeyArgument,
    keep_old_hours: Annotated[int, typer.Option(min=0, max=720, help="How long the old secret still works.")] = 24,
    as_json: AsJson = False,
) -> None:
    """Make a new secret for a key of yours, and print it this once. The old one still works for a while."""
    with connect() as client:
        _told(client.keys.rotate(_the_key(key), keep_old_hours=keep_old_hours), as_json=as_json)


@app.command()
def revoke(key: KeyArgument, yes: Yes = False, as_json: AsJson = False) -> None:
    """Refuse a key from now on."""
    sure("Whatever uses this key stops working. Go on?", yes=yes)
    with connect() as client:
        client.keys.revoke(_the_key(key))
    if as_json:
        out_json({"id": key, "revoked": True})
    talk("Revoked.")


def _told(made: NewKey, *, as_json: bool) -> None:
    if as_json:
        out_json(made)
        return
    out(made.secret)
    talk(f"This is the only time that the secret of {made.key.id} is shown.")


def _the_key(text: str) -> str:
    if not ids.is_id(text, ids.KEY):
        raise usage("This is not the id of a key: that is key_ and 26 letters and digits, as `tune keys list` shows it.")
    return text
