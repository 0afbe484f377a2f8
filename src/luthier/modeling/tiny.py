"""Build `luthier/tiny`: a Llama-shaped base of 2.6 million weights, trained here in a minute.

`tiny_corpus` says what it reads, and why it cannot know what the example data teaches.
"""

import math
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from luthier.modeling.tiny_corpus import Corpus

OnProgress = Callable[[int, int, float], None]
"""Called after each step with (step from 1, steps, loss in nats a token)."""

SHIPPED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
DOCUMENT_END = "<|endoftext|>"


@dataclass(frozen=True)
class TinyRecipe:
    """How the base is trained. One step sees batch x context tokens."""

    steps: int = 190
    batch: int = 8
    context: int = 256
    muon_rate: float = 0.02
    adamw_rate: float = 3e-3
    warmup_steps: int = 20
    # Sums of floats depend on how many threads share them: another count, another sha256.
    threads: int = 2


def build_tiny(
    out_dir: Path,
    *,
    seed: int = 0,
    on_progress: OnProgress | None = None,
    recipe: TinyRecipe | None = None,
) -> None:
    """Train the base and put the whole model folder at `out_dir`, or nothing.

    The same seed gives the same bytes on the same machine with the same torch and Python.
    Takes about a minute on two cores.

    Raises: FileExistsError if `out_dir` is there already and holds something.
    """
    if out_dir.is_dir() and any(out_dir.iterdir()):
        raise FileExistsError(f"{out_dir} is not empty")
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    # Beside, not in /tmp: a rename is atomic only within one file system.
    building = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}-", dir=out_dir.parent))
    try:
        with as_file(files("luthier.bases.tiny")) as package:
            train_base(package, seed, recipe or TinyRecipe(), on_progress).save_pretrained(building)
            for name in SHIPPED:  # After the weights: transformers rewrites two of these.
                shutil.copyfile(package / name, building / name)
        # Both are born private; the server and its workers may be different users.
        building.chmod(0o755)
        (building / "model.safetensors").chmod(0o644)
        os.replace(building, out_dir)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def train_base(package: Path, seed: int, recipe: TinyRecipe, on_progress: OnProgress | None) -> LlamaForCausalLM:
    """The trained base, in float32. `package` holds config, tokenizer and corpus.txt."""
    tokenizer = Tokenizer.from_file(str(package / "tokenizer.json"))
    batches = token_batches(tokenizer, Corpus.read(package / "corpus.txt"), recipe, seed)
    with torch.random.fork_rng(devices=[]), limited_threads(recipe.threads):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig.from_pretrained(package)).train()
        optimizers = optimizers_of(model, recipe)
        schedules = [torch.optim.lr_scheduler.LambdaLR(each, partial(rate_factor, recipe=recipe)) for each in optimizers]
        for step in range(1, recipe.steps + 1):
            loss = train_step(model, optimizers, next(batches))
            for schedule in schedules:
                schedule.step()
            if on_progress is not None:
                on_progress(step, recipe.steps, loss)
    return model.eval()


def train_step(model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], ids_BT: Tensor) -> float:
    """One update on (batch, context) token ids; the loss before it, in nats a token."""
    loss = model(input_ids=ids_BT, labels=ids_BT).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.item()


def rate_factor(step: int, recipe: TinyRecipe) -> float:
    """Linear warm-up to 1, then a half cosine down to 0.05; `step` counts from 0.

    >>> rate_factor(0, TinyRecipe(warmup_steps=10))
    0.1
    """
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))


def token_batches(tokenizer: Tokenizer, corpus: Corpus, recipe: TinyRecipe, seed: int) -> Iterator[Tensor]:
    """Endless (batch, context) ids, int64; each line begins where a document begins."""
    rng = random.Random(seed)
    lines: list[list[int]] = []
    line: list[int] = []
    while True:
        documents = [text + DOCUMENT_END for text in corpus.epoch(rng)]
        for encoded in tokenizer.encode_batch(documents):
            line.extend(encoded.ids)
            if len(line) < recipe.context:
                continue
            lines.append(line[: recipe.context])
            line = []
            if len(lines) == recipe.batch:
                yield torch.tensor(lines)
                lines = []


def optimizers_of(model: LlamaForCausalLM, recipe: TinyRecipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between the layers, AdamW for the embedding and the norms.

    Once, after 160 of 180 steps, AdamW alone (rate 3e-3, initial deviation 0.06) had an answer of the
    corpus at 10.3 nats, this pair (0.05) at 7.7.
    """
    named = list(model.named_parameters())
    matrices = [each for name, each in named if each.ndim == 2 and "embed" not in name]
    others = [each for name, each in named if each.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=recipe.muon_rate, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(others, lr=recipe.adamw_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


@contextmanager
def limited_threads(count: int) -> Generator[None]:
    """Run torch on `count` threads, and give the process its own number back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
