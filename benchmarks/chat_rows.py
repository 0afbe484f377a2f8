"""A file of chat rows for the benchmark of validation: about 1 KB each, no two the same.

    python benchmarks/chat_rows.py rows.jsonl --rows 1000000

The sentences are those of Python's own help, so that any machine can make the file: English with quotation marks, code, line
breaks that JSON escapes, and here and there what is not ASCII. One to three turns, a fifth of the rows with a system message.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics  # what `help()` shows: English that every Python carries

SYSTEM = "You are an assistant who explains Python. Answer in whole sentences, and show code where it helps."
FOREIGN = ("Das weiß ich: ", "Voilà — ", "简而言之，", "🙂 ")
ODD = 1000
"""The one row that a check has to remark."""
SHORTEST, LONGEST = 25, 400
"""Characters of a sentence."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    write(options.out, options.rows)
    print(f"{options.out.stat().st_size / 1e6:,.0f} MB")


def write(path: Path, rows: int) -> None:
    with path.open("wb") as file:
        file.writelines(itertools.islice(made(), rows))


def made() -> Iterator[bytes]:
    """Rows as lines, the same ones each time."""
    chance = random.Random(0)
    sentences = _sentences()
    turns = [f'{{"role": "{role}", "content": '.encode() for role in ("system", "user", "assistant")]
    for number in itertools.count():
        if number == ODD:
            yield b'{"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": "The message was empty."}]}\n'
            continue
        said = [turns[0] + json.dumps(SYSTEM).encode()] if number % 5 == 0 else []
        for turn in range(1 + number % 3):
            asked = _joined(chance.choices(sentences, k=1), f"{number}.{turn}: ")
            answered = _joined(
                chance.choices(sentences, k=1 + int(chance.random() * 4)), FOREIGN[number % 4] * (number % 16 == 0)
            )
            said += [turns[1] + asked, turns[2] + answered]
        yield b'{"messages": [' + b"}, ".join(said) + b"}]}\n"


def _sentences() -> list[bytes]:
    """The insides of JSON strings."""
    cut = [part.strip() for text in topics.values() for part in text.replace("\n\n", ". ").split(". ")]
    escaped: Callable[[str], bytes] = lambda text: json.dumps(text, ensure_ascii=False).encode()[1:-1]  # noqa: E731
    return [escaped(part.rstrip(".") + ". ") for part in cut if SHORTEST <= len(part) <= LONGEST]


def _joined(sentences: list[bytes], before: str) -> bytes:
    return b'"' + json.dumps(before, ensure_ascii=False).encode()[1:-1] + b"".join(sentences).rstrip() + b'"'


if __name__ == "__main__":
    main()
