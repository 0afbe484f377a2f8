"""The verbs of `tune` about money."""

from __future__ import annotations

from typing import Annotated

import typer

from luthier.faces.cli.edge import connect
from luthier.faces.cli.options import After, AsJson, JobArgument, JobOption, Limit, the_job
from luthier.faces.cli.shown import dollars, duration, moment, out, out_json, pairs, size, table, talk

History = Annotated[bool, typer.Option("--history", help="Every charge, newest first.")]


def add_to(app: typer.Typer) -> None:
    """Make the verbs of this file commands of `app`."""
    app.command()(cost)
    app.command()(billing)
    app.command()(pricing)


def cost(job: JobArgument = None, job_id: JobOption = None, as_json: AsJson = False) -> None:
    """What one job has cost so far."""
    with connect() as client:
        found = client.billing.job_cost(the_job(job, job_id))
    if as_json:
        out_json(found)
        return
    from luthier.faces.cli.reports import cost_text

    out(cost_text(found))


def billing(history: History = False, limit: Limit = 50, after: After = None, as_json: AsJson = False) -> None:
    """What your team used this month, or its charges."""
    if history:
        _charges(limit, after, as_json=as_json)
        return
    with connect() as client:
        usage = client.billing.usage()
    if as_json:
        out_json(usage)
        return
    out(pairs([("month", usage.period), ("cost", dollars(usage.cost_usd)), ("held", dollars(usage.held_usd))]))
    rows = [(name, duration(each.seconds), dollars(each.cost_usd)) for name, each in usage.by_hardware.items()]
    if rows:
        out("\n" + table(("HARDWARE", "TIME", "COST"), rows))


def pricing(as_json: AsJson = False) -> None:
    """The price book."""
    with connect() as client:
        prices = client.billing.pricing()
    if as_json:
        out_json({"data": [price.raw for price in prices]})
        return
    rows = [
        (
            price.hardware,
            dollars(price.hourly_usd),
            size(price.memory_bytes) if price.get("memory_bytes") else None,
            price.get("description"),
        )
        for price in prices
    ]
    out(table(("HARDWARE", "AN HOUR", "MEMORY", "DESCRIPTION"), rows))


def _charges(limit: int, after: str | None, *, as_json: bool) -> None:
    with connect() as client:
        page = client.billing.history(limit=limit, after=after)
    if as_json:
        out_json({"data": [charge.raw for charge in page], "next_cursor": page.next_cursor})
        return
    rows = [(moment(each.at), each.job_id, each.hardware, duration(each.seconds), dollars(each.amount_usd)) for each in page]
    out(table(("AT", "JOB", "HARDWARE", "TIME", "AMOUNT"), rows))
    if page.next_cursor:
        talk(f"There are more: tune billing --history --after {page.next_cursor}")
