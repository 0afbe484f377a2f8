"""What the training benchmarks train on: a random base in the shape of SmolLM2-135M or smaller, and 1,000 instruction rows.

    python benchmarks/train_data.py .bench/data [--shape small] [--data FILE]

Rows are made of what Python's own help says, so that any machine can make them; their lengths follow those of 999 rows of
Alpaca (mean 174 tokens, median 133, longest 580, 84 % answer). `--data` takes a file of chat rows instead. Writes:

    model/         config, weights (random: speed depends on shapes alone), a tokenizer trained on the rows' text
    rows.jsonl     the rows as chats, for trainers that tokenise themselves
    tokens.jsonl   the same rows as {"ids", "labels"}: what every trainer must see, and learn from
"""

from __future__ import annotations

import argparse
import bisect
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from pydoc_data.topics import topics  # what `help()` shows: English that every Python carries

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
# No line end after a turn: whether it carries loss is the one thing on which trainers disagree.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
ROWS = 1_000
LENGTHS = ((0.0, 18), (0.1, 50), (0.25, 82), (0.5, 133), (0.75, 228), (0.9, 378), (0.97, 500), (1.0, 580))
"""Tokens of a row by quantile."""
FRAME_TOKENS = 9
"""What the chat template adds to a row."""
QUESTION_TOKENS = 19
SHORTEST_ANSWER = 4


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama-shaped base."""

    hidden: int = 576
    intermediate: int = 1536
    layers: int = 30
    heads: int = 9
    kv_heads: int = 3
    vocab: int = 49_152
    context: int = 8_192


SHAPES = {"135m": Shape(), "small": Shape(hidden=256, intermediate=768, layers=8, heads=4, kv_heads=2)}


@dataclass(frozen=True)
class Row:
    """One row as tokens. `labels` are -100 where no loss is."""

    ids: list[int]
    labels: list[int]

    @property
    def loss_tokens(self) -> int:
        return sum(label != -100 for label in self.labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="135m")
    parser.add_argument("--data", type=Path, help="a JSONL file of chat rows to train on instead")
    options = parser.parse_args()
    make(options.out, SHAPES[options.shape], options.data)
    rows = read_rows(options.out)
    print(json.dumps(facts_of(rows)))


def make(out: Path, shape: Shape, data: Path | None = None) -> None:
    """Make the whole folder, or leave it as it is where it was made by the same file, of the same shape and data."""
    origin = Path(__file__).read_text("utf-8") + str(shape) + (data.read_text("utf-8") if data else "")
    stamp = out / "origin.txt"
    if stamp.is_file() and stamp.read_text("utf-8") == origin:
        return
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    chats = [json.loads(line)["messages"] for line in data.read_text("utf-8").splitlines()] if data else None
    tokenizer = train_tokenizer([text for chat in chats for text in texts_of(chat)] if chats else [*topics.values()])
    write_model(building / "model", tokenizer, shape)
    chats = chats or list(made_chats(tokenizer))
    write_rows(building, chats)
    (building / stamp.name).write_text(origin, "utf-8")
    building.chmod(0o755)
    building.rename(out)


def read_rows(folder: Path) -> list[Row]:
    """The rows as tokens, in the order of training."""
    with (folder / "tokens.jsonl").open("rb") as lines:
        return [Row(**json.loads(line)) for line in lines]


def facts_of(rows: list[Row]) -> dict[str, float]:
    """What a reader must know of the rows."""
    lengths = sorted(len(row.ids) for row in rows)
    tokens, loss_tokens = sum(lengths), sum(row.loss_tokens for row in rows)
    return {
        "rows": len(rows),
        "tokens": tokens,
        "loss_tokens": loss_tokens,
        "mean": round(tokens / len(rows), 1),
        "p50": lengths[len(rows) // 2],
        "p90": lengths[len(rows) * 9 // 10],
        "max": lengths[-1],
        "loss_share": round(loss_tokens / tokens, 3),
    }


# -- the base ----------------------------------------------------------------------------------------------------------


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """A byte-level BPE of as many tokens as the text gives, at most the vocabulary of the base."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=Shape().vocab,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def write_model(folder: Path, tokenizer: Tokenizer, shape: Shape) -> None:
    """A model folder with random weights in bf16, as bases of this family are published."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    config = LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        vocab_size=shape.vocab,
        max_position_embeddings=shape.context,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    end, start, stop, pad = SPECIAL_TOKENS
    del end
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=start, eos_token=stop, pad_token=pad)
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(folder)


# -- the rows ----------------------------------------------------------------------------------------------------------


def texts_of(chat: list[dict[str, str]]) -> list[str]:
    return [message["content"] for message in chat]


def made_chats(tokenizer: Tokenizer) -> Iterator[list[dict[str, str]]]:
    """Questions and answers of the wanted lengths, always the same ones."""
    draw = random.Random("luthier:benchmark")
    lengths = [length_at((number + 0.5) / ROWS) for number in range(ROWS)]
    draw.shuffle(lengths)
    words = cycle(word for _, text in sorted(topics.items()) for word in text.split())
    tokens_of = token_counter(tokenizer)
    for length in lengths:
        texts = length - FRAME_TOKENS
        asked = max(2, min(texts - SHORTEST_ANSWER, QUESTION_TOKENS + draw.randint(-6, 6)))
        question = take(words, asked, tokens_of)
        answer = take(words, texts - asked, tokens_of)
        yield [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def length_at(share: float) -> int:
    """Tokens of the row at this place of the distribution.

    >>> length_at(0.5), length_at(0.9), length_at(1.0)
    (133, 378, 580)
    """
    place = min(bisect.bisect_right([at for at, _ in LENGTHS], share), len(LENGTHS) - 1)
    (left, low), (right, high) = LENGTHS[place - 1], LENGTHS[place]
    return round(low + (high - low) * (share - left) / (right - left))


def token_counter(tokenizer: Tokenizer) -> Callable[[str], int]:
    known: dict[str, int] = {}

    def count(word: str) -> int:
        if word not in known:
            known[word] = len(tokenizer.encode(f" {word}").ids)
        return known[word]

    return count


def take(words: Iterator[str], tokens: int, tokens_of: Callable[[str], int]) -> str:
    """The next words of the text, about so many tokens of them."""
    taken: list[str] = []
    while tokens > 0:
        taken.append(next(words))
        tokens -= tokens_of(taken[-1])
    return " ".join(taken)


def write_rows(folder: Path, chats: list[list[dict[str, str]]]) -> None:
    """The chats, and their tokens as our own renderer makes them. A trainer that makes others is found by its counts."""
    from luthier.datasets.examples import Example
    from luthier.datasets.rendering import Renderer

    renderer = Renderer.load(folder / "model")
    rendered = renderer.render_batch([Example(messages=tuple(chat)) for chat in chats])
    tokens = [
        {"ids": row.ids, "labels": [token if learns else -100 for token, learns in zip(row.ids, row.loss, strict=True)]}
        for row in rendered
    ]
    write_lines(folder / "rows.jsonl", [{"messages": chat} for chat in chats])
    write_lines(folder / "tokens.jsonl", tokens)


def write_lines(path: Path, values: Sequence[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), "utf-8")


if __name__ == "__main__":
    main()
