"""The compiled reader of plain chats says what the one in Python says, stops where that one stops, and trusts no byte."""

from __future__ import annotations

import json
import random
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from luthier import compiled
from luthier.datasets import scanner
from luthier.datasets.block_checks import Inspector
from luthier.datasets.content import Content
from luthier.datasets.examples import MAX_RECORD_BYTES
from luthier.datasets.lines import Lines
from luthier.datasets.plain_chats import PlainChats, Runs
from luthier.datasets.tally import Tally

from .conftest import chat, jsonl

sys.path.insert(0, str(Path(__file__).parent))
from fuzzing import told

PIECES = (
    *(
        "word ",
        "Hello. ",
        "x",
        '"',
        "\\",
        "/",
        "\n",
        "\r\n",
        "\t",
        "\b\f",
        "\x01",
        "\x1f",
        "\x0b",
        "\x1c",
        "\x7f",
        "é",
        "ß…",
        "。",
    ),
    *(
        "日本語",
        "🙂",
        "\u2028",
        "\u00a0",
        "\u0085",
        "\u3000",
        "\u200a",
        "\u200b",
        "\ufeff",
        "\ud7ff",
        "\ue000",
        "\U0010ffff",
        " " * 40,
    ),
    *(
        "jo@shop.io",
        "@property",
        "a@b",
        "@x.y",
        "+49 30 1234567",
        "4111 1111 1111 1111",
        "12345678",
        "1.234.567.890",
        "AKIA" + "Q" * 16,
    ),
    *(
        "ghp_" + "a1" * 18,
        "-----BEGIN PRIVATE KEY-----",
        "------BEGIN",
        "----BEGIN",
        "a_long_name_of_words",
        "ALongNameOfManyWords",
        "---",
    ),
)


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    """The compiled scanner."""
    place = compiled.place(scanner.SOURCE, tmp_path_factory.mktemp("scanner"))
    if place is None or sys.byteorder != "little":
        pytest.skip("the scanner cannot be compiled here")
    assert compiled.make(scanner.SOURCE, place)
    return place


@pytest.fixture(scope="module")
def scan(library) -> Runs:
    found = scanner.opened(library)
    assert found is not None
    return found


def all_runs(reader: Runs, data: bytes) -> list[Any]:
    """Runs, and None for each line that is none."""
    found, at, line = [], 0, 1
    while at < len(data):
        run = reader.run(data, at, line)
        found.append(told(run))
        if run is not None:
            at, line = run.at, run.line
        else:
            end = data.find(b"\n", at)
            at, line = len(data) if end < 0 else end + 1, line + 1
    return found


def a_text(chance: random.Random) -> str:
    return "".join(chance.choices(PIECES, k=chance.choice((1, 1, 2, 5, 40))))


def a_row(chance: random.Random) -> bytes:
    turns = chance.randrange(1, 4)
    roles = [*(["system"] if chance.random() < 0.2 else []), *["user", "assistant"] * turns]
    messages = [{"role": role, "content": a_text(chance)} for role in roles]
    written = json.dumps({"messages": messages}, ensure_ascii=chance.random() < 0.5, indent=chance.choice((None, None, 1)))
    return written.replace("\n", chance.choice(("", " ", "\t\r"))).encode("utf-8", "surrogatepass")


def test_every_text_is_stored_hashed_and_searched_as_in_python(scan):
    chance = random.Random(0)
    data = b"\n".join(a_row(chance) for _ in range(1500))
    runs = all_runs(PlainChats(), data)
    assert all_runs(scan, data) == runs
    assert sum(run is not None for run in runs) > 10


def test_no_change_of_a_byte_makes_a_difference(scan):
    chance, both = random.Random(1), 0
    for _ in range(1500):
        row = bytearray(a_row(chance))
        for _ in range(chance.randrange(1, 3)):
            at = chance.randrange(len(row))
            row[at : at + chance.randrange(3)] = chance.choice(
                (b"", b'"', b"\\", b"\x00", b"\xff", b"\xc3", b"\\ud83d", b"\\u0022", b"}", b" ")
            )
        line = bytes(row).replace(b"\n", b"")
        run, known = scan.run(line, 0, 7), PlainChats().run(line, 0, 7)
        both += run is not None and known is not None
        # Where a quotation mark may be hidden in a number, each of the two is careful in its own way.
        assert told(run) == told(known) or (b"\\u0022" in line and None in (run, known))
    assert both > 50


