import json
import os
import threading
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.datasets import rules
from luthier.datasets.rules import Allowance
from luthier.datasets.sandbox import Ruler, Sandbox, Task
from luthier.errors import DatasetRejected, Unavailable

from .conftest import TINY, an_upload, chat, jsonl, rows

RULER = Ruler("luthier/tiny", TINY, 1024)
PLENTY = Allowance(memory_bytes=2**31, cpu_s=60, file_bytes=2**30)


@pytest.fixture
def check(tmp_path):
    """Checks these bytes in a process of their own."""

    def check(data: bytes, allowed: Allowance = PLENTY, ruler: Ruler = RULER):
        (tmp_path / "upload").write_bytes(data)
        task = Task(tmp_path / "upload", tmp_path / "rows", tmp_path)
        return Sandbox().check(task, ruler, allowed).report

    return check


@pytest.mark.parametrize(
    ("allowed", "code", "words"),
    [
        (Allowance(memory_bytes=30 * 2**20, cpu_s=60, file_bytes=2**30), "check_failed", "memory|status"),
        (Allowance(memory_bytes=2**31, cpu_s=1, file_bytes=2**30), "check_failed", "1 s"),
        (Allowance(memory_bytes=2**31, cpu_s=60, file_bytes=100), "unpacked_size", "more comes out"),
    ],
    ids=["memory", "time", "disk"],
)
def test_a_check_that_needs_too_much_is_a_finding(check, allowed, code, words):
    heavy = jsonl(*[chat("x" * 400_000, str(number)) for number in range(30)]) if allowed.cpu_s > 1 else b"null\n" * 3_000_000
    report = check(heavy, allowed)
    assert [finding.code for finding in report.findings] == [code]
    assert report.findings[0].fix
    assert report.errors == 1
    assert any(word in report.findings[0].message for word in words.split("|"))


ENDLESS = {"lines": jsonl(*rows()) + b'{"messages": "', "array": b'[{"messages": "', "table": b'text,label\na,b\n"'}


@pytest.mark.parametrize("start", ENDLESS.values(), ids=ENDLESS)
def test_d09_a_line_of_two_gigabytes_is_refused_in_little_memory(tmp_path, start):
    (tmp_path / "upload").write_bytes(start)
    os.truncate(tmp_path / "upload", 2 * 2**30)  # it takes no room on the disk
    task = Task(tmp_path / "upload", tmp_path / "rows", tmp_path)
    before = time.monotonic()
    report = Sandbox().check(task, RULER, Allowance(memory_bytes=640 * 2**20, cpu_s=60, file_bytes=2**30)).report
    assert "line_too_long" in report.counts
    assert time.monotonic() - before < 10


def test_a_check_that_is_killed_rejects_the_upload_and_not_the_server(datasets, world, alice):
    def kill_soon() -> None:
        while not datasets._sandbox._running:
            pass
        for process in list(datasets._sandbox._running):
            process.kill()

    killer = threading.Thread(target=kill_soon)
    killer.start()
    with pytest.raises(DatasetRejected) as refusal:
        datasets.upload(alice, an_upload(b"null\n" * 2_000_000))
    killer.join()
    assert refusal.value.error_code == "check_failed"
    assert world.files() == []
    assert datasets.upload(alice, an_upload()).state == "ready"


def test_a_server_that_shuts_down_says_so(datasets, world, alice):
    datasets.close()
    with pytest.raises(Unavailable, match="shutting down"):
        datasets.upload(alice, an_upload())
    assert world.files() == []


def test_without_a_tokenizer_lengths_are_counted_in_characters(check):
    report = check(jsonl(*rows()), ruler=Ruler("org/other", None, 8192))
    assert (report.tokens, report.loss_tokens, report.tokenizer, report.over_context) == (None, None, None, None)
    assert report.lengths.unit == "characters"
    assert report.lengths.max == len("Question 10?" + "Answer 10.")


def test_a_broken_tokenizer_is_a_warning_of_the_report(check, tmp_path):
    report = check(jsonl(*rows()), ruler=Ruler("org/broken", tmp_path, 8192))
    assert (report.counts, report.tokens, report.errors) == ({"template": 1}, None, 0)


def test_rows_over_the_context_are_counted_with_what_training_would_cut(check):
    long = [chat(str(number), "word " * 3000) for number in range(25)]
    report = check(jsonl(*rows(), *long))
    assert report.over_context == report.counts["too_long"] == 25
    assert "training cuts the last" in report.findings[0].message
    assert len(report.findings) == 20


def test_lengths_are_told_with_a_histogram_of_all_rows(check):
    report = check(jsonl(*rows(40)))
    assert sum(each.rows for each in report.lengths.histogram) == report.rows == report.measured_rows == 40
    assert report.lengths.min <= report.lengths.median <= report.lengths.p95 <= report.lengths.max


def test_equal_rows_are_counted_however_they_are_written(check):
    row = chat()
    spaced = json.dumps(row, indent=None, separators=(" , ", " : ")).encode() + b"\n"
    report = check(jsonl(row, {**row, "id": 7}) + spaced + jsonl(*rows()))
    assert report.duplicates == 2
    assert [finding.message for finding in report.findings] == ["The row is the same as line 1."] * 2


@given(st.dictionaries(st.integers(0, 2000), st.integers(1, 50), min_size=1))
def test_percentiles_and_bins_agree_with_the_plain_list(counted):
    plain = sorted(Counter(counted).elements())
    told = rules.lengths(counted, "tokens")
    assert told["median"] == plain[-(-len(plain) // 2) - 1]
    assert told["p95"] == plain[-(-len(plain) * 95 // 100) - 1]
    assert sum(each["rows"] for each in told["histogram"]) == len(plain)
    for each in told["histogram"]:
        assert each["rows"] == sum(each["low"] <= length <= each["high"] for length in plain)


@given(st.text() | st.none())
def test_any_file_name_becomes_a_name(file_name):
    name = rules.name_of(file_name)
    assert 1 <= len(name) <= rules.MAX_NAME
    assert "/" not in name
    name.encode("utf-8")
