"""How fast and how light our trainer is beside TRL and LLaMA-Factory, at the same work and with the same losses.

    python benchmarks/train.py [--setting 135m|135m-fp32|small] [--rounds 15] [--sessions 2] [--peers trl,llamafactory]

Ours and one peer at a time are live processes that take turns, one optimiser step each, in changing order; a ratio is the
median over rounds. Each session starts both anew. README.md in this folder says what is compared, and how to read it.
A run of fewer than 15 rounds, or on a busy machine, is printed and kept in .bench/results, not in benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import facts
import train_data
from environments import BENCH
from figures import Pair, rounded, row_of, table
from racing import Racer
from sameness import Sameness
from variants import BEST, Variant, Work, command, environment, in_order, python_of, variants

RESULTS = Path(__file__).parent / "results"
RECORDED_ROUNDS = 15
TUNING_ROUNDS = 3
WARM_UP = 2
"""Steps after the first one that count for no ratio of speed."""
SETTINGS = {
    "135m": Work("135m", "bf16", threads=4),
    "135m-fp32": Work("135m", "fp32", threads=4),
    "small": Work("small", "fp32", threads=2),
}
FIRST_TOLERANCE = {"fp32": 1e-5, "bf16": 1e-3}
LATER_TOLERANCE = 2e-3
PACKED_TOLERANCE = 0.01
USUAL = "trl_default,trl_best,llamafactory_default,llamafactory_best"


def main() -> int:
    given = _arguments()
    work = SETTINGS[given.setting]
    prepare(work)
    known = variants(work.precision)
    record: dict[str, Any] = {
        "setting": given.setting,
        "work": asdict(work),
        "machine": facts.machine(),
        "rows": [],
        "tuning": [],
    }
    use = Use(work)
    for name in asked(given.peers, known, given.ours):
        chosen = best_of(BEST[name], given.ours, work, record["tuning"]) if name in BEST else name
        row = row_of(race(work, {each: known[each] for each in (given.ours, chosen)}, given.rounds, given.sessions))
        record["rows"].append(row | {"variant": name, "setting": chosen, "at": datetime.now(UTC).isoformat(timespec="seconds")})
        print(table(record["rows"]), flush=True)
    record["matrix_peak_gflops"] = use.put_into(record["rows"])
    print(table(record["rows"]))
    settings = [given.ours, *(row["setting"] for row in record["rows"])]
    record["versions"] = {name: facts.versions(python_of(known[name])) for name in settings}
    record["machine"]["load_after"] = [round(load, 2) for load in os.getloadavg()]
    name = "train" if given.setting == "135m" else f"train-{given.setting}"
    save(record, name, final=given.rounds >= RECORDED_ROUNDS)
    return 0 if all(row["losses_agree"] for row in record["rows"]) else 1


def asked(names: str, known: Iterable[str], ours: str) -> list[str]:
    """Variants by name; the beginning of some names stands for them all.

    >>> asked("trl_best,luthier", ["luthier", "luthier_plain"], "luthier")
    ['trl_best', 'luthier_plain']
    """
    chosen: list[str] = []
    for name in names.split(","):
        chosen += [name] if name in (*known, *BEST) and name != ours else [each for each in known if each.startswith(f"{name}_")]
    if not chosen:
        raise SystemExit(f"No variant is named {names}. There are {', '.join((*known, *BEST))}.")
    return list(dict.fromkeys(chosen))


def best_of(candidates: Sequence[str], ours: str, work: Work, tuning: list[dict[str, Any]]) -> str:
    """The setting in which a peer is fastest beside ours, by a few turns each. They are kept in `tuning`."""
    known = variants(work.precision)
    rows = [row_of(race(work, {ours: known[ours], name: known[name]}, TUNING_ROUNDS, sessions=1)) for name in candidates]
    tuning += rows
    print(table(rows), flush=True)
    return min(rows, key=lambda row: row["speed_ratio"])["variant"]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=SETTINGS, default="135m")
    parser.add_argument("--rounds", type=int, default=RECORDED_ROUNDS, help="steps of each that count, over all sessions")
    parser.add_argument("--sessions", type=int, default=2, help="how often both are started anew")
    parser.add_argument("--peers", default=USUAL, help="variants (README.md), or beginnings of their names: %(default)s")
    parser.add_argument("--ours", default="luthier")
    return parser.parse_args()


def prepare(work: Work) -> None:
    """The base and the rows, made once, also in the order in which our trainer takes them."""
    train_data.make(work.folder, train_data.SHAPES[work.shape])
    for name in ("rows", "tokens"):
        ordered = work.folder / f"in-order-{name}.jsonl"
        lines = (work.folder / f"{name}.jsonl").read_text("utf-8").splitlines(keepends=True)
        ordered.write_text("".join(lines[number] for number in in_order(len(lines), work)), "utf-8")


class Use:
    """How much of the machine's matrix peak a trainer used."""

    def __init__(self, work: Work) -> None:
        rows = [(len(row.ids), row.loss_tokens) for row in train_data.read_rows(work.folder)]
        self._flops_per_token = facts.flops_per_token(train_data.SHAPES[work.shape], work.rank, rows)
        self._work = work
        self._peak = self._measured()

    def put_into(self, rows: list[dict[str, Any]]) -> float:
        """Give each row its shares. Returns the peak in GFLOP/s: the better of before and after, for others may be at work."""
        peak = max(self._peak, self._measured())
        for row in rows:
            row["mfu"] = rounded([speed * self._flops_per_token / peak for speed in row["tokens_per_second"]])
        return round(peak / 1e9, 1)

    def _measured(self) -> float:
        return facts.matrix_peak(self._work.threads, self._work.precision)


