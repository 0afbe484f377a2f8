"""Whether a database's jobs and money are in order: the invariants I1 to I5, read from its tables and from nowhere else.

I1 every acknowledged id exists once. I2 a history is a path through the state machine. I3 at most one attempt of a job runs.
I4 usage does not overlap, and never ends before it begins. I5 the ledger is the usage times its price, to the micro-dollar.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator

from luthier.database import from_ms
from luthier.jobs import rules as steps
from luthier.jobs.types import JobState

MS_PER_HOUR = 3_600_000
OWNED = ("starting", "running")


def faults(connection: sqlite3.Connection, acknowledged: Iterable[str] = (), *, clock_stepped: bool = False) -> list[str]:
    """What is not in order. With `clock_stepped` the overlaps of I4 are not looked for: a clock that was set back begins what
    comes next before the end of what was before, and its length, from a clock that only goes forward, is right all the same."""
    connection.row_factory = sqlite3.Row
    found = [*_acknowledged(connection, acknowledged), *_histories(connection), *_attempts(connection), *_money(connection)]
    return found if clock_stepped else [*found, *_overlaps(connection)]


def _acknowledged(connection: sqlite3.Connection, acknowledged: Iterable[str]) -> Iterator[str]:
    there = {row["id"] for row in connection.execute("SELECT id FROM jobs")}
    for job_id in acknowledged:
        if job_id not in there:
            yield f"I1: {job_id} was acknowledged and is not there"


def _histories(connection: sqlite3.Connection) -> Iterator[str]:
    histories = _by_job(connection, "SELECT * FROM job_transitions ORDER BY id")
    for job in connection.execute("SELECT id, state FROM jobs").fetchall():
        history = histories.pop(job["id"], [])
        before = None
        for step in history:
            legal = before is None or steps.may(JobState(before), JobState(step["to_state"]))
            if step["from_state"] != before or not legal:
                yield f"I2: {job['id']} went from {before} to {step['to_state']}"
            before = step["to_state"]
        if before != job["state"]:
            yield f"I2: {job['id']} is {job['state']}, its history ends with {before}"
    for job_id in histories:
        yield f"I1: {job_id} has a history and is not there"


def _attempts(connection: sqlite3.Connection) -> Iterator[str]:
    starts = _by_job(connection, "SELECT job_id, attempt FROM job_transitions WHERE to_state = 'starting' ORDER BY id")
    for job in connection.execute("SELECT id, state, attempt, owner FROM jobs").fetchall():
        if (job["state"] in OWNED) != (job["owner"] is not None):
            yield f"I3: {job['id']} is {job['state']} and its owner is {job['owner']}"
        numbers = [start["attempt"] for start in starts.get(job["id"], [])]
        if numbers != list(range(1, job["attempt"] + 1)):
            yield f"I3: {job['id']} is in attempt {job['attempt']}, and began {numbers}"


def _overlaps(connection: sqlite3.Connection) -> Iterator[str]:
    for job_id, used in _by_job(connection, "SELECT * FROM usage_segments WHERE ms > 0 ORDER BY attempt, seq").items():
        for one, two in itertools.pairwise(used):
            if one["started_at"] + one["ms"] > two["started_at"]:
                yield f"I4: {job_id} is billed twice from {from_ms(two['started_at'])} on"


def _money(connection: sqlite3.Connection) -> Iterator[str]:
    used = _by_job(connection, "SELECT * FROM usage_segments ORDER BY attempt, seq")
    ledger = _by_job(connection, "SELECT * FROM ledger WHERE micro_usd >= 0 ORDER BY id")
    total = 0
    for job in connection.execute(_JOBS_AND_HOLDS).fetchall():
        segments, lines = used.get(job["id"], []), ledger.get(job["id"], [])
        if any(segment["ms"] < 0 for segment in segments):
            yield f"I4: {job['id']} has usage that ends before it begins"
        charge = sum(segment["micro_usd_per_hour"] * segment["ms"] for segment in segments) // MS_PER_HOUR
        total += charge
        if (job["cost_micro_usd"], job["charged_micro_usd"]) != (charge, charge):
            yield f"I5: {job['id']} says {job['cost_micro_usd']}, its hold {job['charged_micro_usd']}, its usage {charge}"
        if job["settled_at"] is not None:
            yield from _settled(job["id"], segments, lines, charge)
        elif (job["state"] in ("queued", "awaiting_approval", *OWNED)) is False:
            yield f"I5: {job['id']} is {job['state']} and not settled"
    spent = connection.execute("SELECT coalesce(sum(micro_usd), 0) FROM spending").fetchone()[0]
    if spent != total:
        yield f"I5: the days sum to {spent}, the usage to {total}"
    yield from _refunds(connection)


def _settled(job_id: str, segments: list[sqlite3.Row], lines: list[sqlite3.Row], charge: int) -> Iterator[str]:
    charged = sum(line["micro_usd"] for line in lines)
    if charged != charge:
        yield f"I5: the ledger says {charged} of {job_id}, its usage {charge}"
    times: dict[tuple[int, int], int] = defaultdict(int)
    for line in lines:
        times[line["attempt"], line["seq"]] += line["ms"]
    if times != {(segment["attempt"], segment["seq"]): segment["ms"] for segment in segments if segment["ms"]}:
        yield f"I5: the ledger's milliseconds of {job_id} are not its usage's"


def _refunds(connection: sqlite3.Connection) -> Iterator[str]:
    for row in connection.execute("SELECT job_id, sum(micro_usd) AS left FROM ledger GROUP BY job_id HAVING left < 0"):
        yield f"I5: more was given back of {row['job_id']} than it cost"


def _by_job(connection: sqlite3.Connection, query: str) -> dict[str, list[sqlite3.Row]]:
    found: dict[str, list[sqlite3.Row]] = defaultdict(list)
    for row in connection.execute(query):
        found[row["job_id"]].append(row)
    return found


_JOBS_AND_HOLDS = (
    "SELECT jobs.id, jobs.state, jobs.cost_micro_usd, holds.charged_micro_usd, holds.settled_at "
    "FROM jobs LEFT JOIN holds ON holds.job_id = jobs.id"
)
