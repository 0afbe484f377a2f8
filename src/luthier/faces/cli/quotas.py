"""`tune limits`: what your team may hold."""

from __future__ import annotations

import typer

from luthier.faces.cli.edge import connect
from luthier.faces.cli.options import AsJson
from luthier.faces.cli.shown import out, out_json, table


def add_to(app: typer.Typer) -> None:
    """Make the verb of this file a command of `app`."""
    app.command()(limits)


def limits(as_json: AsJson = False) -> None:
    """How much your team may have of what is limited, and how much it has."""
    with connect() as client:
        page = client.quotas.list()
    if as_json:
        out_json({"data": [each.raw for each in page]})
        return
    rows = [(each.quota, f"{each.used:,}", "no limit" if each.get("limit") is None else f"{each.limit:,}") for each in page]
    out(table(("QUOTA", "USED", "LIMIT"), rows))
