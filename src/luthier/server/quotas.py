"""`luthier quotas`: what each team may hold, set at the data folder. What a command needs is imported when it runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from luthier.errors import FieldInvalid
from luthier.server.options import AsJson, Data

if TYPE_CHECKING:
    from luthier.wiring import Platform

app = typer.Typer(no_args_is_help=True, help="What a team may hold: storage, jobs, tokens.")
Team = Annotated[str, typer.Argument(help="Id of a team.", metavar="TEAM")]


@app.command()
def show(team: Team, data: Data = None, as_json: AsJson = False) -> None:
    """How much a team may have of each thing, and how much it has."""
    platform = _platform(data)
    try:
        standings = platform.quotas.of_team(team)
    finally:
        platform.close()
    if as_json:
        typer.echo(json.dumps([each.model_dump(mode="json") for each in standings]))
        return
    for each in standings:
        typer.echo(f"{each.quota:16} {each.used:>20,} of {'no limit' if each.limit is None else f'{each.limit:,}'}")


@app.command("set")
def set_(
    team: Team,
    quota: Annotated[str, typer.Argument(help="storage_bytes, queued_jobs, running_jobs or tokens_a_month.", metavar="QUOTA")],
    limit: Annotated[str, typer.Argument(help="A number; 0: no limit; `default`: that of the settings.", metavar="LIMIT")],
    data: Data = None,
) -> None:
    """Give a team more or less than the default. In force at once."""
    from luthier.accounts.quotas import Quota

    if quota not in set(Quota):
        raise FieldInvalid(f"There is no quota of this name; there are {', '.join(Quota)}.", param="quota")
    if limit != "default" and not (limit.isascii() and limit.isdigit() and len(limit) <= 16):
        raise FieldInvalid("A limit is a whole number, or `default`.", param="limit")
    platform = _platform(data)
    try:
        platform.quotas.set(team, Quota(quota), None if limit == "default" else int(limit))
    finally:
        platform.close()


def _platform(data: Data) -> Platform:
    from luthier.settings import Settings
    from luthier.wiring import build

    return build(Settings.load(data=data))
