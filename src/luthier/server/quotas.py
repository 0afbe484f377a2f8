"""`luthier quotas`: what each team may hold, set at the data folder. What a command needs is imported when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from luthier.errors import FieldInvalid
from luthier.server.folder import platform_of, shown
from luthier.server.options import AsJson, Data

app = typer.Typer(no_args_is_help=True, help="What a team may hold: storage, jobs, tokens.")
Team = Annotated[str, typer.Argument(help="Id of a team.", metavar="TEAM")]

_MOST_DIGITS = 16
_WIDTH = 22


@app.command()
def show(team: Team, data: Data = None, as_json: AsJson = False) -> None:
    """How much a team may have of each thing, and how much it has."""
    with platform_of(data) as platform:
        standings = platform.quotas.of_team(team)
    limits = ("no limit" if each.limit is None else f"{each.limit:,}" for each in standings)
    lines = (f"{each.quota:{_WIDTH}} {each.used:>{_WIDTH},} of {limit}" for each, limit in zip(standings, limits, strict=True))
    shown(standings, lines, as_json=as_json)


@app.command("set")
def set_(
    team: Team,
    quota: Annotated[str, typer.Argument(help="One of those that `luthier quotas show` lists.", metavar="QUOTA")],
    limit: Annotated[str, typer.Argument(help="A number; 0: no limit; `default`: that of the settings.", metavar="LIMIT")],
    data: Data = None,
) -> None:
    """Give a team more or less than the default. In force at once."""
    from luthier.accounts.quotas import Quota

    if quota not in set(Quota):
        raise FieldInvalid(f"There is no quota of this name; there are {', '.join(Quota)}.", param="quota")
    if limit != "default" and not (limit.isascii() and limit.isdigit() and len(limit) <= _MOST_DIGITS):
        raise FieldInvalid(
            f"A limit is a whole number of at most {_MOST_DIGITS} digits, like 50000000000, or `default`.", param="limit"
        )
    with platform_of(data) as platform:
        platform.quotas.set(team, Quota(quota), None if limit == "default" else int(limit))
