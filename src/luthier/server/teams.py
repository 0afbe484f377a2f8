"""`luthier teams`: who belongs to which. For those who run the server; what a command needs is imported when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from luthier.errors import counted
from luthier.server.folder import checked, email_of, platform_of, shown
from luthier.server.options import AsJson, Data

app = typer.Typer(no_args_is_help=True, help="Teams and their members.")
TeamArgument = Annotated[str, typer.Argument(metavar="TEAM", help="Id of a team.")]


@app.command("list")
def list_teams(data: Data = None, as_json: AsJson = False) -> None:
    """All teams, oldest first."""
    with platform_of(data) as platform:
        teams = platform.accounts.teams.every()
    lines = (
        f"{team.id}  {team.name}  {counted(team.members, 'member')}{'  suspended' if team.suspended_at else ''}" for team in teams
    )
    shown(teams, lines, as_json=as_json)


@app.command()
def put(
    team: TeamArgument,
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="Somebody with an account.")],
    role: Annotated[str, typer.Option(help="viewer, member or admin.")] = "member",
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Make somebody a member of a team, or give them another role."""
    from luthier.accounts.types import Role

    wanted = checked(Role, role, "role")
    with platform_of(data) as platform:
        member = platform.accounts.teams.put(team, email_of(email), wanted)
    shown([member], [f"{member.user_id}  {member.email}  {member.role}"], as_json=as_json)


@app.command()
def suspend(team: TeamArgument, data: Data = None) -> None:
    """Refuse everybody who acts for this team, from the next request on. Jobs that run go on."""
    with platform_of(data) as platform:
        platform.accounts.teams.suspend(team)


@app.command()
def resume(team: TeamArgument, data: Data = None) -> None:
    """End a suspension."""
    with platform_of(data) as platform:
        platform.accounts.teams.suspend(team, on=False)
