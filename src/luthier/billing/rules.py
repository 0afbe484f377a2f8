"""The arithmetic of money: integers only, so that parts always add up to the whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

# With the rest of the arithmetic, for those who bill.
from luthier.values import micro_usd, usd  # noqa: F401  # pyright: ignore[reportUnusedImport]

MS_PER_HOUR = 3_600_000
SEGMENT_MS = MS_PER_HOUR
"""A segment that has grown this long is closed; the next one begins with the price of that moment."""
MOST_MICRO_USD = 10**15
"""The most that is held for one job, a billion dollars: thousands of such holds still add up in the database's integers."""


@dataclass(frozen=True)
class Stretch:
    """Usage at one price. The order of a job's stretches is (attempt, seq)."""

    attempt: int
    seq: int
    started_at: datetime
    ms: int
    micro_usd_per_hour: int


@dataclass(frozen=True)
class Line:
    """What one stretch costs in one month."""

    attempt: int
    seq: int
    period: str
    ms: int
    micro_usd: int


def period_of(moment: datetime) -> str:
    """The month that a moment belongs to, in UTC.

    >>> period_of(datetime(2026, 11, 21, tzinfo=UTC))
    '2026-11'
    """
    return moment.astimezone(UTC).strftime("%Y-%m")


def day_of(moment: datetime) -> str:
    """The day that a moment belongs to, in UTC; its first seven characters are its period.

    >>> day_of(datetime(2026, 11, 21, tzinfo=UTC))
    '2026-11-21'
    """
    return moment.astimezone(UTC).strftime("%Y-%m-%d")


def by_period(started_at: datetime, ms: int) -> Iterator[tuple[str, int]]:
    """`ms` from `started_at` on, cut at the ends of months; the parts sum to `ms`. Nothing for no time."""
    return ((period_of(moment), part) for moment, part in _cut(started_at, ms, _next_month))


def _cut(started_at: datetime, ms: int, edge: Callable[[datetime], datetime]) -> Iterator[tuple[datetime, int]]:
    here, left = started_at.astimezone(UTC), ms
    while left > 0:
        following = edge(here.replace(hour=0, minute=0, second=0, microsecond=0))
        # Rounded up: a part of a millisecond belongs to the month, or the day, in which it began.
        room = -((here - following) // timedelta(milliseconds=1))
        part = min(left, room)
        yield here, part
        here, left = following, left - part


def _next_month(midnight: datetime) -> datetime:
    return (midnight.replace(day=1) + timedelta(days=32)).replace(day=1)


def _next_day(midnight: datetime) -> datetime:
    return midnight + timedelta(days=1)


def charge(stretches: Iterable[Stretch]) -> int:
    """The cumulative charge: floor(sum of price x ms / an hour), in micro-dollars.

    Floored once, over all: a job in a hundred pieces costs what it costs in one.
    """
    return sum(stretch.micro_usd_per_hour * stretch.ms for stretch in stretches) // MS_PER_HOUR


def lines(stretches: Iterable[Stretch]) -> list[Line]:
    """The ledger of a job: each line is the cumulative charge up to its end less the one before it.

    Later stretches never change earlier lines, so a job that is settled, resumed and settled again only adds lines.
    """
    found: list[Line] = []
    numerator = charged = 0
    for stretch in sorted(stretches, key=lambda item: (item.attempt, item.seq)):
        for period, ms in by_period(stretch.started_at, stretch.ms):
            numerator += stretch.micro_usd_per_hour * ms
            amount = numerator // MS_PER_HOUR - charged
            charged += amount
            found.append(Line(attempt=stretch.attempt, seq=stretch.seq, period=period, ms=ms, micro_usd=amount))
    return found


def by_day(stretches: Iterable[Stretch]) -> dict[str, int]:
    """What a job costs on each day, by the ledger's own rule: the days of a month sum to its lines in the ledger."""
    found: dict[str, int] = defaultdict(int)
    numerator = charged = 0
    for stretch in sorted(stretches, key=lambda item: (item.attempt, item.seq)):
        for moment, ms in _cut(stretch.started_at, stretch.ms, _next_day):
            numerator += stretch.micro_usd_per_hour * ms
            amount = numerator // MS_PER_HOUR - charged
            charged += amount
            found[day_of(moment)] += amount
    return dict(found)


def difference(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """What was added to each day, where anything was."""
    days = sorted({*before, *after})
    changed = {day: after.get(day, 0) - before.get(day, 0) for day in days}
    return {day: amount for day, amount in changed.items() if amount}


def expected_micro_usd(micro_usd_per_hour: int, seconds: int) -> int:
    """What an estimate holds: rounded up, so that a priced job never holds nothing.

    >>> expected_micro_usd(10_000_000, 3600), expected_micro_usd(1, 1)
    (10000000, 1)
    """
    return -(-micro_usd_per_hour * seconds * 1000 // MS_PER_HOUR)


def seconds_left(seconds: int, step: int, steps: int | None) -> int:
    """What is left of an estimate after `step` of its steps, rounded up; all of it where nobody knows how many there are.

    >>> seconds_left(100, 1, 3), seconds_left(100, 0, None), seconds_left(100, 7, 5)
    (67, 100, 0)
    """
    return -(-seconds * max(0, steps - step) // steps) if steps else seconds


def shares(total: int, weights: list[int]) -> list[int]:
    """`total` split by `weights`, by largest remainder: the parts sum to it exactly. Raises: ValueError for no weight at all.

    >>> shares(100, [1, 1, 1])
    [34, 33, 33]
    """
    whole = sum(weights)
    if whole <= 0 or min(weights) < 0:
        raise ValueError("weights are not negative, and at least one is above 0")
    parts = [total * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda index: -(total * weights[index] % whole))
    for index in by_remainder[: total - sum(parts)]:
        parts[index] += 1
    return parts


def shared_ms(ms: int, tokens: list[int]) -> list[int]:
    """The time of one process, divided among the jobs that it trained by their tokens; evenly where none has any.

    >>> shared_ms(10_000, [300, 100]), shared_ms(10_000, [0, 0])
    ([7500, 2500], [5000, 5000])
    """
    return shares(ms, tokens if any(tokens) else [1] * len(tokens))
