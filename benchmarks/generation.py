"""Answers with 1, 4, 8 and 16 adapters on one base: ours in one batch, PEFT's one adapter at a time.

    python benchmarks/generation.py [--rounds 15] [--requests 16] [--tokens 64] [--adapters 1,4,8,16]

16 requests of 24 to 160 tokens come at once, spread evenly over the adapters; each is answered greedily with 64 tokens. The
peer is `transformers.generate` on a PEFT model: `set_adapter`, then one call with all requests of that adapter as one batch.
Both are live processes that take turns, so a busy minute is busy for both; both must say the same tokens. The base has
SmolLM2-135M's shape and random weights (fp32, in which equal tokens can be asked for); speed depends on shapes alone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import facts
from environments import BENCH
from figures import BUSY_CORES, interval, rounded
from racing import busy_seconds
from train import SETTINGS, prepare
from train import save as keep

RANK = 16
RECORDED_ROUNDS = 5
SIDES = ("luthier", "peft")


def main() -> int:
    given = _arguments()
    if given.side:
        return serve(given)
    work = SETTINGS[given.setting]
    prepare(work)
    record: dict[str, Any] = {"setting": given.setting, "requests": given.requests, "tokens": given.tokens}
    record |= {"machine": facts.machine(), "rows": []}
    for count in given.adapters:
        record["rows"].append(raced(given, count))
    for row in record["rows"]:
        print(json.dumps(row))
    record["versions"] = facts.versions(Path(sys.executable))
    keep(record, f"generation-{given.setting}", final=given.rounds >= RECORDED_ROUNDS)
    return 0 if all(row["same_tokens"] >= 0.99 for row in record["rows"]) else 1


def raced(given: argparse.Namespace, count: int) -> dict[str, Any]:
    """Speed, time to the first token (the mean over requests) and memory of both, over rounds that take turns. Pairs are (ours,
    theirs)."""
    sides = {name: _started(given, name, count) for name in SIDES}
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in SIDES}
    ratios: list[float] = []
    busy: list[float] = []
    for number in range(given.rounds + 1):
        order = SIDES if number % 2 else SIDES[::-1]
        came = {}
        for name in order:
            before, at = busy_seconds(), time.perf_counter()
            came[name] = _ask(sides[name])
            busy.append(max(0.0, (busy_seconds() - before - came[name]["cpu_seconds"]) / (time.perf_counter() - at)))
        if number:  # the first is warm-up
            for name, each in came.items():
                rounds[name].append(each)
            ratios.append(came["luthier"]["tokens_per_second"] / came["peft"]["tokens_per_second"])
    for side in sides.values():
        assert side.stdin is not None  # a pipe
        side.stdin.close()
        side.wait()
    both = [rounds[name] for name in SIDES]
    others = statistics.median(busy)
    return {
        "variant": f"peft with {count}",
        "adapters": count,
        "speed_ratio": round(statistics.median(ratios), 3),
        "interval": rounded(interval(ratios)),
        "tokens_per_second": rounded([statistics.median(each["tokens_per_second"] for each in side) for side in both]),
        "first_token_s": rounded([statistics.median(each["first_token_s"] for each in side) for side in both]),
        "peak_gib": rounded([side[-1]["peak_bytes"] / 2**30 for side in both]),
        "same_tokens": round(_same(rounds["luthier"][-1]["answers"], rounds["peft"][-1]["answers"]), 4),
        "rounds": len(ratios),
        "others_cores": round(others, 2),
        "noisy": others > BUSY_CORES,
    }


def serve(given: argparse.Namespace) -> int:
    """One side: answers all requests each time a line comes in."""
    answer = {"luthier": ours, "peft": theirs}[given.side](given)
    for _ in sys.stdin:
        cpu = time.process_time()
        at = time.perf_counter()
        answers, first_s = answer()
        took = time.perf_counter() - at
        said = {
            "tokens_per_second": sum(len(each) for each in answers) / took,
            "first_token_s": first_s,
            "cpu_seconds": time.process_time() - cpu,
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "answers": answers,
        }
        print(json.dumps(said), flush=True)
    return 0


def ours(given: argparse.Namespace) -> Callable[[], tuple[list[list[int]], float]]:
    from luthier.modeling.adapter_files import load
    from luthier.modeling.batching import Batch, Member
    from luthier.modeling.generate import Row
    from luthier.modeling.load import load_base
    from luthier.modeling.types import Sampling

    base = load_base(_base(given), "cpu", "fp32")
    adapters = [load(base.linears, folder, base.device) for folder in _adapters(given)]

    def answer() -> tuple[list[list[int]], float]:
        began, firsts = time.perf_counter(), dict[int, float]()
        answers: list[list[int]] = [[] for _ in range(given.requests)]
        batch: Batch[int] = Batch(base)
        for number, prompt in enumerate(prompts(given, base.vocab)):
            row = Row(0, prompt, Sampling(given.tokens), base)
            batch.add(Member(number, row, adapters[number % len(adapters)]))
        while len(batch):
            for number, token in (batch.read() if batch.reads_for else []) + (batch.decode() if batch.decodes_for else []):
                firsts.setdefault(number, time.perf_counter() - began)
                answers[number].append(token.id if token.id is not None else -1)
        return answers, sum(firsts.values()) / len(firsts)

    return answer


def theirs(given: argparse.Namespace) -> Callable[[], tuple[list[list[int]], float]]:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folders = _adapters(given)
    base: Any = AutoModelForCausalLM.from_pretrained(_base(given), dtype=torch.float32)
    model: Any = PeftModel.from_pretrained(base, folders[0], adapter_name="0")
    for number, folder in enumerate(folders[1:], 1):
        model.load_adapter(folder, adapter_name=str(number))
    model.eval()
    asked = prompts(given, base.config.vocab_size)

    @torch.no_grad()
    def answer() -> tuple[list[list[int]], float]:
        began, firsts = time.perf_counter(), list[float]()
        answers: list[list[int]] = [[] for _ in asked]
        for number in range(len(folders)):
            model.set_adapter(str(number))
            mine = list(range(number, len(asked), len(folders)))
            longest = max(len(asked[each]) for each in mine)
            ids = torch.tensor([[0] * (longest - len(asked[each])) + asked[each] for each in mine])
            mask = torch.tensor([[0] * (longest - len(asked[each])) + [1] * len(asked[each]) for each in mine])
            clock = _First()
            kept = {"max_new_tokens": given.tokens, "min_new_tokens": given.tokens, "do_sample": False, "pad_token_id": 0}
            made = model.generate(input_ids=ids, attention_mask=mask, stopping_criteria=[clock], **kept)
            firsts += [clock.at - began] * len(mine)
            for place, each in enumerate(mine):
                answers[each] = made[place, longest:].tolist()
        return answers, sum(firsts) / len(firsts)

    return answer


class _First:
    """Notes when the first token came."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self, input_ids: Any, *_: Any, **__: Any) -> Any:
        import torch

        self.at = self.at or time.perf_counter()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


