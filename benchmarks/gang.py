"""Many adapters in one pass over their base, against the same adapters one after the other.

    python benchmarks/gang.py [--setting 135m] [--members 8] [--rounds 15] [--against luthier,trl_lean]
    python benchmarks/gang.py --whole 3 [--steps 20]

The first takes turns as train.py does: one step of the whole gang, then one step of a single adapter on the same rows,
which stands for each of the sequential runs. The second starts real trainers on real job directories and waits for their
ends: one process for all members, then one process for each, one after the other; the losses of both must be the same.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import facts
from environments import BENCH
from figures import BUSY_CORES, rounded, row_of, table
from racing import busy_seconds, tree_bytes
from train import RECORDED_ROUNDS, SETTINGS, Use, prepare, race, save
from variants import Variant, Work, base_cache, environment, python_of, variants, write_jobs

ROWS_PER_MEMBER = 2
SOLO_TOLERANCE = {"fp32": 1e-4, "bf16": 5e-3}
"""Largest relative difference of a loss in the gang from the same loss alone."""


def main() -> int:
    given = _arguments()
    work = replace(SETTINGS[given.setting], rows_per_step=ROWS_PER_MEMBER)
    prepare(work)
    record = {"setting": given.setting, "work": asdict(work), "members": given.members, "machine": facts.machine()}
    if given.whole:
        row = whole(replace(work, steps=given.steps), given.members, given.whole)
        record["rows"] = [row]
        for name, value in row.items():
            print(f"{name:24} {value}")
    else:
        use = Use(work)
        record["rows"] = in_turns(work, given)
        record["matrix_peak_gflops"] = use.put_into(record["rows"])
        print(table(record["rows"]))
    known = variants(work.precision)
    measured = ["luthier"] if given.whole else given.against.split(",")
    record["versions"] = {name: facts.versions(python_of(known[name])) for name in measured}
    record["machine"]["load_after"] = [round(load, 2) for load in os.getloadavg()]
    kind = "gang-whole" if given.whole else "gang"
    enough = given.whole >= 3 if given.whole else given.rounds >= (RECORDED_ROUNDS if given.members == 8 else 5)
    save(record, f"{kind}-{given.members}-{given.setting}", final=enough)
    return 0 if all(row["losses_agree"] for row in record["rows"]) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=SETTINGS, default="135m")
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=RECORDED_ROUNDS)
    parser.add_argument("--sessions", type=int, default=2)
    parser.add_argument(
        "--against", default="luthier,trl_default,trl_lean,llamafactory_lean", help="variants of train.py: %(default)s"
    )
    parser.add_argument("--whole", type=int, default=0, metavar="ROUNDS", help="whole jobs instead of turns, so many times")
    parser.add_argument("--steps", type=int, default=20, help="of each whole job")
    return parser.parse_args()


# -- in turns ----------------------------------------------------------------------------------------------------------


def in_turns(work: Work, given: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each that the gang is held against."""
    known = variants(work.precision)
    gang = Variant("with_luthier.py", {"gang": given.members})
    rows: list[dict[str, Any]] = []
    for name in given.against.split(","):
        pair = race(work, {"gang": gang, name: known[name]}, given.rounds, given.sessions)
        row = row_of(pair)
        # Beside the memory of one run after the other: that of all at once, each in a process of its own.
        row["memory_ratio_to_processes"] = round(row["memory_ratio"] / given.members, 3)
        rows.append(row)
    return rows


# -- whole jobs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Whole:
    """One or more trainers, from the first start to the last end."""

    seconds: float
    peak_bytes: int
    losses: list[list[float]]
    """By member, then by step."""
    others_cores: float
    """Cores that other processes kept busy, on average."""


def whole(work: Work, members: int, rounds: int) -> dict[str, Any]:
    """One row: the gang over the same jobs one after the other."""
    pairs: list[tuple[Whole, Whole]] = []
    for number in range(rounds):
        with tempfile.TemporaryDirectory(prefix=".gang-", dir=BENCH) as scratch:
            together, apart = (write_jobs(work, members, Path(scratch) / kind) for kind in ("together", "apart"))
            if number % 2 == 0:
                gang, alone = _at_once(work, together), _one_by_one(work, apart)
            else:
                alone, gang = _one_by_one(work, apart), _at_once(work, together)
        pairs.append((gang, alone))
        print(f"  {number + 1:3} gang {gang.seconds:.1f} s, alone {alone.seconds:.1f} s", file=sys.stderr, flush=True)
    gap = max(_gap(gang.losses, alone.losses) for gang, alone in pairs)
    ratios = [alone.seconds / gang.seconds for gang, alone in pairs]
    memory = statistics.median(gang.peak_bytes / alone.peak_bytes for gang, alone in pairs)
    others = statistics.median(each.others_cores for pair in pairs for each in pair)
    return {
        "variant": "luthier, one after the other",
        "ours": "gang",
        "members": members,
        "steps": work.steps,
        "rounds": rounds,
        "speed_ratio": round(statistics.median(ratios), 3),
        "range": rounded((min(ratios), max(ratios))),
        "seconds": rounded([statistics.median(each.seconds for each in column) for column in zip(*pairs, strict=True)]),
        "memory_ratio": round(memory, 3),
        "memory_ratio_to_processes": round(memory / members, 3),
        "peak_gib": rounded([max(each.peak_bytes for each in column) / 2**30 for column in zip(*pairs, strict=True)]),
        "loss_gap": gap,
        "losses_agree": gap <= SOLO_TOLERANCE[work.precision],
        "others_cores": round(others, 2),
        "noisy": others > BUSY_CORES,
    }


def _at_once(work: Work, jobs: Sequence[Path]) -> Whole:
    return _trained(work, [jobs])


def _one_by_one(work: Work, jobs: Sequence[Path]) -> Whole:
    return _trained(work, [[job] for job in jobs])


def _trained(work: Work, processes: Sequence[Sequence[Path]]) -> Whole:
    """One trainer process after the other, each as a supervisor starts it. Raises: RuntimeError when one fails."""
    began, busy, ours, peak = time.monotonic(), busy_seconds(), _children_seconds(), 0
    for jobs in processes:
        command = [sys.executable, "-m", "luthier.training", *map(str, jobs), "--bases", str(base_cache(work))]
        log = jobs[0] / "process.log"
        with log.open("w") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | environment(work.threads))
            while process.poll() is None:
                peak = max(peak, tree_bytes(process.pid))
                time.sleep(0.1)
        if process.returncode:
            raise RuntimeError("\n".join(log.read_text("utf-8").splitlines()[-25:]))
    seconds = time.monotonic() - began
    others = max(0.0, busy_seconds() - busy - (_children_seconds() - ours)) / seconds
    return Whole(seconds, peak, [_losses(job) for jobs in processes for job in jobs], others)


def _children_seconds() -> float:
    """Processor seconds of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _losses(job: Path) -> list[float]:
    from luthier.backends.storage.local import LocalStorage
    from luthier.jobs.directory import JobDirectory

    events = JobDirectory(LocalStorage(job), "").events()
    return [step[1] for event in events if event.kind == "step" for step in event.data["steps"]]


def _gap(one: list[list[float]], other: list[list[float]]) -> float:
    """The largest relative difference. Runs of different lengths are no comparison."""
    pairs = [pair for member, alone in zip(one, other, strict=True) for pair in zip(member, alone, strict=True)]
    return max(abs(left - right) / abs(right) for left, right in pairs)


if __name__ == "__main__":
    raise SystemExit(main())
