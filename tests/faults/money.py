"""What must be true of money after every step, whatever happened: I4 and I5."""

from collections import defaultdict

from sqlalchemy import select

from luthier.billing import rules
from luthier.billing.budget_store import SpendingRow
from luthier.billing.store import HoldRow, LedgerRow, SegmentRow
from luthier.database import EVERY_TENANT


def check_money(database) -> None:
    """I4: usage is never negative. I5: the ledger of a settled job is its usage at its prices, to the micro-dollar, in each
    month; refunds give back no more; what budgets count is the sum of all usage."""
    with database.read(EVERY_TENANT) as session:
        segments, ledger, holds, days = (
            list(session.scalars(select(table))) for table in (SegmentRow, LedgerRow, HoldRow, SpendingRow)
        )
    used = defaultdict(list)
    for row in segments:
        assert row.ms >= 0, row.job_id
        facts = (row.attempt, row.seq, row.started_at, row.ms, row.micro_usd_per_hour)
        used[row.job_id].append(rules.Stretch(*facts))
    booked = defaultdict(dict)
    refunded = defaultdict(int)
    for row in ledger:
        if row.refund_key is not None:
            assert row.micro_usd < 0
            refunded[row.job_id] -= row.micro_usd
        else:
            booked[row.job_id][row.attempt, row.seq, row.period] = (row.ms, row.micro_usd)
    for hold in holds:
        lines = {(line.attempt, line.seq, line.period): (line.ms, line.micro_usd) for line in rules.lines(used[hold.job_id])}
        assert hold.charged_micro_usd == rules.charge(used[hold.job_id]), hold.job_id
        if hold.settled_at is not None:
            assert booked[hold.job_id] == lines, hold.job_id
        assert booked[hold.job_id].items() <= lines.items(), hold.job_id
        assert 0 <= refunded[hold.job_id] <= hold.charged_micro_usd, hold.job_id
    counted = defaultdict(int)
    for stretches in used.values():
        for day, amount in rules.by_day(stretches).items():
            counted[day] += amount
    kept = defaultdict(int)
    for row in days:
        kept[row.day] += row.micro_usd
    assert {day: amount for day, amount in counted.items() if amount} == {day: amount for day, amount in kept.items() if amount}
