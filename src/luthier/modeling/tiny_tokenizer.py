"""Regenerate the shipped tokenizer and corpus of `luthier/tiny`.

    python -m luthier.modeling.tiny_tokenizer examples/support/train.jsonl

The corpus is the training rows taken apart: sentences of messages in shuffled order, and JSON
objects whose values were drawn at random. So every word, key and value is known to the base and
cheap in tokens, while nothing says which message has which answer. Held-out rows are never read.
"""

import argparse
import json
import random
import re
from collections.abc import Iterable
from pathlib import Path
from pydoc_data.topics import topics  # what `help()` shows: English that every Python carries

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

PACKAGE = Path(__file__).parent.parent / "bases" / "tiny"
# Their order is their id: config.json and generation_config.json repeat 0 (padding) and 2 (end).
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VOCABULARY = 2048
# What frames a turn, so that a role costs one token.
ROLES = ("system\n", "user\n", "assistant\n", "tool\n")
ROLES_WEIGHT = 2_000
# Messages are outweighed by the topics' half a megabyte, but the demo's rows are made of them.
CORPUS_WEIGHT = 4


def read_rows(path: Path) -> list[tuple[str, dict[str, str]]]:
    """The (message, answer) of each chat row; an answer is a flat object of strings."""
    rows: list[tuple[str, dict[str, str]]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        by_role = {turn["role"]: turn["content"] for turn in json.loads(line)["messages"]}
        rows.append((by_role["user"], json.loads(by_role["assistant"])))
    return rows


def corpus_lines(rows: list[tuple[str, dict[str, str]]], seed: int) -> list[str]:
    """All sentences, then JSON objects of random values: one a line, in random order."""
    rng = random.Random(seed)
    sentences = [part for text, _ in rows for part in re.split(r"(?<=[.?!]) ", text)]
    rng.shuffle(sentences)
    # Sorted, because the order of a set of strings differs from run to run.
    values = {key: sorted({fields[key] for _, fields in rows}) for key in rows[0][1]}
    drawn = [{key: rng.choice(choices) for key, choices in values.items()} for _ in rows]
    return sentences + [json.dumps(fields, separators=(",", ":")) for fields in drawn]


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A byte-level BPE of 2048 tokens: any UTF-8 text survives encoding and decoding."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def main() -> None:
    """Write `corpus.txt` and `tokenizer.json` into the package, or into `--out`."""
    parser = argparse.ArgumentParser(description="Regenerate luthier/tiny's tokenizer and corpus.")
    parser.add_argument("rows", type=Path, help="the example's train.jsonl")
    parser.add_argument("--out", type=Path, default=PACKAGE)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    lines = corpus_lines(read_rows(options.rows), options.seed)
    (options.out / "corpus.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = train_tokenizer([*topics.values(), *(lines * CORPUS_WEIGHT), *(ROLES * ROLES_WEIGHT)])
    tokenizer.save(str(options.out / "tokenizer.json"))


if __name__ == "__main__":
    main()
