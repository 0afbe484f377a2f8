"""Money as values. Inside it is integer micro-dollars and integer milliseconds; on the wire it is decimal strings."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from luthier.values import Frozen, Text, Usd, UsdSum, micro_usd

Reason = Annotated[Text, Field(min_length=1, max_length=500)]
"""Why money is given back: it stands in the ledger for good."""


class Price(Frozen):
    """What an hour of one kind of hardware costs now, and how much that hardware can hold."""

    hardware: str = Field(description="The name that a run gives as `hardware`.")
    description: str = ""
    hourly_usd: Usd = Field(description="Dollars per hour; billed by the millisecond.")
    kind: Literal["cpu", "gpu"] = Field(default="gpu", description="What computes.")
    memory_bytes: int | None = Field(default=None, description="Memory of one GPU, or of the machine without any; null: unknown.")
    assumed_flops: float = Field(description="Operations per second that an estimate assumes before anything was measured.")
    bf16: bool = Field(default=True, description="Computes in bf16 by itself: larger bases are held in two bytes a weight.")
    valid_from: datetime

    @property
    def micro_usd_per_hour(self) -> int:
        """The same price in integer micro-dollars."""
        return micro_usd(self.hourly_usd)


class JobCost(Frozen):
    """What one job has cost so far, to the micro-dollar."""

    job_id: str
    hardware: str
    hourly_usd: Usd = Field(description="The price of the latest usage; earlier usage keeps the price it began with.")
    elapsed_seconds: float = Field(description="Billed time of all attempts together.")
    elapsed_hours: float
    cost_usd: UsdSum
    held_usd: UsdSum = Field(description="Set aside for what the job may still cost; 0.00 once it is settled.")
    settled: bool = Field(description="Whether the cost is final and stands in the ledger.")


class HardwareUsage(Frozen):
    """Time and money of one kind of hardware in a period."""

    seconds: float
    cost_usd: UsdSum


class TokenUsage(Frozen):
    """What one user was served by one model in a period."""

    model: str = Field(description="A model id, a base id, or the name of an embedder.")
    kind: Literal["chat", "predict", "embeddings"]
    user_id: str
    requests: int
    prompt_tokens: int
    completion_tokens: int = Field(description="As sent: of an answer that nobody waited for, those that had been.")
    cost_usd: UsdSum


class UsageReport(Frozen):
    """What the caller's tenant used in the current month (UTC)."""

    period: str = Field(description="`YYYY-MM`.")
    cost_usd: UsdSum = Field(description="All usage, settled or not: hardware and served tokens.")
    refunded_usd: UsdSum = Field(default="0.00", description="Given back in this month; not taken off `cost_usd`.")
    held_usd: UsdSum = Field(description="Set aside for jobs that are not settled yet.")
    by_hardware: dict[str, HardwareUsage]
    tokens: tuple[TokenUsage, ...] = Field(default=(), description="What models answered, by model, kind and user.")


class Charge(Frozen):
    """One line of the ledger: final, never changed; a correction would be a further line."""

    id: str
    job_id: str
    attempt: int
    period: str = Field(description="The month that it counts for, `YYYY-MM`.")
    hardware: str
    seconds: float
    amount_usd: UsdSum = Field(description="Dollars; negative in a refund.")
    at: datetime
    reason: str | None = Field(default=None, description="Why it was refunded.")


class Budget(Frozen):
    """What may be spent in a month (UTC), and how much of it was."""

    of: Literal["platform", "team", "user"]
    user_id: str | None = Field(default=None, description="Whose it is, where it is one user's.")
    period: str = Field(description="`YYYY-MM`.")
    limit_usd: Usd = Field(description="0.00 stops everything.")
    spent_usd: UsdSum
    held_usd: UsdSum = Field(description="Set aside for jobs that are not settled yet.")
    left_usd: UsdSum
    alerts: tuple[int, ...] = Field(description="Percent of it that were told of in this month.")


class ReportTotal(Frozen):
    """Time and money of one month."""

    seconds: float
    amount_usd: UsdSum = Field(description="What was charged.")
    refunded_usd: UsdSum


class ReportLine(ReportTotal):
    """One job on one kind of hardware."""

    job_id: str
    name: str | None
    user_id: str
    hardware: str


class MonthlyReport(Frozen):
    """A month of the ledger of one team."""

    period: str = Field(description="`YYYY-MM` (UTC).")
    charged_usd: UsdSum
    refunded_usd: UsdSum
    total_usd: UsdSum = Field(description="Charged less refunded; below 0 where more came back than was charged in this month.")
    jobs: tuple[ReportLine, ...]
    by_user: dict[str, ReportTotal]
    by_hardware: dict[str, ReportTotal]
    tokens: tuple[TokenUsage, ...] = Field(default=(), description="What models answered; in the sums above, but in no job.")


@dataclass(frozen=True)
class Refund:
    """A part of a job's charges to give back; once a key."""

    job_id: str
    micro_usd: int
    reason: str
    key: str


@dataclass(frozen=True)
class Hold:
    """Money to set aside for a job."""

    job_id: str
    hardware: str
    micro_usd: int
    first: bool = False
    """The job is new: nothing was ever held for it."""


@dataclass(frozen=True)
class Segment:
    """A stretch of usage as its supervisor measured it. Sent again and again while it grows; the longest one counts."""

    tenant_id: str
    job_id: str
    attempt: int
    seq: int
    hardware: str
    started_at: datetime
    ms: int
