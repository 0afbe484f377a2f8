"""The verbs of `tune` about money."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from luthier.faces.cli.edge import connect, usage
from luthier.faces.cli.options import After, AsJson, JobArgument, JobOption, Limit, the_job
from luthier.faces.cli.shown import dollars, duration, moment, out, out_json, pairs, size, table, talk

_NUMBERS = {"ignore_unknown_options": True}
"""`-5` is an amount, though a wrong one, and no flag."""
Book = Annotated[
    Path | None, typer.Option("--book", help="Write it to this file, to change it and to name it by LUTHIER_PRICES.")
]
History = Annotated[bool, typer.Option("--history", help="Every charge, newest first.")]


pricing_app = typer.Typer(help="The price book.")
budget_app = typer.Typer(help="What may be spent in a month.")


def add_to(app: typer.Typer) -> None:
    """Make the verbs of this file commands of `app`."""
    app.command()(cost)
    app.command()(billing)
    app.command()(approve)
    app.command()(reject)
    app.add_typer(pricing_app, name="pricing")
    app.add_typer(budget_app, name="budget")


def cost(job: JobArgument = None, job_id: JobOption = None, as_json: AsJson = False) -> None:
    """What one job has cost so far."""
    with connect() as client:
        found = client.billing.job_cost(the_job(job, job_id))
    if as_json:
        out_json(found)
        return
    from luthier.faces.cli.reports import cost_text

    out(cost_text(found))


def billing(
    history: History = False,
    report: Annotated[str | None, typer.Option(help="A month (UTC) of the ledger, by job: 2026-11.")] = None,
    csv: Annotated[Path | None, typer.Option(help="With --report: write it to this file.")] = None,
    html: Annotated[Path | None, typer.Option(help="With --report: write it to this file, as a page to print.")] = None,
    *,
    limit: Limit = 50,
    after: After = None,
    as_json: AsJson = False,
) -> None:
    """What your team used this month, its charges, or the report of a month."""
    if history and report is not None:
        raise usage("--history lists all charges, --report sums up a month: give one of them.")
    if (csv or html) and report is None:
        raise usage("--csv and --html write the report of a month: name it with --report, e.g. --report 2026-11.")
    if report is not None:
        _report(report, csv, html, as_json=as_json)
        return
    if history:
        _charges(limit, after, as_json=as_json)
        return
    with connect() as client:
        used = client.billing.usage()
    if as_json:
        out_json(used)
        return
    refunded = dollars(used.get("refunded_usd", "0"))
    out(
        pairs(
            [
                ("month", used.period),
                ("cost", dollars(used.cost_usd)),
                ("refunded", None if refunded == "$0.00" else refunded),
                ("held", dollars(used.held_usd)),
            ]
        )
    )
    rows = [(name, duration(each.seconds), dollars(each.cost_usd)) for name, each in used.by_hardware.items()]
    if rows:
        out("\n" + table(("HARDWARE", "TIME", "COST"), rows))
    served = [
        (each.model, each.kind, f"{each.requests:,}", f"{each.prompt_tokens + each.completion_tokens:,}", dollars(each.cost_usd))
        for each in used.get("tokens", ())
    ]
    if served:
        out("\n" + table(("MODEL", "KIND", "REQUESTS", "TOKENS", "COST"), served))


@pricing_app.callback(invoke_without_command=True)
def pricing(context: typer.Context, book: Book = None, as_json: AsJson = False) -> None:
    """The price book."""
    if context.invoked_subcommand is not None:
        return
    with connect() as client:
        prices = client.billing.pricing()
    if book is not None:
        entries = [json.dumps({name: price[name] for name in ("hardware", "hourly_usd", "description")}) for price in prices]
        book.write_text("[\n  " + ",\n  ".join(entries) + "\n]\n", "utf-8")
        talk(f"{len(prices)} prices written to {book}.")
        return
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


@pricing_app.command("set", context_settings=_NUMBERS)
def pricing_set(
    hardware: Annotated[str, typer.Argument(help="As `tune pricing` names it.")],
    hourly_usd: Annotated[str, typer.Argument(help="Dollars per hour, e.g. 1.50.")],
    as_json: AsJson = False,
) -> None:
    """A new price from now on; what runs keeps its price to the end of its hour. For those who run the server."""
    with connect() as client:
        price = client.billing.set_price(hardware, hourly_usd)
    if as_json:
        out_json(price)
    else:
        out(f"{price.hardware} costs {dollars(price.hourly_usd)} an hour now.")


@budget_app.callback(invoke_without_command=True)
def budget(context: typer.Context, as_json: AsJson = False) -> None:
    """What your team may spend this month, and how much of it is left."""
    if context.invoked_subcommand is None:
        _show_budgets(as_json=as_json)


@budget_app.command("set", context_settings=_NUMBERS)
def budget_set(
    limit_usd: Annotated[str, typer.Argument(help="Dollars a month (UTC); 0 stops everything, `none` ends the limit.")],
    user: Annotated[str | None, typer.Option(help="Id of one user of the team; without it, for all of it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Set, change or end a monthly budget. For admins."""
    with connect() as client:
        client.billing.set_budget(None if limit_usd == "none" else limit_usd, user_id=user)
    _show_budgets(as_json=as_json)


