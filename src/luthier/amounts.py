"""Amounts of money in sentences. Light: every command imports it with the errors."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal


@dataclass(frozen=True)
class Binding:
    """The budget that binds a request: what it is called, and whether the request is for a job or for the answer of a model."""

    name: str
    job: bool = True


def over(needed_usd: Decimal, limit_usd: Decimal, left_usd: Decimal, binding: Binding | None) -> tuple[str, str]:
    """Why something is not taken in, and what to do; by its own limit where no budget is named."""
    needed, limit, left = at_least(needed_usd), at_most(limit_usd), at_most(max(Decimal(0), left_usd))
    if binding is None:
        hint = "Lower `epochs`, pick cheaper hardware (`tune pricing`), or raise `limits.max_cost_usd`."
        return f"This job needs about {needed}, but its limit is {limit}.", hint
    what, smaller = ("Answers cost something here", "")
    if binding.job:
        what, smaller = (f"This job needs about {needed}", "make the job smaller, ")
    hint = f"Wait for running jobs or the next month, {smaller}or ask an admin for more: `tune budget`."
    return f"{what}; {binding.name} has {left} left of {limit}.", hint


def at_least(usd: Decimal) -> str:
    """Cents from a dollar on, below it every digit; rounded up, so that what does not fit never looks as if it did.

    >>> at_least(Decimal("6744.7222")), at_least(Decimal("0.0001"))
    ('$6,744.73', '$0.0001')
    """
    return _dollars(usd, ROUND_CEILING)


def at_most(usd: Decimal) -> str:
    """The same for what is there, rounded down.

    >>> at_most(Decimal("1.129")), at_most(Decimal(0))
    ('$1.12', '$0.00')
    """
    return _dollars(usd, ROUND_FLOOR)


def _dollars(usd: Decimal, rounding: str) -> str:
    whole, places = f"{usd.quantize(Decimal('0.01' if usd >= 1 else '0.000001'), rounding):,f}".split(".")
    return f"${whole}.{places.rstrip('0').ljust(2, '0')}"
