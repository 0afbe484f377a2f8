"""What is found in a large file is told while it is still being read."""

from __future__ import annotations

import time

import pytest

from luthier.datasets.sandbox import Ruler, Sandbox, Task
from luthier.faces.cli import checking
from luthier.faces.cli.findings import early

from .conftest import TINY, an_upload, chat, jsonl, rows


@pytest.fixture(scope="module")
def large() -> bytes:
    """Enough rows for seconds of work, and one at the start of which something is to be said."""
    return jsonl(chat(" ", "You said nothing."), *rows(30_000))


def test_the_report_so_far_is_heard_before_the_file_is_read(tmp_path, large):
    (tmp_path / "upload").write_bytes(large)
    heard = []
    task = Task(tmp_path / "upload", tmp_path / "rows", tmp_path)
    checked = Sandbox().check(task, Ruler("luthier/tiny", TINY, 1024), hear=heard.append)
    assert heard[0].findings[0].line == 1
    assert heard[0].counts == {"empty_content": 1}
    assert 0 < heard[0].read_bytes <= len(large)
    assert checked.report.read_bytes is None
    assert checked.report.counts["empty_content"] == 1


def test_a_dataset_that_is_validated_shows_what_was_found(world, alice, large):
    datasets = world.start(inline_upload_bytes=1000)
    dataset, shown = datasets.upload(alice, an_upload(large)), []
    until = time.monotonic() + 60
    while dataset.state == "validating" and time.monotonic() < until:
        shown += [dataset.report] if dataset.report else []
        time.sleep(0.02)
        dataset = datasets.get(alice, dataset.id)
    datasets.close()
    assert dataset.state == "ready"
    assert dataset.report.read_bytes is None
    assert shown[0].findings[0].code == "empty_content"
    assert all(report.read_bytes for report in shown)


def test_the_command_says_the_first_finding_of_each_kind_at_once(tmp_path, capsys, large):
    (tmp_path / "rows.jsonl").write_bytes(large)
    bars: list[tuple[int, int | None]] = []
    report = checking.validate(tmp_path / "rows.jsonl", [], None, early(lambda _, done, total: bars.append((done, total))))
    assert report["errors"] == 0
    assert bars[0][1] == len(large)
    assert capsys.readouterr().err.count("line 1: Message 1, of the user, is empty.") == 1
