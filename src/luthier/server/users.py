"""`luthier users`: who has an account. For those who run the server; what a command needs is imported when it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from luthier.server.folder import email_of, platform_of, shown, typed_password
from luthier.server.options import AsJson, Data

if TYPE_CHECKING:
    from luthier.accounts.types import User

app = typer.Typer(no_args_is_help=True, help="People with an account.")
EmailArgument = Annotated[str, typer.Argument(metavar="EMAIL", help="Their e-mail address.")]
Generate = Annotated[
    bool, typer.Option("--generate", help="Make a password and print it. Otherwise it is asked for, or read from stdin.")
]

Afresh = Annotated[
    bool,
    typer.Option(
        "--afresh", help="Somebody else had made it: end its password, logins, keys and places in teams; a new team begins."
    ),
]


@app.command()
def add(email: EmailArgument, data: Data = None, generate: Generate = False, as_json: AsJson = False) -> None:
    """Make an account, with a team of its own."""
    address = email_of(email)
    password, made = typed_password(generate=generate)
    with platform_of(data) as platform:
        user = platform.accounts.users.add(address, password)
    _told(user, password if made else None, as_json=as_json)


@app.command("list")
def list_users(data: Data = None, as_json: AsJson = False) -> None:
    """Everybody, oldest first."""
    with platform_of(data) as platform:
        users = platform.accounts.users.list()
    shown(users, (f"{user.id}  {user.email}{_remarks(user)}" for user in users), as_json=as_json)


@app.command()
def confirm(email: EmailArgument, data: Data = None, afresh: Afresh = False, as_json: AsJson = False) -> None:
    """Say that an account belongs to whoever has its address: their next OpenID login is linked to it."""
    with platform_of(data) as platform:
        user = platform.accounts.users.confirm(email_of(email), afresh=afresh)
    _told(user, None, as_json=as_json)


@app.command()
def password(email: EmailArgument, data: Data = None, generate: Generate = False, as_json: AsJson = False) -> None:
    """Set a new password. All their logins end; keys stay."""
    address = email_of(email)
    new, made = typed_password(generate=generate)
    with platform_of(data) as platform:
        user = platform.accounts.users.set_password(address, new)
    _told(user, new if made else None, as_json=as_json)


@app.command()
def disable(email: EmailArgument, data: Data = None, as_json: AsJson = False) -> None:
    """Refuse their keys and logins from the next request on. What they made stays."""
    with platform_of(data) as platform:
        user = platform.accounts.users.disable(email_of(email))
    _told(user, None, as_json=as_json)


@app.command()
def enable(email: EmailArgument, data: Data = None, as_json: AsJson = False) -> None:
    """Let them in again."""
    with platform_of(data) as platform:
        user = platform.accounts.users.enable(email_of(email))
    _told(user, None, as_json=as_json)


def _remarks(user: User) -> str:
    return f"{'' if user.confirmed else '  unconfirmed'}{'  disabled' if user.disabled_at else ''}"


def _told(user: User, password: str | None, *, as_json: bool) -> None:
    if as_json:
        import json

        facts = user.model_dump(mode="json")
        typer.echo(json.dumps(facts if password is None else {**facts, "password": password}))
        return
    typer.echo(user.id)
    if password is not None:
        typer.echo(f"Password, shown this once: {password}", err=True)
