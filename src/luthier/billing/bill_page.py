"""A month of the ledger as a page to print: whose it is, which days, what was charged for what. Without scripts."""

from __future__ import annotations

import calendar
import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from luthier.billing.types import MonthlyReport, ReportTotal

_STYLE = (
    "<style>body{font:14px sans-serif;margin:2em;max-width:70em}table{border-collapse:collapse;margin:1em 0 2em}"
    "td,th{border-bottom:1px solid #999;padding:.3em .8em;text-align:left;overflow-wrap:anywhere}"
    "td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}tfoot td{font-weight:bold}"
    "small{color:#555}tr{break-inside:avoid}</style>"
)
_MONEY = ("Seconds", "USD", "Refunded")
_Cells = Sequence[object]


@dataclass(frozen=True)
class Reader:
    """For whom the page is, and when it was made."""

    team: str
    at: datetime
    people: Mapping[str, str] = field(default_factory=dict[str, str])
    """Addresses by the id of a user, of those who are in the team now."""


def as_html(found: MonthlyReport, reader: Reader) -> str:
    """The page."""
    title = f"Bill of {reader.team}, {found.period}"
    total = f"Charged ${found.charged_usd}, refunded ${found.refunded_usd}, total ${found.total_usd}."
    jobs = [
        (job.job_id, job.name or "", reader.people.get(job.user_id, job.user_id), job.hardware, *_amounts(job))
        for job in found.jobs
    ]
    parts = [
        _table("By job", ("Job", "Name", "User", "Hardware", *_MONEY), jobs, _sum(found, 4)),
        _tokens(found, reader),
        _table(
            "By user", ("User", *_MONEY), [(reader.people.get(user, user), *_amounts(of)) for user, of in found.by_user.items()]
        ),
        _table("By hardware", ("Hardware", *_MONEY), [(name, *_amounts(of)) for name, of in found.by_hardware.items()]),
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>{_STYLE}</head>\n'
        f"<body><h1>{html.escape(title)}</h1>\n<p>{_days(found.period, reader.at)}</p>\n<p>{total}</p>\n{''.join(parts)}"
        f"<p><small>Luthier, {reader.at:%Y-%m-%d %H:%M} UTC. What a job that still runs has cost is not in it yet.</small></p>\n"
        "</body></html>\n"
    )


def _days(period: str, at: datetime) -> str:
    year, month = (int(part) for part in period.split("-"))
    so_far = " The month is not over." if (at.year, at.month) == (year, month) else ""
    return f"{period}-01 to {period}-{calendar.monthrange(year, month)[1]} (UTC), in US dollars.{so_far}"


def _tokens(found: MonthlyReport, reader: Reader) -> str:
    head = ("Model", "Kind", "User", "Tokens", "USD")
    rows = [
        (
            *(used.model, used.kind, reader.people.get(used.user_id, used.user_id)),
            *(f"{used.prompt_tokens + used.completion_tokens:,}", used.cost_usd),
        )
        for used in found.tokens
    ]
    return _table("Answers of models", head, rows)


def _amounts(of: ReportTotal) -> tuple[object, ...]:
    return f"{of.seconds:,.3f}", of.amount_usd, of.refunded_usd


def _sum(found: MonthlyReport, before: int) -> _Cells:
    """The last line of the jobs; not theirs alone where models answered, too."""
    return () if found.tokens else ("Sum", *[""] * before, found.charged_usd, found.refunded_usd)


def _table(title: str, head: Sequence[str], rows: Sequence[_Cells], foot: _Cells = ()) -> str:
    if not rows:
        return ""
    numbers = [name in {*_MONEY, "Tokens"} for name in head]
    body = "".join(f"<tr>{_line(cells, numbers)}</tr>\n" for cells in rows)
    end = f"<tfoot><tr>{_line(foot, numbers)}</tr></tfoot>" if foot else ""
    return f"<h2>{title}</h2>\n<table><thead><tr>{_line(head, numbers, 'th')}</tr></thead><tbody>\n{body}</tbody>{end}</table>\n"


def _line(cells: Iterable[object], numbers: Sequence[bool], tag: str = "td") -> str:
    opened = (f'<{tag} class="n">' if number else f"<{tag}>" for number in numbers)
    return "".join(f"{start}{html.escape(str(cell))}</{tag}>" for start, cell in zip(opened, cells, strict=True))
