"""What share of a model's answers has a given form, asked through the serving route of a running platform.

    python benchmarks/answer_form.py gsm8k-form held-out.jsonl --form '#### -?[\\d,.]+' --temperature 0.4

Each line of the file is a chat row; everything before its last message is asked. Prints the share whose last line matches.
"""

from __future__ import annotations

import argparse
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import luthier


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("rows", type=Path)
    parser.add_argument("--form", required=True, help="regular expression for the whole last line")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--max-tokens", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    questions = [json.loads(line)["messages"][:-1] for line in given.rows.read_text("utf-8").splitlines()]
    client = luthier.Client()

    def has_form(numbered: tuple[int, list[dict[str, str]]]) -> tuple[bool, bool]:
        number, messages = numbered
        sampling = {"temperature": given.temperature, "max_tokens": given.max_tokens, "seed": given.seed + number}
        answer = client.chat.answer(given.model, messages, **sampling)
        lines = answer.text.strip().splitlines() or [""]
        return re.fullmatch(given.form, lines[-1].strip()) is not None, answer.choices[0].finish_reason == "stop"

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(has_form, enumerate(questions)))
    right, ended = (sum(column) for column in zip(*results, strict=True))
    share = right / len(results)
    print(f"{given.model}: {right} of {len(results)} answers have the form ({share:.3f}); {ended} ended by themselves")


if __name__ == "__main__":
    main()
