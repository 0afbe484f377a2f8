"""How far off estimates are: what the platform says before a run, and what the trainer of that run took.

    python benchmarks/estimates.py [--only tiny] [--bases data/bases]

A whole platform (`luthier up`, its supervisor, real trainers) estimates and trains each case, one after the other; memory is the
most that the trainer's process held, time is what is billed. The larger base is random, in the shape of SmolLM2-135M, and has
the tokenizer of luthier/tiny. What `--only tiny` and `--only 135m` find is
recorded. `--bases` is a cache of base models to take luthier/tiny from; without it the first job builds it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from pydoc_data.topics import topics
from statistics import median
from typing import Any

import facts
import train_data
from first_step import ENDS, RESULTS, house, moment, wait_until

import luthier
from luthier import Client
from luthier.jobs.sharing import together_bytes
from luthier.jobs.types import MemoryEstimate

TINY, LARGER = "luthier/tiny", "HuggingFaceTB/SmolLM2-135M-Instruct"
MIB = 2**20


@dataclass(frozen=True)
class Case:
    """One run, or several that share a trainer."""

    name: str
    base: str
    rows: str
    method: str = "sft"
    changes: dict[str, Any] = field(default_factory=dict)
    members: int = 1


def cases() -> Iterator[Case]:
    """Each method, at several lengths, batches and gangs, on a base that costs nothing; some of them on a larger one."""
    some = {"max_steps": 24, "learning_rate": 2e-5}  # hardly anything: the cut rows teach never to end
    few = {**some, "max_steps": 3}
    grader = {"type": "string_check", "reference": "the", "operation": "ilike"}
    grpo = {"grader": grader, "group_size": 4, "max_new_tokens": 32}
    yield Case("tiny sft, short rows", TINY, "short", changes={"train": some})
    yield Case("tiny sft, rows of Alpaca's lengths", TINY, "alpaca", changes={"train": some})
    yield Case("tiny sft, one row a pass", TINY, "alpaca", changes={"train": {**some, "batch_size": 1}})
    yield Case("tiny sft, long rows", TINY, "long", changes={"train": {**some, "batch_size": 4}})
    yield Case("tiny sft, cut at 128", TINY, "alpaca", changes={"train": {**some, "max_seq_len": 128}})
    yield Case("tiny sft, rank 64", TINY, "short", changes={"train": some, "lora": {"rank": 64}})
    yield Case("tiny sft, in 8 bits", TINY, "alpaca", changes={"train": {**some, "quantization": "8bit"}})
    yield Case("tiny dpo", TINY, "pairs", "dpo", {"train": some})
    yield Case("tiny dpo, long rows", TINY, "long pairs", "dpo", {"train": {**some, "max_steps": 8, "batch_size": 8}})
    yield Case("tiny orpo", TINY, "pairs", "orpo", {"train": some})
    yield Case("tiny kto", TINY, "rated", "kto", {"train": some})
    yield Case("tiny grpo", TINY, "prompts", "grpo", {"train": some, "grpo": grpo})
    yield Case("tiny classifier of texts", TINY, "labelled", "classifier", {"train": some})
    yield Case("tiny sft, a gang of four", TINY, "short", changes={"train": some}, members=4)
    yield Case("135m sft, short rows", LARGER, "short", changes={"train": few})
    yield Case("135m sft, one row a pass", LARGER, "alpaca", changes={"train": {**few, "batch_size": 1}})
    yield Case("135m sft, rows of Alpaca's lengths", LARGER, "alpaca", changes={"train": few})
    yield Case("135m sft, in 8 bits", LARGER, "alpaca", changes={"train": {**few, "quantization": "8bit"}})
    yield Case("135m dpo", LARGER, "pairs", "dpo", {"train": few})
    yield Case("135m grpo", LARGER, "prompts", "grpo", {"train": few, "grpo": grpo})
    yield Case("135m classifier of texts", LARGER, "labelled", "classifier", {"train": few})
    yield Case("135m sft, a gang of four", LARGER, "short", changes={"train": few}, members=4)


# -- rows --------------------------------------------------------------------------------------------------------------


def write_rows(folder: Path) -> None:
    """The rows of every case, out of Python's own help."""
    words = " ".join(text for _, text in sorted(topics.items())).split()
    place = 0

    def text(count: int) -> str:
        nonlocal place
        place = (place + count) % (len(words) - 2000)
        return " ".join(words[place : place + count])

    def lengths(rows: int, scale: float) -> list[int]:
        return [max(4, round(scale * train_data.length_at((number * 7919 % rows + 0.5) / rows))) for number in range(rows)]

    def say(role: str, count: int) -> dict[str, str]:
        return {"role": role, "content": text(count)}

    def chats(rows: int, scale: float) -> list[dict[str, Any]]:
        return [{"messages": [say("user", 8), say("assistant", count)]} for count in lengths(rows, scale)]

    def pairs_of(counts: Sequence[int]) -> list[dict[str, Any]]:
        return [
            {"prompt": [say("user", 8)], "chosen": [say("assistant", count)], "rejected": [say("assistant", count)]}
            for count in counts
        ]

    written: dict[str, Sequence[dict[str, Any]]] = {
        "short": chats(256, 0.1),
        "alpaca": chats(256, 0.3),
        "long": [{"messages": [say("user", 8), say("assistant", 300)]} for _ in range(32)],
        "pairs": pairs_of(lengths(256, 0.2)),
        "long pairs": pairs_of([240] * 32),
        "rated": [
            {"prompt": [say("user", 8)], "completion": [say("assistant", count)], "label": number % 2 == 0}
            for number, count in enumerate(lengths(256, 0.2))
        ],
        "prompts": [{"prompt": [say("user", 12)]} for _ in range(64)],
        "labelled": [
            {"text": f"{'north' if number % 2 else 'south'} {text(count)}", "label": "north" if number % 2 else "south"}
            for number, count in enumerate(lengths(256, 0.1))
        ],
    }
    for name, rows in written.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def make_larger(bases: Path) -> None:
    """A random base in the shape of SmolLM2-135M, where the cache of bases has its place."""
    from luthier.bases.rules import folder_name

    place = bases / folder_name(LARGER) / "main"
    place.parent.mkdir(parents=True, exist_ok=True)
    tiny = Path(luthier.__file__).parent / "bases" / "tiny"
    train_data.write_model(place, train_data.train_tokenizer(["a"]), train_data.SHAPES["135m"])
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copyfile(tiny / name, place / name)


