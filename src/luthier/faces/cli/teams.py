"""`tune team`: your teams, and the people of the one that you act for."""

from __future__ import annotations

from typing import Annotated

import typer

from luthier import ids
from luthier.faces.cli.edge import connect, new_app, usage
from luthier.faces.cli.options import AsJson, Yes, sure
from luthier.faces.cli.shown import moment, out, out_json, table, talk

app = new_app("Your teams, and the people of the one that you act for.")

User = Annotated[str, typer.Argument(metavar="USER", help="Their id: user_...", show_default=False)]
RoleArgument = Annotated[str, typer.Argument(metavar="ROLE", help="viewer, member or admin.", show_default=False)]


def add_to(tune: typer.Typer) -> None:
    """Make the verbs of this file commands of `tune team`."""
    tune.add_typer(app, name="team")


@app.command("list")
def list_teams(as_json: AsJson = False) -> None:
    """The teams that you are in. `tune login --team <id>` acts for another one."""
    with connect() as client:
        teams = client.teams.list()
    if as_json:
        out_json({"data": [team.raw for team in teams]})
        return
    out(table(("ID", "NAME", "YOU ARE"), [(team.id, team.name, team.role) for team in teams]))


@app.command()
def create(name: Annotated[str, typer.Argument(help="Its name.")], as_json: AsJson = False) -> None:
    """Make a team, with you as its admin, and print its id."""
    with connect() as client:
        team = client.teams.create(name)
    if as_json:
        out_json(team)
        return
    out(team.id)
    talk(f"Act for it: tune login --team {team.id}")


@app.command()
def members(as_json: AsJson = False) -> None:
    """The people of your team."""
    with connect() as client:
        found = client.teams.members()
    if as_json:
        out_json({"data": [member.raw for member in found]})
        return
    out(table(("USER", "E-MAIL", "ROLE"), [(member.user_id, member.email, member.role) for member in found]))


@app.command()
def invite(
    email: Annotated[str, typer.Argument(help="Whom.")],
    role: Annotated[str, typer.Option(help="viewer, member or admin.")] = "member",
    as_json: AsJson = False,
) -> None:
    """Invite somebody, and print the token for them. For admins."""
    with connect() as client:
        made = client.teams.invite(email, role=role)
    if as_json:
        out_json(made)
        return
    out(made.token)
    talk(f"Give it to them, this once; it is good until {moment(made.invitation.expires_at)}. They run:")
    talk(f"  tune signup --email {made.invitation.email} --invitation <token>   (or, with an account: tune team join <token>)")


@app.command()
def invitations(as_json: AsJson = False) -> None:
    """Invitations that nobody has accepted yet. For admins."""
    with connect() as client:
        found = client.teams.invitations()
    if as_json:
        out_json({"data": [each.raw for each in found]})
        return
    out(table(("ID", "E-MAIL", "ROLE", "UNTIL"), [(each.id, each.email, each.role, moment(each.expires_at)) for each in found]))


@app.command()
def withdraw(
    invitation: Annotated[str, typer.Argument(metavar="INVITATION", help="Its id: inv_...", show_default=False)],
) -> None:
    """End an invitation. For admins."""
    with connect() as client:
        client.teams.withdraw(_an_id(invitation, ids.INVITATION, "an invitation"))
    talk("Withdrawn.")


@app.command()
def join(token: Annotated[str, typer.Argument(help="The token that an admin gave you.")], as_json: AsJson = False) -> None:
    """Accept an invitation to your e-mail address."""
    with connect() as client:
        team = client.teams.join(token)
    if as_json:
        out_json(team)
        return
    out(team.id)
    talk(f"You are in as {team.role}. Act for it: tune login --team {team.id}")


@app.command()
def role(user: User, role: RoleArgument, as_json: AsJson = False) -> None:
    """Give somebody another role. It is in force on their next request. For admins."""
    with connect() as client:
        member = client.teams.set_role(_an_id(user, ids.USER, "a user"), role)
    if as_json:
        out_json(member)
        return
    out(f"{member.user_id}  {member.email}  {member.role}")


@app.command()
def remove(user: User, yes: Yes = False) -> None:
    """Take somebody out of your team. What they made stays. For admins."""
    sure("Their keys and logins for this team end now. Go on?", yes=yes)
    with connect() as client:
        client.teams.remove(_an_id(user, ids.USER, "a user"))
    talk("Removed.")


def _an_id(text: str, prefix: str, what: str) -> str:
    if not ids.is_id(text, prefix):
        raise usage(f"This is not the id of {what}: that is {prefix}_ and 26 letters and digits.")
    return text
