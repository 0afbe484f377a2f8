"""How fast rows become tokens for training, beside the `tokenizers` library on the same texts; and what a second job saves.

    python benchmarks/tokenising.py [--rows 20000] [--small 8000] [--rounds 7] [--bases data/bases]

The first part takes turns: what a trainer calls to read a data file into the columns that training maps (parse, template, tokens
and masks, the processes that it starts for that included), the same in one process, and `Tokenizer.encode_batch` over the texts
that the template makes, all at once and in groups; for a file, and for a small one. The second runs a whole platform: two jobs on
the same version of a dataset, each timed to its first step.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics
from statistics import median
from typing import Any

import facts
import train_data
from first_step import RESULTS, House, house
from tokenizers import Tokenizer

import luthier
from luthier.datasets.crew import cores
from luthier.datasets.examples import Example
from luthier.datasets.formats import read_rows
from luthier.datasets.rendering import Renderer
from luthier.datasets.templates import ChatTemplate
from luthier.datasets.tokens import Tokens, read_config
from luthier.training.parts import Reading
from luthier.training.tokenising import tokens_of_file

TINY = Path(luthier.__file__).parent / "bases" / "tiny"


def write_rows(path: Path, count: int) -> None:
    """Chats of two turns, of Alpaca's lengths, out of Python's own help."""
    words = " ".join(text for _, text in sorted(topics.items())).split()
    place = 0
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            asked, answered = 12, max(4, train_data.length_at((number * 7919 % count + 0.5) / count) // 2)
            question, answer = (
                " ".join(words[place + start : place + end]) for start, end in ((0, asked), (asked, asked + answered))
            )
            place = (place + asked + answered) % (len(words) - 1000)
            said = [{"role": "user", "content": question}, {"role": "assistant", "content": f"{answer} ({number})"}]
            file.write(json.dumps({"messages": said}) + "\n")


def ours(path: Path, renderer: Renderer, helpers: int) -> int:
    return tokens_of_file(Reading(path, "sft", 1024, TINY, helpers), renderer, lambda _: None).rows.tokens


def library(texts: list[str], tokenizer: Tokenizer) -> int:
    return sum(len(encoding.ids) for encoding in tokenizer.encode_batch(texts, add_special_tokens=False))


def library_by_256(texts: list[str], tokenizer: Tokenizer) -> int:
    """Few at a time."""
    return sum(library(texts[start : start + 256], tokenizer) for start in range(0, len(texts), 256))


def texts_of(path: Path) -> list[str]:
    """What the template makes of the rows."""
    named = Tokens.load(TINY, read_config(TINY, "tokenizer_config.json")).named
    template = ChatTemplate((TINY / "chat_template.jinja").read_text("utf-8"), named)
    with path.open("rb") as file:
        return [template.render([dict(message) for message in row.messages], None) for row in read_rows(file, Example)]


def rates(path: Path, rounds: int) -> dict[str, Any]:
    renderer, tokenizer = Renderer.load(TINY), Tokenizer.from_file(str(TINY / "tokenizer.json"))
    texts = texts_of(path)
    works: dict[str, Callable[[], int]] = {
        "ours": partial(ours, path, renderer, cores()),
        "ours_in_one_process": partial(ours, path, renderer, 0),
        "library": partial(library, texts, tokenizer),
        "library_by_256": partial(library_by_256, texts, tokenizer),
    }
    taken: dict[str, list[float]] = {name: [] for name in works}
    tokens: dict[str, int] = {}
    for number in range(rounds + 1):
        for name, work in works.items():
            began = time.perf_counter()
            tokens[name] = work()
            if number:  # the first round warms up
                taken[name].append(time.perf_counter() - began)
        print({name: round(values[-1], 2) for name, values in taken.items() if values}, flush=True)
    if len(set(tokens.values())) != 1:
        raise RuntimeError(f"they do not make the same tokens: {tokens}")
    found: dict[str, Any] = {"rows": len(texts), "tokens": tokens["ours"], "rounds": rounds}
    for name, values in taken.items():
        found[name] = {"median_s": round(median(values), 3), "tokens_per_s": round(tokens[name] / median(values))}
    for name in ("library", "library_by_256", "ours_in_one_process"):
        ratios = sorted(other / mine for other, mine in zip(taken[name], taken["ours"], strict=True))
        found[f"ratio_to_{name}"] = {"median": round(median(ratios), 3), "range": [round(ratios[0], 3), round(ratios[-1], 3)]}
    return found


def first_steps(here: House, path: Path) -> dict[str, Any]:
    """Seconds to the first step of a job on rows that nobody trained on, and of the next one on the same version."""
    here.dataset = here.client.datasets.upload(path, name="tokenising").id
    return {"first": here.first_step(), "second": here.first_step()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--small", type=int, default=8_000)
    parser.add_argument("--rows-of-jobs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--bases", type=Path)
    given = parser.parse_args()
    record: dict[str, Any] = {"machine": facts.machine()}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, count in (("rates", given.rows), ("rates_of_a_small_file", given.small)):
            write_rows(folder / "rows.jsonl", count)
            record[name] = rates(folder / "rows.jsonl", given.rounds)
        write_rows(folder / "few.jsonl", 64)
        with house(folder / "data", 0, folder / "few.jsonl", given.bases) as here:
            write_rows(folder / "many.jsonl", given.rows_of_jobs)
            record["jobs"] = {"rows": given.rows_of_jobs, **first_steps(here, folder / "many.jsonl")}
    print(json.dumps(record, indent=2))
    target = RESULTS / facts.machine_name()
    target.mkdir(parents=True, exist_ok=True)
    (target / f"tokenising-{datetime.now(UTC):%Y-%m-%d}.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