def _show_budgets(*, as_json: bool) -> None:
    with connect() as client:
        found = client.billing.budgets()
    if as_json:
        out_json({"data": [each.raw for each in found]})
        return
    rows = [
        (each.user_id or each.of, *(dollars(each[name]) for name in ("limit_usd", "spent_usd", "held_usd", "left_usd")))
        for each in found
    ]
    out(table(("BUDGET", "A MONTH", "SPENT", "HELD", "LEFT"), rows) if rows else "No budget is set: nothing is limited.")


def _report(period: str, csv: Path | None, html: Path | None, *, as_json: bool) -> None:
    with connect() as client:
        for file, read in ((csv, client.billing.report_csv), (html, client.billing.report_page)):
            if file is not None:
                file.write_text(read(period), "utf-8", newline="")
                talk(f"Written to {file}.")
        if csv or html:
            return
        found = client.billing.report(period)
    if as_json:
        out_json(found)
        return
    names = ("job_id", "name", "user_id", "hardware")
    rows: list[tuple[object, ...]] = [
        (*(each[name] for name in names), dollars(each["amount_usd"]), dollars(each["refunded_usd"]))
        for each in found.raw["jobs"]
    ]
    rows += [
        (None, used["model"], used["user_id"], f"tokens ({used['kind']})", dollars(used["cost_usd"]), None)
        for used in found.raw.get("tokens", ())
    ]
    out(table(("JOB", "NAME", "USER", "HARDWARE", "CHARGED", "REFUNDED"), rows))
    out(f"Total {dollars(found.total_usd)}: charged {dollars(found.charged_usd)}, refunded {dollars(found.refunded_usd)}.")


def approve(job: JobArgument = None, job_id: JobOption = None, as_json: AsJson = False) -> None:
    """Let a costly job that waits for approval stand in line. For admins."""
    with connect() as client:
        found = client.jobs.approve(the_job(job, job_id))
    out_json(found) if as_json else out(f"{found.id} is {found.state}.")


def reject(
    job: JobArgument = None,
    job_id: JobOption = None,
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    as_json: AsJson = False,
) -> None:
    """End a costly job that waits for approval. For admins."""
    with connect() as client:
        found = client.jobs.reject(the_job(job, job_id), reason)
    out_json(found) if as_json else out(f"{found.id} is {found.state}.")


def _charges(limit: int, after: str | None, *, as_json: bool) -> None:
    with connect() as client:
        page = client.billing.history(limit=limit, after=after)
    if as_json:
        out_json({"data": [charge.raw for charge in page], "next_cursor": page.next_cursor})
        return
    rows = [
        (moment(each.at), each.job_id, each.hardware, duration(each.seconds), dollars(each.amount_usd), each.get("reason"))
        for each in page
    ]
    out(table(("AT", "JOB", "HARDWARE", "TIME", "AMOUNT", "WHY"), rows))
    if page.next_cursor:
        talk(f"There are more: tune billing --history --after {page.next_cursor}")