ODD = {
    "nothing": b"",
    "blanks": b" \t ",
    "another key": b'{"messages": [{"role": "assistant", "content": "a"}], "id": 1}',
    "a key twice": b'{"messages": [{"role": "assistant", "content": "a"}], "messages": []}',
    "fields in another order": b'{"messages": [{"content": "a", "role": "assistant"}]}',
    "no messages": b'{"messages": []}',
    "a comma too many": b'{"messages": [{"role": "assistant", "content": "a"},]}',
    "more after it": b'{"messages": [{"role": "assistant", "content": "a"}]} {}',
    "no end": b'{"messages": [{"role": "assistant", "content": "a"}]',
    "a cut text": b'{"messages": [{"role": "assistant", "content": "a',
    "a cut escape": b'{"messages": [{"role": "assistant", "content": "a\\',
    "a cut number": b'{"messages": [{"role": "assistant", "content": "a\\u00',
    "a cut character": b'{"messages": [{"role": "assistant", "content": "\xe2\x82',
    "half a pair": b'{"messages": [{"role": "assistant", "content": "\\ud83d"}]}',
    "the other half": b'{"messages": [{"role": "assistant", "content": "\\ude42"}]}',
    "a surrogate in bytes": b'{"messages": [{"role": "assistant", "content": "\xed\xa0\x80"}]}',
    "a character in too many bytes": b'{"messages": [{"role": "assistant", "content": "\xc0\xaf"}]}',
    "beyond all characters": b'{"messages": [{"role": "assistant", "content": "\xf4\x90\x80\x80"}]}',
    "a control character": b'{"messages": [{"role": "assistant", "content": "a\x01"}]}',
    "an escape that is none": b'{"messages": [{"role": "assistant", "content": "\\x41"}]}',
    "NUL": b'{"messages": [{"role": "assistant", "content": "a\\u0000"}]}',
    "no text": b'{"messages": [{"role": "assistant", "content": null}]}',
    "an empty text": b'{"messages": [{"role": "assistant", "content": ""}]}',
    "white space": '{"messages": [{"role": "assistant", "content": " \\n\\u001c\u00a0\u3000"}]}'.encode(),
    "the user last": b'{"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "a"}]}',
    "an unknown role": b'{"messages": [{"role": "robot", "content": "a"}]}',
    "a role with a blank": b'{"messages": [{"role": " assistant", "content": "a"}]}',
    "a tool that nobody called": b'{"messages": [{"role": "tool", "content": "a"}, {"role": "assistant", "content": "a"}]}',
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_is_left_to_others(scan, name):
    good = jsonl(chat("Why?", "Because."))
    assert scan.run(ODD[name], 0, 1) is None
    run = scan.run(good + ODD[name] + b"\n" + good, 0, 1)
    assert run is not None
    assert (run.at, run.line) == (len(good), 2)
    assert PlainChats().read(ODD[name]) is None


def a_line(size: int) -> bytes:
    frame = len(json.dumps(chat("a", "")))
    return json.dumps(chat("a", "b" * (size - frame))).encode()


def test_a_line_may_be_as_long_as_any_but_no_longer(scan):
    fits, too_long = a_line(MAX_RECORD_BYTES - 1), a_line(MAX_RECORD_BYTES)
    assert told(scan.run(fits, 0, 1)) == told(PlainChats().run(fits, 0, 1)) is not None
    assert scan.run(too_long, 0, 1) is None


@pytest.mark.parametrize("turns", [1, 15, 16, 40])
def test_a_very_long_conversation_is_read_by_others(scan, turns):
    row = {"messages": [{"role": role, "content": "a"} for _ in range(turns) for role in ("user", "assistant")]}
    assert (scan.run(jsonl(row), 0, 1) is not None) == (turns <= 15)


def test_more_shapes_than_it_knows_are_read_by_others(library):
    shapes = [["user"] * (1 + number % 4) + ["assistant"] * (1 + number // 4) for number in range(100)]
    rows = [jsonl({"messages": [{"role": role, "content": "a"} for role in roles]}) for roles in shapes]
    reader, python = scanner.opened(library), PlainChats()
    assert reader is not None
    taken = [(reader.run(row, 0, 1), python.run(row, 0, 1)) for row in rows]
    assert all(told(run) == told(known) for run, known in taken if run is not None)
    assert sum(run is not None for run, _ in taken) <= 64


def test_every_cut_of_a_row_is_refused_without_a_look_beyond_it(scan):
    """What follows the cut would make the row whole."""
    whole = b'{"messages": [{"role": "assistant", "content": "\xf0\x9f\x99\x82 \\ud83d\\ude42 a\\n"}]}'
    for at in range(len(whole)):
        assert scan.run(whole[:at] + b"\n" + whole[at:], 0, 1) is None


def test_a_check_takes_the_scanner_as_soon_as_it_is_there(library, tmp_path):
    place, data = tmp_path / "scanner.so", jsonl(*(chat(f"{number}?", "Yes.") for number in range(30)))
    inspector = Inspector({}, Content(1), library=place)
    seen = [inspector.check(Lines(1, 30, data), Tally())]
    for content in (b"half of it", library.read_bytes()):
        place.write_bytes(content)
        place.chmod(0o700)
        seen.append(inspector.check(Lines(1, 30, data), Tally()))
    assert all(one.kept == other.kept for one, other in pairwise(seen[1:]))
    assert [each.records for each in seen] == [30] * 3
