"""Measure every configuration of `configs/` as it stands, on the support example, and write the table into configs/README.md.

    python benchmarks/configs.py [sft/default ...]

Each runs in the product's own trainer, one after the other. Pairs are made of the example's rows: the rejected answer is
right but for one field. Prompts carry the right answer as `wanted`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
SUPPORT = ROOT / "examples" / "support"
MARK = "<!-- measured by benchmarks/configs.py -->"
UNITS = {"sft": 400, "dpo": 200, "grpo": 64}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--bases", type=Path, default=Path.home() / ".cache" / "luthier" / "bases")
    given = parser.parse_args()
    names = given.names or sorted(str(path.relative_to(ROOT / "configs"))[:-5] for path in (ROOT / "configs").glob("*/*.yaml"))
    rows = [measured(name, given.bases) for name in names]
    page = ROOT / "configs" / "README.md"
    head = page.read_text("utf-8").split(MARK)[0]
    page.write_text(f"{head}{MARK}\n\n{table(rows)}\n", "utf-8")


def measured(name: str, bases: Path) -> dict[str, Any]:
    spec = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text("utf-8"))
    with tempfile.TemporaryDirectory() as scratch:
        job = Path(scratch)
        write(job / "train.jsonl", examples("train", spec["method"])[: UNITS[spec["method"]]])
        write(job / "held-out.jsonl", examples("heldout", spec["method"])[:40])
        spec |= {"dataset": "train.jsonl", "validation_dataset": "held-out.jsonl"}
        (job / "run.yaml").write_text(json.dumps(spec), "utf-8")
        began = time.monotonic()
        command = [sys.executable, "-m", "luthier.training", str(job), "--bases", str(bases)]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "2"})
        seconds = time.monotonic() - began
        results = job / "attempts" / "1" / "results"
        metrics, evaluation = (json.loads((results / file).read_text("utf-8")) for file in ("metrics.json", "evaluation.json"))
    return {"name": name, "seconds": seconds, **metrics, "base": evaluation["base"], "tuned": evaluation["tuned"]}


def examples(file: str, method: str) -> list[dict[str, Any]]:
    """The support example as rows of the method's kind."""
    rows = [json.loads(line)["messages"] for line in (SUPPORT / f"{file}.jsonl").read_text("utf-8").splitlines()]
    if method == "sft":
        return [{"messages": messages} for messages in rows]
    if method == "grpo":
        return [{"prompt": messages[:-1], "wanted": messages[-1]["content"]} for messages in rows]
    draw = random.Random(0)
    others = [json.loads(messages[-1]["content"]) for messages in rows]
    return [{"prompt": each[:-1], "chosen": each[-1:], "rejected": [wrong(each[-1], others, draw)]} for each in rows]


def wrong(answer: dict[str, str], others: list[dict[str, str]], draw: random.Random) -> dict[str, str]:
    right = json.loads(answer["content"])
    field = draw.choice(sorted(right))
    value = draw.choice([other[field] for other in others if other[field] != right[field]])
    return {**answer, "content": json.dumps({**right, field: value}, separators=(",", ":"))}


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| configuration | steps | seconds | tokens/s | peak memory | held-out loss, base | tuned | beside |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        base, tuned = row["base"], row["tuned"]
        beside = [f"{name.replace('_', ' ')} {value:.3f}" for name, value in tuned["metrics"].items() if name in TOLD]
        if tuned["exact_match"] is not None:
            beside.append(f"exact {base['exact_match']:.3f} → {tuned['exact_match']:.3f}")
        memory = f"{row['peak_memory_bytes'] / 2**20:,.0f} MiB"
        figures = f"{row['steps']} | {row['seconds']:.0f} | {row['tokens_per_second']:,.0f} | {memory}"
        lines.append(f"| `{row['name']}` | {figures} | {base['loss']:.3f} | {tuned['loss']:.3f} | {', '.join(beside)} |")
    return "\n".join(lines)


TOLD = ("accuracy", "margin", "reward")


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


if __name__ == "__main__":
    main()
