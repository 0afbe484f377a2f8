"""`tune audit`: who did what in your team."""

from __future__ import annotations

from typing import Annotated

import typer

from luthier.faces.cli.edge import connect
from luthier.faces.cli.options import After, AsJson, Limit
from luthier.faces.cli.shown import moment, out, out_json, table, talk

Actor = Annotated[str | None, typer.Option(help="Only what this user did, or `system`.")]
Action = Annotated[str | None, typer.Option(help="Only this, e.g. jobs.submit.")]
Outcome = Annotated[str | None, typer.Option(help="changed, unchanged, refused or failed.")]
On = Annotated[str | None, typer.Option(help="Only what names this id.")]
Since = Annotated[str | None, typer.Option(help="From this moment on, e.g. 2026-11-01T00:00:00Z.")]
Until = Annotated[str | None, typer.Option(help="Before this moment.")]


def add_to(app: typer.Typer) -> None:
    """Make the verb of this file a command of `app`."""
    app.command()(audit)


def audit(
    *,
    actor: Actor = None,
    action: Action = None,
    outcome: Outcome = None,
    on: On = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 50,
    after: After = None,
    as_json: AsJson = False,
) -> None:
    """Who did what in your team, newest first. For admins."""
    with connect() as client:
        page = client.audit.list(
            limit=limit, after=after, actor=actor, action=action, outcome=outcome, on=on, since=since, until=until
        )
    if as_json:
        out_json({"data": [entry.raw for entry in page], "next_cursor": page.next_cursor})
        return
    rows = [
        (moment(each.at), each.actor, each.action, each.outcome, each.get("code"), each.count, " ".join(each.resources[:1]))
        for each in page
    ]
    out(table(("AT", "WHO", "WHAT", "OUTCOME", "CODE", "COUNT", "ON"), rows))
    if page.next_cursor:
        talk(f"There are more: tune audit --after {page.next_cursor}")