def sameness_of(work: Work, peer: Variant) -> Sameness:
    rows = train_data.read_rows(work.folder)
    ordered = [rows[number] for number in in_order(len(rows), work)]
    steps = [ordered[start : start + work.rows_per_step] for start in range(0, len(ordered), work.rows_per_step)]
    expected = [(sum(len(row.ids) for row in step), sum(row.loss_tokens for row in step)) for step in steps]
    later = LATER_TOLERANCE if peer.same_rows else PACKED_TOLERANCE
    return Sameness(expected, FIRST_TOLERANCE[work.precision], later, peer.same_rows)


def race(work: Work, two: dict[str, Variant], rounds: int, sessions: int) -> Pair:
    """Sessions of turns. The first of the two is ours."""
    (ours, theirs) = two
    pair, sameness = Pair(ours, theirs), sameness_of(work, two[theirs])
    each = -(-rounds // sessions)
    for session in range(sessions):
        count = min(each, rounds - session * each)
        if count <= 0:
            break
        with tempfile.TemporaryDirectory(prefix=f".{theirs}-", dir=BENCH) as scratch:
            racers = [racer(name, variant, work, Path(scratch) / name) for name, variant in two.items()]
            _session(racers, count, first=session % 2)
        pair.add(racers[0], racers[1], sameness, warm_up=WARM_UP + 1)
    return pair


def racer(name: str, variant: Variant, work: Work, scratch: Path) -> Racer:
    scratch.mkdir()
    logs = BENCH / "logs"
    logs.mkdir(exist_ok=True)
    return Racer(name, command(variant, work, scratch), logs / f"{name}.log", environment(work.threads))


def _session(racers: list[Racer], rounds: int, first: int) -> None:
    order = racers[::-1] if first else racers
    # One after the other, each up to its first step: two that load at once would measure each other.
    with order[0] as one:
        one.turn()
        with order[1] as other:
            other.turn()
            for turn in range(WARM_UP + rounds):
                for each in (one, other) if turn % 2 == 0 else (other, one):
                    each.turn()
                told = " ".join(f"{each.name} {each.steps[-1].tokens_per_second:.0f}" for each in racers)
                print(f"  {turn - WARM_UP + 1:3} {told} tokens/s", file=sys.stderr, flush=True)


def save(record: dict[str, Any], name: str, *, final: bool) -> None:
    """Into benchmarks/results where it is for the record, and the machine was ours."""
    recorded = final and not any(row["noisy"] for row in record["rows"])
    folder = (RESULTS if recorded else BENCH / "results") / facts.machine_name()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{datetime.now(UTC):%Y-%m-%d}.json"
    if path.is_file():
        record = with_rows_of(json.loads(path.read_text("utf-8")), record)
    path.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    print(f"{'recorded' if recorded else 'a sample, not for the record'}: {path}")


def with_rows_of(earlier: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """A day's peers may be measured in several runs of one setting: each row is of the run that measured it last.

    >>> with_rows_of({"work": 1, "rows": [{"variant": "a"}]}, {"work": 1, "rows": [{"variant": "b"}]})["rows"]
    [{'variant': 'a'}, {'variant': 'b'}]
    """
    if earlier.get("work") != record.get("work"):
        return record
    again = {row["variant"] for row in record["rows"]}
    return record | {
        "rows": [row for row in earlier["rows"] if row["variant"] not in again] + record["rows"],
        "tuning": earlier.get("tuning", []) + record.get("tuning", []),
        "versions": earlier.get("versions", {}) | record.get("versions", {}),
    }


if __name__ == "__main__":
    raise SystemExit(main())