def prompts(given: argparse.Namespace, vocab: int) -> list[list[int]]:
    """The same for both sides."""
    draw = random.Random(7)  # reproducible, no secret
    return [[draw.randrange(10, vocab) for _ in range(draw.randrange(24, 161))] for _ in range(given.requests)]


def _adapters(given: argparse.Namespace) -> list[Path]:
    """PEFT folders with random weights, made once."""
    folders = [BENCH / "adapters" / given.setting / str(number) for number in range(given.count)]
    if all((folder / "adapter_config.json").is_file() for folder in folders):
        return folders
    import torch

    from luthier.modeling.adapter_files import Trained, save
    from luthier.modeling.load import load_base
    from luthier.modeling.lora import new_adapter
    from luthier.modeling.types import LoraShape

    base = load_base(_base(given), "cpu", "fp32")
    for number, folder in enumerate(folders):
        adapter = new_adapter(base.linears, LoraShape(RANK, 2 * RANK), number, base.device)
        draw = torch.Generator().manual_seed(number)
        for pair in adapter.pairs.values():
            pair.b_OR.data = 0.02 * torch.randn(pair.b_OR.shape, generator=draw)
        save(Trained(adapter, base.linears, given.setting, "1"), folder)
    return folders


def _base(given: argparse.Namespace) -> Path:
    return SETTINGS[given.setting].folder / "model"


def _same(mine: Sequence[Sequence[int]], its: Sequence[Sequence[int]]) -> float:
    """Share of tokens before the first difference of each answer."""
    agreed = 0
    for one, other in zip(mine, its, strict=True):
        agreed += next((n for n, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), len(other))
    return agreed / sum(len(each) for each in its)


def _started(given: argparse.Namespace, side: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--side", side, "--count", str(count), "--setting", given.setting]
    command += ["--requests", str(given.requests), "--tokens", str(given.tokens)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(given.threads), "GOMP_SPINCOUNT": "20000", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def _ask(side: subprocess.Popen[str]) -> dict[str, Any]:
    assert side.stdin is not None  # pipes
    assert side.stdout is not None
    side.stdin.write("go\n")
    side.stdin.flush()
    return json.loads(side.stdout.readline())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=list(SETTINGS), default="135m")
    parser.add_argument("--rounds", type=int, default=RECORDED_ROUNDS)
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 4)
    parser.add_argument("--adapters", type=lambda text: [int(each) for each in text.split(",")], default=[1, 4, 8, 16])
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, default=1, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
