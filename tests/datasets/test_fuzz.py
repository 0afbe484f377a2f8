"""The reader beside a million files that are nearly right: each is read or refused, at once and without growing."""

import gzip
import json
import os
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from luthier.datasets.examples import Example
from luthier.datasets.formats import read_rows
from luthier.errors import DatasetRejected

from .conftest import an_upload, jsonl
from .test_containers import zipped

FUZZING = Path(__file__).with_name("fuzzing.py")
SEED = 20261121
GROWTH_BYTES = 32 * 2**20


def fuzz(folder: Path, count: int, shards: int) -> list[dict]:
    """What came of so many inputs, read by processes side by side."""
    share = -(-count // shards)
    running = []
    for shard in range(shards):
        (folder / str(shard)).mkdir()
        numbers = [str(number) for number in (SEED, shard * share, share)]
        command = [sys.executable, str(FUZZING), *numbers, str(folder / str(shard))]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    told = []
    for shard, process in enumerate(running):
        output, errors = process.communicate()
        # A process that died has left the input that killed it.
        assert process.returncode == 0, (errors[-2000:], (folder / str(shard) / "upload").read_bytes()[:2000])
        told.append(json.loads(output))
    return told


def check(told: list[dict]) -> None:
    assert [failure for shard in told for failure in shard["failures"].items()] == []
    assert max(shard["grown_bytes"] for shard in told) < GROWTH_BYTES


def test_no_file_of_three_thousand_breaks_the_reader(tmp_path):
    told = fuzz(tmp_path, 3000, 1)
    check(told)
    outcomes = told[0]["outcomes"]
    accepted = {name for name in outcomes if name.startswith("accepted")}
    assert accepted == {f"accepted: {name}" for name in ("jsonl", "json", "csv", "text", "parquet", "idx")}
    assert len(outcomes) > 30


@pytest.mark.prove
@pytest.mark.timeout(7200)
def test_no_file_of_a_million_breaks_the_reader(tmp_path, record):
    shards = int(os.environ.get("LUTHIER_FUZZ_PROCESSES") or os.cpu_count() or 1)
    told = fuzz(tmp_path, 1_000_000, shards)
    check(told)
    outcomes = sum((Counter(shard["outcomes"]) for shard in told), Counter())
    accepted = {name: number for name, number in outcomes.items() if name.startswith("accepted")}
    record(
        "reader-fuzz",
        "A million files that are nearly right",
        {
            "files read": outcomes.total(),
            "crashes, hangs, and rows that a trainer would read otherwise": 0,
            "refused": outcomes.total() - sum(accepted.values()),
            "kinds of refusal": len(outcomes) - len(accepted),
            **dict(sorted(accepted.items())),
            "slowest file, ms of processor time": 1000.0 * max(shard["slowest_s"] for shard in told),
            "memory that a process grew by, KiB": max(shard["grown_bytes"] for shard in told) // 1024,
            "processes": shards,
        },
    )


def misplaced() -> bytes:
    """A zip file whose list of members says that they begin before the file does."""
    data = bytearray(zipped(("rows.jsonl", jsonl({"text": "a"}))))
    at = data.rfind(b"PK\x05\x06") + 16
    struct.pack_into("<I", data, at, struct.unpack_from("<I", data, at)[0] + 40)
    return bytes(data)


ALPACA = {"instruction": "Add.", "output": "2"}
FOUND = [
    ("a member before the file", misplaced(), "archive"),
    ("a member without a name", zipped(("X", b"{}")).replace(b"X", b"\0"), "member_path"),
    ("a history that is a number", jsonl({**ALPACA, "history": 5}), "bad_type"),
    ("a history that is true", jsonl({**ALPACA, "history": True}), "bad_type"),
    ("an empty answer in a history", jsonl({**ALPACA, "history": [["Hi", ""]]}), "empty_content"),
    ("a weight beyond every float", b'{"text": "a", "weight": 1%s}\n' % (b"0" * 400), "bad_value"),
    ("a pixel beyond every float", b'{"image": [0.5, 0, 0, 1%s], "label": 0}\n' % (b"0" * 400), "bad_value"),
    ("NUL in a table", b"prompt,completion\na,b\nc,d\0\n", "nul_character"),
    ("NUL in a packed text", gzip.compress(b"One line.\n" * 500 + b"A \0 here.\n"), "nul_character"),
]


@pytest.mark.parametrize(("data", "code"), [case[1:] for case in FOUND], ids=[case[0] for case in FOUND])
def test_what_the_fuzzer_found_is_refused_with_its_reason(datasets, alice, data, code):
    with pytest.raises(DatasetRejected) as refusal:
        datasets.upload(alice, an_upload(data))
    assert refusal.value.error_code == code


def test_texts_and_conversations_in_one_file_are_read_by_a_trainer_too(datasets, world, alice):
    turns = {"prompt": [{"role": "user", "content": "1 + 1?"}], "completion": [{"role": "assistant", "content": "2"}]}
    dataset = datasets.upload(alice, an_upload(jsonl({"prompt": "1 + 1 =", "completion": " 2"}, turns)))
    with world.storage.open(f"users/{alice.tenant_id}/data/{dataset.id}/processed/rows.jsonl") as rows:
        assert [example.prompt for example in read_rows(rows, Example)] == ["1 + 1 =", None]