# -- runs --------------------------------------------------------------------------------------------------------------


def measured(client: Client, case: Case, dataset: str) -> dict[str, Any]:
    """One row of the table."""
    spec = {"base_model": case.base, "dataset": dataset, "method": case.method, "name": "estimated", **case.changes}
    submitted = [client.jobs.submit(spec) for _ in range(case.members)]
    jobs = [
        wait_until(lambda: (found := client.jobs.get(each.job.id)).state in ENDS and found, case.name)  # noqa: B023
        for each in submitted
    ]
    failed = next((job.error for job in jobs if job.state != "succeeded"), None)
    if failed is not None:
        raise RuntimeError(f"{case.name}: {failed}")
    said = [MemoryEstimate.model_validate(each.estimate.memory.raw) for each in submitted]
    memory = together_bytes(said) if case.members > 1 else said[0].total_bytes
    took = max(job.peak_memory_bytes for job in jobs)
    seconds = [moment(job.finished_at) - moment(job.started_at) for job in jobs]
    return {
        "case": case.name,
        "estimated_mib": round(memory / MIB),
        "measured_mib": round(took / MIB),
        "memory_ratio": round(memory / took, 2),
        "estimated_s": submitted[0].estimate.seconds,
        "measured_s": round(median(seconds), 1),
        "calibrated_by": submitted[0].estimate.get("calibrated_by") or 0,
        "parts_mib": {name[:-6]: round(value / MIB) for name, value in said[0].model_dump().items() if value is not None},
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["| run | memory, estimated | measured | ratio | seconds, estimated | measured |", "|---|--:|--:|--:|--:|--:|"]
    for row in rows:
        memory = f"{row['estimated_mib']:,} MiB | {row['measured_mib']:,} MiB | {row['memory_ratio']:.2f}"
        lines.append(f"| {row['case']} | {memory} | {row['estimated_s']} | {row['measured_s']:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose names hold one of these words")
    parser.add_argument("--bases", type=Path)
    given = parser.parse_args()
    wanted = [case for case in cases() if any(word in case.name for word in given.only.split(","))]
    record: dict[str, Any] = {"machine": facts.machine(), "rows": []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if given.bases is not None:
            shutil.copytree(given.bases, folder / "bases")
        make_larger(folder / "bases")
        write_rows(folder)
        with house(folder / "data", 0, folder / "short.jsonl", folder / "bases") as here:
            client = here.client
            datasets: dict[str, str] = {}
            for case in wanted:
                if case.rows not in datasets:
                    datasets[case.rows] = client.datasets.upload(folder / f"{case.rows}.jsonl", name=case.rows).id
                record["rows"].append(measured(client, case, datasets[case.rows]))
                print(json.dumps(record["rows"][-1]), flush=True)
    print(table(record["rows"]))
    ratios = [row["memory_ratio"] for row in record["rows"]]
    print(f"memory: {min(ratios):.2f} to {max(ratios):.2f} of what was measured, median {median(ratios):.2f}")
    if given.only in ("tiny", "135m"):
        target = RESULTS / facts.machine_name()
        target.mkdir(parents=True, exist_ok=True)
        (target / f"estimates-{given.only}-{datetime.now(UTC):%Y-%m-%d}.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
