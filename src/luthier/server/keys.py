"""`luthier keys`: API keys of anybody, and the keys that logins are signed with. For those who run the server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from luthier.errors import Unauthenticated
from luthier.server.folder import checked, email_of, platform_of, shown
from luthier.server.options import AsJson, Data

if TYPE_CHECKING:
    from datetime import datetime

    from luthier.accounts.types import Key, NewKey
    from luthier.wiring import Platform

app = typer.Typer(no_args_is_help=True, help="API keys, and the keys that logins are signed with.")
KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="Id of a key: key_...")]


@app.command()
def create(  # noqa: PLR0913, PLR0917  # a command's options are its parameters
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="Whose key it is.")],
    name: Annotated[str, typer.Option(help="What it is for.")],
    team: Annotated[str | None, typer.Option(help="Id of the team that it acts for; their first one by default.")] = None,
    scope: Annotated[list[str] | None, typer.Option(help="read or write; give it twice for both, or leave it out.")] = None,
    expires_in_days: Annotated[int | None, typer.Option(help="Days until it ends; never by default.")] = None,
    audience: Annotated[str, typer.Option(help="api, mcp or webhook: the only door that it opens.")] = "api",
    spend_cap_usd: Annotated[str | None, typer.Option(help="What its jobs may cost together, like 25.00.")] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Make a key for somebody, and print its secret this once."""
    from luthier.accounts.types import KeyWish

    facts = {
        "name": name,
        "scopes": scope or None,
        "expires_in_days": expires_in_days,
        "audience": audience,
        "spend_cap_usd": spend_cap_usd,
    }
    wish = checked(KeyWish, facts, "key")
    with platform_of(data) as platform:
        actor = platform.accounts.users.acting(email_of(email), team=team)
        _told(platform.accounts.keys.create(actor, wish), as_json=as_json)


@app.command("list")
def list_keys(data: Data = None, as_json: AsJson = False) -> None:
    """All keys of all teams, oldest first."""
    with platform_of(data) as platform:
        keys, now = platform.accounts.keys.every(), platform.now()
    lines = (f"{key.id}  {key.prefix or '-':12}  {key.user_id}  {key.name}{_ended(key, now)}" for key in keys)
    shown(keys, lines, as_json=as_json)


@app.command()
def revoke(key: KeyArgument, data: Data = None) -> None:
    """Refuse a key from the next request on."""
    with platform_of(data) as platform:
        keys = platform.accounts.keys
        keys.revoke(keys.owner(key), key)


@app.command()
def rotate(
    key: KeyArgument,
    keep_old_hours: Annotated[int, typer.Option(min=0, max=720, help="How long the old secret still works.")] = 24,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Make a new secret for a key and print it this once; where <data>/admin.key held the old one, it gets the new one."""
    with platform_of(data) as platform:
        keys = platform.accounts.keys
        is_admins = _key_of_file(platform) == key
        made = keys.rotate(keys.owner(key), key, keep_old_hours=keep_old_hours)
        if is_admins:
            from luthier.server.first import write_key

            write_key(platform.settings.key_path, made.secret)
            typer.echo(f"{platform.settings.key_path} holds it.", err=True)
        _told(made, as_json=as_json)


@app.command("rotate-signing")
def rotate_signing(data: Data = None) -> None:
    """Sign logins with a new key. Those who are logged in stay so: the old one is good for 15 more minutes."""
    with platform_of(data) as platform:
        typer.echo(platform.accounts.signing.rotate().id)


def _key_of_file(platform: Platform) -> str | None:
    try:
        return platform.accounts.keys.holder(platform.settings.key_path.read_text("utf-8").strip()).key_id
    except (OSError, Unauthenticated):
        return None


def _ended(key: Key, now: datetime) -> str:
    if key.revoked_at is not None:
        return "  revoked"
    return "  expired" if key.expires_at is not None and key.expires_at <= now else ""


def _told(made: NewKey, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(made.model_dump(mode="json")))
        return
    typer.echo(made.secret)
    typer.echo(f"This is the only time that the secret of {made.key.id} is shown.", err=True)
