"""What a million tokenised rows take: memory while they are written and read, and the time of a step's rows.

    python benchmarks/rows.py [--rows 1000000] [--folder .bench]

Rows have the lengths of `train_data.py` and tokens drawn at random; an epoch is read in the order of training, 8 rows a step,
each packed as for the model. Memory is what the process holds for itself (anonymous): pages of a mapped file are the system's.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path

import facts
import psutil
import train_data
from environments import BENCH

from luthier.training.batches import Order, Row, Rows, pack

ROWS_PER_STEP = 8
KINDS = 1000
COLD_STEPS = 100


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=BENCH, help="where the numbers lie: %(default)s")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    record = {"machine": facts.machine(), "rows": given.rows, **measured(given.rows, given.folder)}
    print(json.dumps(record, indent=2))
    path = BENCH / "results" / facts.machine_name() / f"rows-{datetime.now(UTC):%Y-%m-%d}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    return 0


def measured(count: int, folder: Path) -> dict[str, float]:
    kinds = some_rows()
    before, began = held_mib(), time.perf_counter()
    rows = Rows(folder)
    for number in range(count):
        rows.append(kinds[number % KINDS])
    written = {"write_s": time.perf_counter() - began, "written_mib": held_mib() - before}
    order = Order(0, count, ROWS_PER_STEP)
    began, tokens = time.perf_counter(), 0
    for step in range(order.steps_per_epoch):
        tokens += len(pack([rows[number] for number in order.of_step(step)]).ids_T)
    seconds = time.perf_counter() - began
    return {
        "tokens": rows.tokens,
        "disk_mib": disk_bytes(rows) / 2**20,
        **written,
        "read_mib": held_mib() - before,
        "step_us": seconds / order.steps_per_epoch * 1e6,
        "cold_step_us": cold_step(rows, order) * 1e6,
        "asked_for_step_us": cold_step(rows, order, ahead_s=0.1) * 1e6,
    }


def some_rows() -> list[Row]:
    draw = random.Random(0)
    lengths = [train_data.length_at(draw.random()) for _ in range(KINDS)]
    return [Row([draw.randrange(49_152) for _ in range(length)], range(length // 6, length - 1)) for length in lengths]


def cold_step(rows: Rows, order: Order, ahead_s: float | None = None) -> float:
    """Seconds of a step's rows that are no longer in the system's cache, the median; asked for so long before, or not."""
    found: list[float] = []
    for step in range(COLD_STEPS):
        numbers = order.of_step(step)
        forget(rows)
        if ahead_s is not None:
            rows.soon(numbers)
            time.sleep(ahead_s)
        began = time.perf_counter()
        pack([rows[number] for number in numbers])
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def forget(rows: Rows) -> None:
    """Where a row begins is looked up so often that the system keeps it: what it would give up are tokens and loss positions."""
    for column in (rows._ids, rows._loss_at):
        column._map = None  # a page that is mapped is not forgotten
        os.posix_fadvise(column._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk_bytes(rows: Rows) -> int:
    columns = (rows._ids, rows._loss_at, rows._ends, rows._loss_ends, rows._weights)
    return sum(os.fstat(column._file.fileno()).st_size for column in columns)


def held_mib() -> float:
    memory = psutil.Process().memory_info()
    return (memory.rss - memory.shared) / 2**20


if __name__ == "__main__":
    raise SystemExit(main())
