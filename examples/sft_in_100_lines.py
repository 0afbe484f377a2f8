"""Supervised fine-tuning of a LoRA adapter in a hundred lines: what the engine computes, without all that makes it fast.

    python examples/sft_in_100_lines.py data/bases/luthier--tiny/1 rows.jsonl 20

`rows.jsonl` holds {"prompt": ..., "completion": ...}. A test holds its losses against the engine's, step by step.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

SEED, RANK, ALPHA, ROWS_A_STEP = 42, 8, 16, 4


class LoraLinear(nn.Module):
    """y = W x + alpha / rank * B A x, with W frozen. B is zero at first: nothing has changed yet."""

    def __init__(self, frozen: nn.Linear, draw: torch.Generator) -> None:
        super().__init__()
        self.frozen, self.scale = frozen, ALPHA / RANK
        self.a = nn.Parameter(torch.empty(RANK, frozen.in_features))
        self.b = nn.Parameter(torch.zeros(frozen.out_features, RANK))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5), generator=draw)

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x) + self.scale * (x @ self.a.T) @ self.b.T


def with_adapter(model: nn.Module) -> list[nn.Parameter]:
    """Freeze the model, put an adapter beside every linear layer but the head, and return what learns."""
    model.requires_grad_(requires_grad=False)
    draw = torch.Generator().manual_seed(SEED)
    for path, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and layer is not model.get_output_embeddings():
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, LoraLinear(layer, draw))
    return [weight for weight in model.parameters() if weight.requires_grad]


def read(path: Path, tokenizer: AutoTokenizer) -> list[tuple[list[int], int]]:
    """Each row as its token ids and how many of them are the prompt's. The end of the answer is learned too."""
    rows = []
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        prompt = tokenizer(row["prompt"]).input_ids
        rows.append(([*tokenizer(row["prompt"] + row["completion"]).input_ids, tokenizer.eos_token_id], len(prompt)))
    return rows


def batches(rows: list) -> Iterator[list]:
    """Rows in an order that depends on seed and epoch alone, for ever."""
    epoch = 0
    while True:
        order = list(range(len(rows)))
        random.Random(f"luthier:{SEED}:{epoch}").shuffle(order)
        for start in range(0, len(rows), ROWS_A_STEP):
            yield [rows[number] for number in order[start : start + ROWS_A_STEP]]
        epoch += 1


def nll(model: nn.Module, batch: list[tuple[list[int], int]]) -> Tensor:
    """-log p of every answer token, over the number of them in the batch: a token counts the same wherever it stands."""
    total, tokens = torch.zeros(()), 0
    for ids, prompt in batch:  # one row at a time needs no padding, and no mask
        logp_TV = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        at = torch.arange(prompt - 1, len(ids) - 1)
        total, tokens = total - logp_TV[at, torch.tensor(ids)[at + 1]].sum(), tokens + len(at)
    return total / tokens


def train(base: Path, data: Path, steps: int, rate: float = 1e-3) -> list[float]:
    """The loss of every step."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    learning = with_adapter(model)
    optimiser = torch.optim.AdamW(learning, lr=rate, weight_decay=0.0)
    losses: list[float] = []
    for step, batch in zip(range(steps), batches(read(data, AutoTokenizer.from_pretrained(base))), strict=False):
        optimiser.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        loss = nll(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
        print(f"step {step + 1}: loss {losses[-1]:.4f}", flush=True)
    return losses


if __name__ == "__main__":
    train(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
