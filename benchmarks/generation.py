"""Answers with 1, 4 and 16 adapters on one base: ours in one batch, beside PEFT and llama.cpp, one adapter at a time.

    python benchmarks/generation.py [--adapters 1,4,16] [--requests 16] [--tokens 32] [--rounds 3] [--peers peft,llama.cpp]
    python benchmarks/generation.py --adapters 1 --requests 1        # one stream

Requests of 24 to 160 tokens come at once, spread evenly over the adapters; each is answered greedily. PEFT gets `set_adapter`,
then one call of `transformers.generate` with all requests of that adapter as one batch. llama.cpp (the extra `luthier[llama]`)
gets an adapter, then all requests of it as sequences side by side. All are live processes that take turns, so a busy minute is
busy for everybody, and their answers are compared token by token. The base has SmolLM2-135M's shape and random weights, all in
fp32, where equal tokens can be asked for; speed depends on shapes alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import answering
import facts
from answering import Asked
from figures import BUSY_CORES, interval, rounded
from racing import busy_seconds
from train import SETTINGS, prepare
from train import save as keep

OURS = "luthier"
PEERS = [name for name in answering.SIDES if name != OURS]
RECORDED_ROUNDS = 3
"""From so many on it is for the record: a round of sixteen adapters takes PEFT alone most of a minute."""
SAME_TOKENS = 0.99
"""Share that must agree. Sums are taken in another order, so of logits that lie side by side another may win."""
_MEASURED = ("tokens_per_second", "first_token_s")

Round = Mapping[str, Any]


def main() -> int:
    given = _arguments()
    prepare(SETTINGS[given.setting])
    record: dict[str, Any] = {"setting": given.setting, "precision": "fp32", "machine": facts.machine(), "rows": []}
    for count in given.adapters:
        asked = Asked(given.setting, count, given.requests, given.tokens, given.threads)
        answering.made(asked, ggufs="llama.cpp" in given.peers)
        record["rows"] += raced(asked, given.peers, given.rounds)
    for row in record["rows"]:
        print(json.dumps(row))
    record["versions"] = facts.versions(sys.executable)
    keep(record, f"generation-{given.setting}", final=given.rounds >= RECORDED_ROUNDS)
    return 0 if all(row["same_tokens"] >= SAME_TOKENS for row in record["rows"]) else 1


def raced(asked: Asked, peers: Sequence[str], count: int) -> list[dict[str, Any]]:
    """A row for each peer, of rounds in which everybody takes a turn. Pairs in it are (ours, theirs)."""
    names = [OURS, *peers]
    sides = {name: _started(asked, name) for name in names}
    rounds: list[dict[str, Round]] = []
    for number in range(count + 1):
        order = names if number % 2 else names[::-1]
        rounds.append({name: _turn(sides[name]) for name in order})
    for side in sides.values():
        assert side.stdin is not None  # a pipe
        side.stdin.close()
        side.wait()
    return [_row(asked, peer, rounds[1:]) for peer in peers]  # the first is warm-up


def _row(asked: Asked, peer: str, rounds: Sequence[Mapping[str, Round]]) -> dict[str, Any]:
    both = [[each[name] for each in rounds] for name in (OURS, peer)]
    ratios = [mine["tokens_per_second"] / its["tokens_per_second"] for mine, its in zip(*both, strict=True)]
    others = statistics.median(turn["others_cores"] for side in both for turn in side)
    return {
        "variant": f"{peer}, {asked.adapters} adapters, {asked.requests} requests",
        "peer": peer,
        "adapters": asked.adapters,
        "requests": asked.requests,
        "tokens": asked.tokens,
        "speed_ratio": round(statistics.median(ratios), 3),
        "interval": rounded(interval(ratios)),
        "range": rounded([min(ratios), max(ratios)]),
        **{name: rounded([statistics.median(turn[name] for turn in side) for side in both]) for name in _MEASURED},
        **{f"{name}_range": [rounded(_range(turn[name] for turn in side)) for side in both] for name in _MEASURED},
        "peak_gib": rounded([side[-1]["peak_bytes"] / 2**30 for side in both]),
        "same_tokens": round(_same(*(side[-1]["answers"] for side in both)), 4),
        "rounds": len(ratios),
        "others_cores": round(others, 2),
        "noisy": others > BUSY_CORES,
    }


def _range(values: Any) -> list[float]:
    found = list(values)
    return [min(found), max(found)]


def _same(mine: Sequence[Sequence[int]], its: Sequence[Sequence[int]]) -> float:
    """Share of tokens before the first difference of each answer."""
    agreed = 0
    for one, other in zip(mine, its, strict=True):
        agreed += next((n for n, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), len(other))
    return agreed / sum(len(each) for each in its)


def _started(asked: Asked, side: str) -> subprocess.Popen[str]:
    command = [sys.executable, answering.__file__, side, "--setting", asked.setting, "--adapters", str(asked.adapters)]
    command += ["--requests", str(asked.requests), "--tokens", str(asked.tokens), "--threads", str(asked.threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(asked.threads), "GOMP_SPINCOUNT": "20000", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def _turn(side: subprocess.Popen[str]) -> dict[str, Any]:
    assert side.stdin is not None  # pipes
    assert side.stdout is not None
    before, at = busy_seconds(), time.perf_counter()
    side.stdin.write("go\n")
    side.stdin.flush()
    told = json.loads(side.stdout.readline())
    busy = (busy_seconds() - before - told["cpu_seconds"]) / (time.perf_counter() - at)
    return {**told, "others_cores": max(0.0, busy)}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=list(SETTINGS), default="135m")
    parser.add_argument("--rounds", type=int, default=RECORDED_ROUNDS)
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 4)
    parser.add_argument("--adapters", type=lambda text: [int(each) for each in text.split(",")], default=[1, 4, 16])
    parser.add_argument("--peers", type=lambda text: text.split(","), default=PEERS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
