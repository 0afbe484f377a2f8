"""`tune audit`: who did what in your team."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from itertools import chain
from typing import Annotated

import typer

from luthier import ids
from luthier.faces.cli.edge import connect, usage
from luthier.faces.cli.options import After, AsJson, Limit
from luthier.faces.cli.shown import moment, out, out_json, table, talk
from luthier.moments import HOW, moment_of

_LIMIT = 50

Actor = Annotated[str | None, typer.Option(help="Only what this user did, or `system`.")]
Action = Annotated[str | None, typer.Option(help="Only this, e.g. jobs.submit.")]
Outcome = Annotated[str | None, typer.Option(help="changed, unchanged, refused or failed.")]
On = Annotated[str | None, typer.Option(help="Only what names this id.")]
Request = Annotated[str | None, typer.Option("--request", "--request-id", help="Only this request: every error shows its id.")]
Since = Annotated[str | None, typer.Option(help="From this moment on, UTC: 2026-11-01 or 2026-11-01T12:00:00.")]
Until = Annotated[str | None, typer.Option(help="Before this moment, UTC.")]


def add_to(app: typer.Typer) -> None:
    """Make the verb of this file a command of `app`."""
    app.command()(audit)


def audit(
    *,
    actor: Actor = None,
    action: Action = None,
    outcome: Outcome = None,
    on: On = None,
    request: Request = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = _LIMIT,
    after: After = None,
    as_json: AsJson = False,
) -> None:
    """Who did what in your team, newest first. For admins."""
    if request is not None and not ids.is_id(request, ids.REQUEST):
        raise usage("A request's id is req_ and 26 letters and digits, as every error shows it.")
    same = {"actor": actor, "action": action, "outcome": outcome, "on": on}
    with connect() as client:
        page = client.audit.list(limit=limit, after=after, request_id=request, since=_moment(since), until=_moment(until), **same)
    if as_json:
        out_json({"data": [entry.raw for entry in page], "next_cursor": page.next_cursor})
        return
    rows = [
        (moment(each.at), each.actor, each.action, each.outcome, each.get("code"), each.count, " ".join(each.resources[:1]))
        for each in page
    ]
    out(table(("AT", "WHO", "WHAT", "OUTCOME", "CODE", "COUNT", "ON"), rows))
    if page.next_cursor:
        given = {**same, "request": request, "since": since, "until": until, "after": page.next_cursor}
        talk(f"There are more: {_command(limit, given)}")
    if request is not None and not rows and after is None:
        # `Refusals` counts them in one row, which has the id of the first.
        talk("No row has this id. Requests that only look leave none; equal refusals of a minute are in the row of the first of")
        talk("them: tune audit --outcome refused")


def _command(limit: int, given: Mapping[str, str | None]) -> str:
    """The same search once more, to be pasted into a shell."""
    flags = [(f"--{name}", value) for name, value in given.items() if value is not None]
    if limit != _LIMIT:
        flags.insert(-1, ("--limit", str(limit)))
    return shlex.join(["tune", "audit", *chain.from_iterable(flags)])


def _moment(text: str | None) -> str | None:
    """As the server wants it. Raises: usage."""
    try:
        return None if text is None else moment_of(text).isoformat()
    except ValueError as error:
        raise usage(f"A moment is written as {HOW}.") from error
