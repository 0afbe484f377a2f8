"""Decisions about budgets: what is admitted, what must stop, when to tell, what is unusual. Integers of micro-dollars."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from statistics import median

THRESHOLDS = (50, 80, 100)
"""Percent of a budget at which its people are told, each once a period."""

HISTORY_DAYS = 30
_DAYS_WITH_SPENDING = 7
_UNUSUAL_Z = 3.5
_SMALLEST_UNUSUAL = 1_000_000
_MAD_OF_A_NORMAL = 1.4826


@dataclass(frozen=True)
class Standing:
    """How a budget stands: what was spent in this period, and what is held for jobs that go on."""

    limit: int
    spent: int
    held: int

    @property
    def committed(self) -> int:
        """Spent, or as good as spent."""
        return self.spent + self.held


def admits(standing: Standing, requested: int) -> bool:
    """Whether a job that may cost this much can be taken in. A budget of 0 stops all, also what costs nothing.

    >>> admits(Standing(10, 4, 3), 3), admits(Standing(10, 4, 3), 4), admits(Standing(0, 0, 0), 0)
    (True, False, False)
    """
    return standing.limit > 0 and (requested == 0 or standing.committed + requested <= standing.limit)


def must_stop(standing: Standing, micro_usd_per_hour: int) -> bool:
    """Whether a running job at this price has to end now: only what is spent counts, not what is held.

    >>> must_stop(Standing(10, 10, 0), 5), must_stop(Standing(10, 9, 9), 5), must_stop(Standing(10, 10, 0), 0)
    (True, False, False)
    """
    return standing.limit == 0 or (micro_usd_per_hour > 0 and standing.spent >= standing.limit)


def reached(standing: Standing, told: Collection[int] = ()) -> tuple[int, ...]:
    """The thresholds that were reached and that nobody was told of. A budget of 0 has none: it was closed on purpose.

    >>> reached(Standing(100, 50, 30)), reached(Standing(100, 100, 0), {50, 80})
    ((50, 80), (100,))
    """
    if standing.limit <= 0:
        return ()
    return tuple(each for each in THRESHOLDS if each not in told and standing.committed * 100 >= each * standing.limit)


def ordinary(history: Sequence[int]) -> int:
    """The middle of a team's days, those before its first spending left out.

    >>> ordinary([0, 0, 3, 1, 2])
    2
    """
    return int(median(_since_the_first(history) or [0]))


def robust_z(value: int, history: Sequence[int]) -> float:
    """How many usual deviations `value` lies from the median of `history`: by the median of deviations, which a few
    wild days do not move. Where days hardly differ, a tenth of the median counts as usual."""
    middle = median(history)
    usual = _MAD_OF_A_NORMAL * median(abs(each - middle) for each in history)
    return (value - middle) / max(usual, middle / 10, 1.0)


def unusual(today: int, history: Sequence[int]) -> bool:
    """Whether a day's spending is out of the ordinary for this team, whose days before it are `history`.

    Days before the first spending are no history, and a week of spending is needed to know what is ordinary.
    """
    days = _since_the_first(history)
    if today < _SMALLEST_UNUSUAL or sum(1 for each in days if each) < _DAYS_WITH_SPENDING:
        return False
    return robust_z(today, days) > _UNUSUAL_Z


def _since_the_first(history: Sequence[int]) -> list[int]:
    return list(dropwhile(lambda amount: amount == 0, history))
