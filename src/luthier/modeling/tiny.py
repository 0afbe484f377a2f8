"""Build `luthier/tiny`: a Llama-shaped base of 2.6 million weights, trained here in a minute.

Its text is what every Python carries (`pydoc_data.topics`) and the shipped corpus: the words and
the JSON of the example data, taken apart so that no message stands beside its answer.
"""

import math
import os
import random
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from pydoc_data.topics import topics

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

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
PARAGRAPHS_TOGETHER = 6


@dataclass(frozen=True)
class TinyRecipe:
    """How the base is trained. One step sees batch x context tokens."""

    steps: int = 220
    batch: int = 8
    context: int = 256
    learning_rate: float = 3e-3
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
        building.chmod(0o755)
        os.replace(building, out_dir)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def train_base(package: Path, seed: int, recipe: TinyRecipe, on_progress: OnProgress | None) -> LlamaForCausalLM:
    """The trained base, in float32. `package` holds config, tokenizer and corpus.txt."""
    tokenizer = Tokenizer.from_file(str(package / "tokenizer.json"))
    batches = token_batches(tokenizer, package / "corpus.txt", recipe, seed)
    with torch.random.fork_rng(devices=[]), limited_threads(recipe.threads):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig.from_pretrained(package))
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.05)
        for step in range(recipe.steps):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * rate_factor(step, recipe)
            loss = train_step(model, optimizer, next(batches))
            if on_progress is not None:
                on_progress(step + 1, recipe.steps, loss)
    return model.eval()


def train_step(model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, ids_BT: Tensor) -> float:
    """One update on (batch, context) token ids; the loss before it, in nats a token."""
    loss = model(input_ids=ids_BT, labels=ids_BT).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
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


def read_documents(corpus: Path, rng: random.Random) -> list[str]:
    """One epoch of texts, in random order: Python's help, the corpus, and chats about it."""
    lines = corpus.read_text(encoding="utf-8").splitlines()
    passages: list[str] = []
    for _, topic in sorted(topics.items()):
        paragraphs = re.split(r"\n\s*\n", topic.strip())
        for start in range(0, len(paragraphs), PARAGRAPHS_TOGETHER):
            passages.append("\n\n".join(paragraphs[start : start + PARAGRAPHS_TOGETHER]))
    passages = rng.sample(passages, len(passages) // 4)
    words = sorted({word for line in lines for word in re.findall(r"[A-Za-z]+", line)})
    chats: list[str] = []
    for line in lines:
        chats.append(chat("Repeat.", line, line))
        some = " ".join(rng.choices(words, k=rng.randint(3, 12)))
        chats.append(chat("Repeat.", some, some))
        keys = rng.sample(words, rng.randint(2, 5))
        values = {key: rng.choice(words) for key in keys}
        asked = rng.sample(keys, rng.randint(2, len(keys)))
        chats.append(chat("Answer.", said(values), dumped({key: values[key] for key in asked}) ))
    documents = [*passages, *lines, *chats]
    rng.shuffle(documents)
    return documents

def said(values):
    return " ".join(f"The {key} is {value}." for key, value in values.items())

def dumped(values):
    import json
    return json.dumps(values, separators=(",", ":"))

def chat(system: str, user: str, assistant: str) -> str:
    """A chat whose answer stands in its question: it teaches the frame, and to look back."""
    turns = (("system", system), ("user", user), ("assistant", assistant))
    return "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)


def token_batches(tokenizer: Tokenizer, corpus: Path, recipe: TinyRecipe, seed: int) -> Iterator[Tensor]:
    """Endless (batch, context) ids, int64; each line starts with a document's start."""
    rng = random.Random(seed)
    lines: list[list[int]] = []
    line: list[int] = []
    while True:
        documents = read_documents(corpus, rng)
        for encoded in tokenizer.encode_batch([text + DOCUMENT_END for text in documents]):
            line.extend(encoded.ids)
            if len(line) >= recipe.context:
                lines.append(line[: recipe.context])
                line = []
            if len(lines) == recipe.batch:
                yield torch.tensor(lines)
                lines = []


@contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """Run torch on `count` threads, and give the process its own number back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
