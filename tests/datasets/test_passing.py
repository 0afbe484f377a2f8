"""A crew of processes says of every file what one process says of it, and keeps the same bytes."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from luthier.datasets import rules
from luthier.datasets.sandbox import Checked, Ruler, Sandbox, Task

from .conftest import TINY, chat, jsonl

KEPT = ("rows", "hashes", "index", "distributions", "dropped")
SIZE = 3 * 2**20
"""More than a crew's first pieces."""


def many(row: Callable[[int], Any]) -> list[Any]:
    """Rows for a file of that size, some of them twice, some in contradiction."""
    chance, found, size = random.Random(0), [], 0
    while size < SIZE:
        number = chance.randrange(20_000)
        found.append(row(number))
        size += len(json.dumps(found[-1]))
    return found


def conversation(number: int) -> dict[str, Any]:
    said = chat(f"What is {number} times two?", "It is " + " and ".join([str(number % 7)] * (number % 300)) + ".")
    extra: dict[str, Any] = {"id": number, "source": f"book {number % 300}"} if number % 5 == 0 else {}
    return {**said, **extra}


def odd(number: int) -> dict[str, Any]:
    """Now and then what is remarked."""
    row = conversation(number)
    messages = row["messages"]
    if number % 7 == 0:
        messages[-1]["content"] = "Write to jo@shop.io: " + "very " * 50 + "slow"
    if number % 11 == 0:
        messages.insert(0, {"role": "user", "content": "  "})
    if number % 13 == 0:
        messages.append({"role": "user", "content": 'é" \\ \u2028 \x7f'})
    return row


def called(number: int) -> dict[str, Any]:
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "required": ["a"]}}}
    arguments = {"a": number} if number % 3 else {"b": number}
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": json.dumps(arguments)}}]}
    result = {"role": "tool", "content": "7"}
    asked = {"role": "user", "content": f"Add {number}, please. " + "Thank you! " * (number % 40)}
    return {"messages": [asked, call, result, {"role": "assistant", "content": "7."}], "tools": [tool]}


def pair(number: int) -> dict[str, Any]:
    return {"prompt": f"{number}?", "chosen": "yes " * (number % 90 + 1), "rejected": "no" if number % 6 else "yes"}


def asked(number: int) -> dict[str, Any]:
    return {
        "prompt": f"{number} + 1 = " * (1 + number % 30),
        "answer": str(number + 1) if number % 9 else "",
        "level": number % 4,
    }


def labelled(number: int) -> dict[str, Any]:
    return {"text": f"Review {number} " * 20, "label": f"class {number % 1200}"}


def lines_of(row: Callable[[int], Any]) -> bytes:
    return jsonl(*many(row))


def broken(data: bytes) -> bytes:
    """With bad lines from the middle on."""
    lines = data.split(b"\n")
    for at in range(len(lines) // 2, len(lines), 97):
        lines[at] = [b'{"messages": []}', b"{", b'{"a": 1, "a": 2}', b'{"prompt": "x", "completion": "y"}', b"\xff", b""][at % 6]
    return b"\n".join(lines)


def table(data: bytes) -> bytes:
    rows = [json.loads(line) for line in data.splitlines()]
    return b"prompt,completion\n" + b"".join(f'"{row["prompt"]}","{row["chosen"]}\n{row["rejected"]}"\n'.encode() for row in rows)


FILES: dict[str, Callable[[], bytes]] = {
    "plain chats": lambda: lines_of(conversation),
    "chats with remarks": lambda: lines_of(odd),
    "tool calls": lambda: lines_of(called),
    "pairs": lambda: lines_of(pair),
    "prompts": lambda: lines_of(asked),
    "labelled": lambda: lines_of(labelled),
    "bad lines": lambda: broken(lines_of(odd)),
    "a line without an end": lambda: lines_of(conversation) + b'{"messages": "' + b"x" * 2**21,
    "one array": lambda: json.dumps(many(odd)).encode(),
    "a table": lambda: table(lines_of(pair)),
    "packed": lambda: gzip.compress(lines_of(odd)),
    "packed and cut": lambda: gzip.compress(lines_of(odd))[:-5000],
    "plain texts": lambda: b"".join(f"Text {row['messages'][0]['content']}\n".encode() for row in many(conversation)),
}


@pytest.fixture
def check(tmp_path) -> Callable[..., tuple[Checked, dict[str, bytes]]]:
    """The report of a file by so many processes, and what they kept of it."""

    def check(data: bytes, workers: int, *, drop: bool = False, max_rows: int = rules.MAX_ROWS):
        folder = tmp_path / str(workers)
        folder.mkdir()
        (folder / "upload").write_bytes(data)
        task = Task(folder / "upload", folder / "rows", folder, drop=drop)
        allowed = rules.Allowance(2**31, 600, 2**30, max_rows=max_rows, workers=workers, scans=workers > 1)
        checked = Sandbox().check(task, Ruler("luthier/tiny", TINY, 128), allowed)
        assert checked is not None
        return checked, {name: (folder / name).read_bytes() for name in KEPT if (folder / name).exists()}

    return check


@pytest.mark.parametrize("name", FILES)
def test_a_crew_says_what_one_process_says(check, name):
    data = FILES[name]()
    alone, crew = check(data, 1), check(data, 3)
    assert alone[0].report.model_dump() == crew[0].report.model_dump()
    assert alone == crew
    assert alone[0].report.rows > 100


def test_a_crew_leaves_out_what_one_process_leaves_out(check):
    data = broken(lines_of(odd))
    alone, crew = check(data, 1, drop=True), check(data, 3, drop=True)
    assert alone == crew
    assert alone[0].report.dropped_rows > 5
    assert alone[1]["dropped"]


@pytest.mark.parametrize("max_rows", [1000, 2900])
def test_the_rows_of_a_file_are_limited_whoever_counts_them(check, max_rows):
    data = lines_of(conversation)
    alone, crew = check(data, 1, max_rows=max_rows), check(data, 3, max_rows=max_rows)
    assert alone == crew
    assert alone[0].report.rows == max_rows
    assert alone[0].report.counts["too_many_rows"] == 1
