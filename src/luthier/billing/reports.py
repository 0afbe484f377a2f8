"""A month of the ledger: as numbers and as CSV. Its totals are the ledger's, to the micro-dollar."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luthier.billing import rules
from luthier.billing.types import MonthlyReport, ReportLine, ReportTotal, TokenUsage

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_COLUMNS = ("job_id", "name", "user_id", "hardware", "seconds", "amount_usd", "refunded_usd")


@dataclass(frozen=True)
class Booked:
    """One line of the ledger, and whose job it is."""

    job_id: str
    user_id: str
    hardware: str
    ms: int
    micro_usd: int
    is_refund: bool


@dataclass
class _Sum:
    ms: int = 0
    charged: int = 0
    refunded: int = 0

    def add(self, line: Booked) -> None:
        self.ms += line.ms
        if line.is_refund:
            self.refunded -= line.micro_usd
        else:
            self.charged += line.micro_usd


def report(period: str, lines: Iterable[Booked], names: Mapping[str, str], tokens: Sequence[TokenUsage] = ()) -> MonthlyReport:
    """The lines of one month, summed by job, by user and by hardware; served tokens have no hardware of their own."""
    jobs: dict[tuple[str, str, str], _Sum] = defaultdict(_Sum)
    users: dict[str, _Sum] = defaultdict(_Sum)
    hardware: dict[str, _Sum] = defaultdict(_Sum)
    whole = _Sum()
    for line in lines:
        for each in (jobs[line.job_id, line.user_id, line.hardware], users[line.user_id], hardware[line.hardware], whole):
            each.add(line)
    for used in tokens:
        for each in (users[used.user_id], whole):
            each.charged += rules.micro_usd(used.cost_usd)
    return MonthlyReport(
        period=period,
        charged_usd=rules.usd(whole.charged),
        refunded_usd=rules.usd(whole.refunded),
        total_usd=rules.usd(whole.charged - whole.refunded),
        jobs=tuple(
            ReportLine(job_id=job, name=names.get(job), user_id=user, hardware=kind, **_amounts(found))
            for (job, user, kind), found in sorted(jobs.items())
        ),
        by_user={user: ReportTotal(**_amounts(found)) for user, found in sorted(users.items())},
        by_hardware={kind: ReportTotal(**_amounts(found)) for kind, found in sorted(hardware.items())},
        tokens=tuple(tokens),
    )


def as_csv(found: MonthlyReport) -> str:
    """One line a job, then one for what each model answered to each user. What a spreadsheet would compute is shown as text."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(_COLUMNS)
    for job in found.jobs:
        texts = (job.job_id, job.name or "", job.user_id, job.hardware)
        writer.writerow((*map(plain_cell, texts), job.seconds, job.amount_usd, job.refunded_usd))
    for used in found.tokens:
        writer.writerow(("", *map(plain_cell, (used.model, used.user_id, f"tokens ({used.kind})")), "", used.cost_usd, ""))
    return out.getvalue()


def plain_cell(text: str) -> str:
    """A cell that no spreadsheet takes for a formula.

    >>> plain_cell('=HYPERLINK("x")'), plain_cell("intents")
    ('\\'=HYPERLINK("x")', 'intents')
    """
    return f"'{text}" if text.lstrip().startswith(_FORMULA) or text.startswith(_FORMULA) else text


def _amounts(found: _Sum) -> dict[str, Any]:
    return {"seconds": found.ms / 1000, "amount_usd": rules.usd(found.charged), "refunded_usd": rules.usd(found.refunded)}
