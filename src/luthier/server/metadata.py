"""The files of `users/<tenant_id>/metadata/`, in the seed's schema: pure functions of what the services say.

They are for people and their scripts. The platform never reads them; exact amounts are in the database and in the API.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from luthier.accounts.types import Member, User
from luthier.billing.types import MonthlyReport, Price, ReportTotal
from luthier.datasets import types as datasets
from luthier.jobs import types as jobs
from luthier.registry import types as models
from luthier.values import micro_usd, rfc3339, usd


@dataclass(frozen=True)
class Team:
    """All that the files of one team are made of."""

    members: Sequence[tuple[Member, User]]
    """In the order in which they joined."""
    last_logins: Mapping[str, datetime]
    suspended: bool
    report: MonthlyReport
    prices: Sequence[Price]
    jobs: Iterable[jobs.Listed]
    datasets: Iterable[datasets.Listed]
    models: Iterable[models.Listed]


def files(team: Team) -> dict[str, Iterator[bytes]]:
    """The content of each file by its name, in parts: a team may have had very many jobs."""
    return {
        "user_info.json": _whole(user_info(team)),
        "jobs.json": _list("jobs", map(_job, team.jobs)),
        "datasets.json": _list("datasets", map(_dataset, team.datasets)),
        "models.json": _list("models", map(_model, team.models)),
        "billing.json": _whole(billing(team.report, team.prices)),
        "gpu_pricing.json": _whole(gpu_pricing(team.prices)),
    }


def _whole(document: Mapping[str, Any]) -> Iterator[bytes]:
    yield json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"


def _list(name: str, entries: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """An object with one list in it, an entry a line.

    >>> print(b"".join(_list("jobs", [{"job_id": "a"}, {"job_id": "b"}])).decode())
    {"jobs": [
      {"job_id": "a"},
      {"job_id": "b"}
    ]}
    <BLANKLINE>
    """
    yield f'{{"{name}": ['.encode()
    before = "\n  "
    for entry in entries:
        yield f"{before}{json.dumps(entry, ensure_ascii=False)}".encode()
        before = ",\n  "
    yield b"\n]}\n"


def gpu_pricing(prices: Iterable[Price]) -> dict[str, Any]:
    """What an hour of each hardware costs."""
    return {price.hardware: {"cost_per_hour": float(price.hourly_usd)} for price in prices}


def billing(report: MonthlyReport, prices: Iterable[Price]) -> dict[str, Any]:
    """The ledger of a month: final charges less refunds. Jobs that still run are in it once they have ended."""
    hourly = {price.hardware: float(price.hourly_usd) for price in prices}
    breakdown: dict[str, dict[str, float | None]] = {
        hardware: {"seconds": total.seconds, "cost_per_hour": hourly.get(hardware), "total_cost": _net(total)}
        for hardware, total in report.by_hardware.items()
    }
    served = sum(micro_usd(usage.cost_usd) for usage in report.tokens)
    if served:  # in the total, and on no hardware: without it the parts would not sum to it
        breakdown["served_tokens"] = {"total_cost": float(usd(served))}
    jobs = [
        {"job_id": line.job_id, "gpu_type": line.hardware, "duration_seconds": line.seconds, "cost": _net(line)}
        for line in report.jobs
    ]
    current = {"start_date": f"{report.period}-01", "total_cost": float(report.total_usd)}
    return {"current_period": {**current, "usage_breakdown": breakdown, "jobs": jobs}}


def user_info(team: Team) -> dict[str, Any]:
    """Who the team is: the fields of its first member, whose team it is where it has one member only, then all of them."""
    people = [_person(member, user, team.last_logins.get(user.id)) for member, user in team.members]
    first = {name: people[0][name] for name in ("email", "created_at", "last_login")} if people else {}
    status = "suspended" if team.suspended else people[0]["status"] if people else "empty"
    return {**first, "status": status, "members": people}


def _person(member: Member, user: User, last_login: datetime | None) -> dict[str, Any]:
    return {
        "user_id": user.id,
        "email": user.email,
        "role": member.role,
        "created_at": rfc3339(user.created_at),
        "status": "disabled" if user.disabled_at else "active",
        "last_login": rfc3339(last_login) if last_login else None,
    }


def _job(job: jobs.Listed) -> dict[str, Any]:
    return {
        "job_id": job.id,
        "model_id": job.model_id,
        "dataset_id": job.dataset or None,
        "status": job.state,
        "created_at": rfc3339(job.created_at),
        "updated_at": rfc3339(job.updated_at),
    }


def _dataset(dataset: datasets.Listed) -> dict[str, Any]:
    return {
        "dataset_id": dataset.id,
        "name": dataset.name,
        "version": dataset.version,
        "status": dataset.state,
        "created_at": rfc3339(dataset.created_at),
    }


def _model(model: models.Listed) -> dict[str, Any]:
    return {
        "model_id": model.id,
        "name": model.name,
        "version": str(model.number),
        "stage": model.stage,
        "job_id": model.job_id,
        "created_at": rfc3339(model.created_at),
    }


def _net(total: ReportTotal) -> float:
    return float(usd(micro_usd(total.amount_usd) - micro_usd(total.refunded_usd)))
