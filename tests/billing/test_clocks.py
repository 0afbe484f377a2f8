"""Hours that the clock or the calendar makes strange are billed as what they were: the parts sum to the whole."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from luthier.billing import rules
from luthier.billing.types import Segment
from luthier.jobs.metering import Meter, ProcessTime

PARIS, NEW_YORK = ZoneInfo("Europe/Paris"), ZoneInfo("America/New_York")
PRICE = 9_999_999
STEP_MS = 10_000


def trained(start: datetime, ms: int, steps: dict[int, timedelta]) -> list[Segment]:
    """What a supervisor meters in so long a run, with its wall clock stepped after so many ms."""
    wall, passed = start, 0
    meter, time = Meter(Segment("team_a", "job_1", 1, 0, "A100", start, 0)), ProcessTime(0.0, most_s=60)
    time.join(meter)
    while passed < ms:
        passed += STEP_MS
        wall += timedelta(milliseconds=STEP_MS) + steps.get(passed, timedelta(0))
        time.advance(passed / 1000)
        time.divide(wall)
    return list(meter.segments)


HOUR = timedelta(hours=1)
CASES = {
    "clock an hour ahead": (datetime(2026, 11, 21, 12, tzinfo=UTC), {600_000: HOUR}),
    "clock an hour back": (datetime(2026, 11, 21, 12, tzinfo=UTC), {600_000: -HOUR}),
    "back over the end of the month": (datetime(2026, 11, 30, 23, 30, tzinfo=UTC), {2_400_000: -HOUR}),
    "end of the year": (datetime(2026, 12, 31, 22, 10, tzinfo=UTC), {}),
    "leap day": (datetime(2028, 2, 29, 22, 10, tzinfo=UTC), {}),
    "no leap day": (datetime(2027, 2, 28, 22, 10, tzinfo=UTC), {}),
    "an hour that is not there": (datetime(2026, 3, 29, 1, 10, tzinfo=PARIS), {}),
    "an hour that is there twice": (datetime(2026, 11, 1, 0, 10, tzinfo=NEW_YORK), {}),
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_three_hours_cost_three_hours(case):
    start, steps = CASES[case]
    ms = 3 * rules.MS_PER_HOUR
    segments = trained(start, ms, steps)
    assert len(segments) > 3 - 1
    assert sum(segment.ms for segment in segments) == ms
    stretches = [rules.Stretch(each.attempt, each.seq, each.started_at, each.ms, PRICE) for each in segments]
    lines = rules.lines(stretches)
    assert sum(line.ms for line in lines) == ms
    assert sum(line.micro_usd for line in lines) == rules.charge(stretches) == 3 * PRICE
    days = rules.by_day(stretches)
    assert sum(days.values()) == 3 * PRICE
    months: dict[str, int] = defaultdict(int)
    for day, amount in days.items():
        months[day[:7]] += amount
    for line in lines:
        months[line.period] -= line.micro_usd
    assert not any(months.values())


def test_a_month_ends_at_midnight_utc_wherever_the_machine_stands():
    start = datetime(2026, 10, 31, 19, 30, tzinfo=NEW_YORK)  # 23:30 UTC
    assert [line.period for line in rules.lines([rules.Stretch(1, 0, start, rules.MS_PER_HOUR, PRICE)])] == ["2026-10", "2026-11"]
