"""The verbs of `tune` about oneself: log in, log out, who am I."""

from __future__ import annotations

import getpass
import sys
from typing import Annotated

import typer

from luthier.faces.cli.edge import connect, usage
from luthier.faces.cli.options import AsJson
from luthier.faces.cli.shown import clean, out, out_json, pairs, talk

Email = Annotated[str | None, typer.Option(help="Your e-mail address; asked for where it is left out.")]
Team = Annotated[str | None, typer.Option(help="Act for this team of yours: team_...; your first one by default.")]


def add_to(app: typer.Typer) -> None:
    """Make the verbs of this file commands of `app`."""
    app.command()(login)
    app.command()(signup)
    app.command()(logout)
    app.command()(password)
    app.command()(whoami)


def login(email: Email = None, team: Team = None, as_json: AsJson = False) -> None:
    """Log in with e-mail and password. Later commands use it, until `tune logout`."""
    address = email or _line("E-mail: ")
    with connect() as client:
        found = client.logins.log_in(address, _secret("Password: "), team=team, keep=True)
    _told(found.raw, f"Logged in as {address}.", as_json=as_json)


def signup(
    email: Email = None,
    invitation: Annotated[str | None, typer.Option(help="The token that an admin of the team gave you.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make an account, join the team that invited you, and log in."""
    address = email or _line("E-mail: ")
    with connect() as client:
        found = client.logins.sign_up(address, _new_secret(), invitation=invitation, keep=True)
    _told(found.raw, f"Welcome, {address}.", as_json=as_json)


def logout() -> None:
    """End the login, here and on the server."""
    with connect() as client:
        client.logins.log_out()
    talk("Logged out.")


def password() -> None:
    """Set a new password. Every login of yours ends; keys stay."""
    with connect() as client:
        client.logins.change_password(_secret("Password: "), _new_secret())
    talk("Set. Log in with it: tune login")


def whoami(as_json: AsJson = False) -> None:
    """Who you are for the server, in which team, with which role."""
    with connect() as client:
        me = client.me()
    if as_json:
        out_json(me)
        return
    out(pairs([("e-mail", me.email), ("user", me.user_id), ("team", me.tenant_id), ("role", me.role)]))


def _told(found: dict[str, object], words: str, *, as_json: bool) -> None:
    if as_json:
        out_json(found)
        return
    out(str(found["user_id"]))
    talk(f"{clean(words)} You act for {found['tenant_id']} as {found['role']}.")
    if _key_is_set():
        talk("LUTHIER_API_KEY is set and wins over this login: unset it to act as yourself.")


def _key_is_set() -> bool:
    """Whether later commands would use a key."""
    from luthier.settings import Settings

    return Settings.load().api_key is not None


def _line(question: str) -> str:
    sys.stderr.write(question)
    sys.stderr.flush()
    text = sys.stdin.readline().strip()
    if not text:
        raise usage("An e-mail address is needed: give it with --email.")
    return text


def _secret(question: str) -> str:
    """From the terminal, unseen; else a line of stdin, for scripts."""
    text = getpass.getpass(question, stream=sys.stderr) if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    if not text:
        raise usage("A password is needed: type it, or give it as a line on stdin.")
    return text


def _new_secret() -> str:
    new = _secret("New password: ")
    if sys.stdin.isatty() and _secret("Once more: ") != new:
        raise usage("The two were not the same.")
    return new
