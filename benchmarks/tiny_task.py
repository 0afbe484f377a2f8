"""Prove the demo's learning task: the base cannot route support messages, a small LoRA can.

    taskset -c 0,1 python benchmarks/tiny_task.py --seeds 3

A plain loop, on purpose without the platform's trainer: what it reaches is what the trainer must
reach. Reads the recipe from examples/support/run.yaml and prints one JSON line a seed.
"""

import argparse
import json
import math
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from luthier.modeling.tiny import build_tiny, limited_threads

EXAMPLE = Path(__file__).parent.parent / "examples" / "support"
PACK_TOKENS = 512
ANSWER_TOKENS = 32
EVALUATED_AT_ONCE = 70
IGNORED = -100


@dataclass(frozen=True)
class Row:
    """One conversation as tokens; `labels` are IGNORED outside the assistant's turn."""

    prompt: list[int]
    answer: list[int]
    content: str

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.answer

    @property
    def labels(self) -> list[int]:
        return [IGNORED] * len(self.prompt) + self.answer


class Stopwatch:
    """Seconds on the wall and on all cores since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self, name: str) -> dict[str, float]:
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        return {f"{name}_s": round(wall, 1), f"{name}_cpu_s": round(cpu, 1)}


def read_rows(path: Path, tokenizer: Any) -> list[Row]:
    """Each row split where the assistant's content begins; its answer ends with the end of turn."""
    rows: list[Row] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        messages = json.loads(line)["messages"]
        prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
        content = messages[-1]["content"]
        answer = [*tokenizer.encode(content), tokenizer.eos_token_id]
        rows.append(Row(prompt, answer, content))
    return rows


def pack(rows: list[Row]) -> list[list[Row]]:
    """Rows side by side, in order, each pack at most PACK_TOKENS long."""
    packs: list[list[Row]] = [[]]
    for row in rows:
        if sum(len(each.ids) for each in packs[-1]) + len(row.ids) > PACK_TOKENS:
            packs.append([])
        packs[-1].append(row)
    return packs


def collate(packs: list[list[Row]], pad: int) -> dict[str, Tensor]:
    """ids, positions and labels of shape (P, T), and who sees whom: bool, (P, 1, T, T)."""
    width = max(sum(len(row.ids) for row in rows) for rows in packs)
    ids_PT = torch.full((len(packs), width), pad)
    labels_PT = torch.full((len(packs), width), IGNORED)
    positions_PT = torch.zeros((len(packs), width), dtype=torch.long)
    segments_PT = torch.full((len(packs), width), -1)
    for index, rows in enumerate(packs):
        start = 0
        for segment, row in enumerate(rows):
            here = slice(start, start + len(row.ids))
            ids_PT[index, here] = torch.tensor(row.ids)
            labels_PT[index, here] = torch.tensor(row.labels)
            positions_PT[index, here] = torch.arange(len(row.ids))
            segments_PT[index, here] = segment
            start = here.stop
    same_PTT = segments_PT[:, :, None] == segments_PT[:, None, :]
    mask_P1TT = (same_PTT & torch.ones(width, width, dtype=torch.bool).tril())[:, None]
    return {
        "input_ids": ids_PT,
        "labels": labels_PT,
        "position_ids": positions_PT,
        "attention_mask": mask_P1TT,
    }


def batches(rows: list[Row], settings: dict[str, Any], seed: int) -> Iterator[list[Row]]:
    """Every row once an epoch, `batch_size` rows a step; the rest of an epoch is a small step."""
    rng = random.Random(seed)
    for _ in range(settings["epochs"]):
        shuffled = rng.sample(rows, len(rows))
        for start in range(0, len(rows), settings["batch_size"]):
            yield shuffled[start : start + settings["batch_size"]]


def tune(model: Any, rows: list[Row], settings: dict[str, Any], seed: int, pad: int) -> None:
    """AdamW with warm-up and cosine over the adapter; the loss is the mean over answer tokens."""
    weights = [each for each in model.parameters() if each.requires_grad]
    rate, warmup = settings["learning_rate"], settings["warmup_steps"]
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
    steps = settings["epochs"] * math.ceil(len(rows) / settings["batch_size"])
    model.train()
    for step, batch in enumerate(batches(rows, settings, seed)):
        done = max(0, step - warmup) / max(1, steps - warmup)
        factor = min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * done)))
        optimizer.param_groups[0]["lr"] = rate * factor
        loss = model(**collate(pack(batch), pad)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 35 == 0:
            print(f"  step {step}/{steps} loss {loss.item():.4f}", flush=True)


@torch.no_grad()
def exact_match(model: Any, tokenizer: Any, rows: list[Row]) -> float:
    """The share of rows whose greedy answer is the expected content, character by character."""
    model.eval()
    right = 0
    for start in range(0, len(rows), EVALUATED_AT_ONCE):
        some = rows[start : start + EVALUATED_AT_ONCE]
        width = max(len(row.prompt) for row in some)
        gaps = [width - len(row.prompt) for row in some]
        ids = [[tokenizer.pad_token_id] * gap + row.prompt for gap, row in zip(gaps, some, strict=True)]
        seen = [[0] * gap + [1] * len(row.prompt) for gap, row in zip(gaps, some, strict=True)]
        out = model.generate(
            input_ids=torch.tensor(ids),
            attention_mask=torch.tensor(seen),
            max_new_tokens=ANSWER_TOKENS,
            do_sample=False,
        )
        texts = tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
        right += sum(text == row.content for text, row in zip(texts, some, strict=True))
    return right / len(rows)


def prove(folder: Path, recipe: dict[str, Any], seed: int) -> dict[str, float]:
    """Base score, training, tuned score, for one seed of the adapter."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    heldout = read_rows(EXAMPLE / "heldout.jsonl", tokenizer)
    train = read_rows(EXAMPLE / "train.jsonl", tokenizer)
    result: dict[str, float] = {"seed": seed, "base": exact_match(model, tokenizer, heldout)}
    torch.manual_seed(seed)
    lora = LoraConfig(
        r=recipe["lora"]["rank"],
        lora_alpha=recipe["lora"]["alpha"],
        target_modules=recipe["lora"]["targets"],
    )
    tuned = get_peft_model(model, lora)
    watch = Stopwatch()
    tune(tuned, train, recipe["train"], seed, tokenizer.pad_token_id)
    result |= watch.read("tune")
    watch = Stopwatch()
    result["tuned"] = exact_match(tuned, tokenizer, heldout)
    result |= watch.read("evaluate")
    result["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return result


def main() -> None:
    """Build the base, unless one is given, and prove the task on each seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, help="a base built before; else one is built")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", nargs="*", default=[], help="train settings, such as epochs=4")
    options = parser.parse_args()
    recipe = yaml.safe_load((EXAMPLE / "run.yaml").read_text(encoding="utf-8"))
    recipe["train"] |= {key: yaml.safe_load(value) for key, value in
                        (each.split("=") for each in options.set)}  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch, limited_threads(options.threads):
        folder = options.base or Path(scratch) / "tiny"
        if options.base is None:
            watch = Stopwatch()
            build_tiny(folder)
            print(json.dumps(watch.read("build")), flush=True)
        for seed in range(recipe["seed"], recipe["seed"] + options.seeds):
            print(json.dumps(prove(folder, recipe, seed)), flush=True)


if __name__ == "__main__":
    main()
