"""Numbers on disk: what is appended is what is read, and it takes no memory to speak of."""

from __future__ import annotations

import gc
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.training.batches import Row, Rows
from luthier.training.columns import Column


@given(st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=20), max_size=10))
def test_what_is_appended_is_what_is_read(parts):
    column, expected = Column("i"), []
    for part in parts:
        column.extend(part)
        expected += part
        assert len(column) == len(expected)
        assert list(column.part(0, len(column))) == expected  # reading in between hinders no writing
    assert [column[place] for place in range(len(column))] == expected


def test_an_empty_column_has_no_numbers():
    column = Column("d")
    assert (len(column), list(column.part(0, 0))) == (0, [])
    with pytest.raises(IndexError):
        column[0]


def test_more_numbers_than_wait_in_memory_come_back_in_order():
    column = Column("q")
    column.extend(range(200_000))
    column.append(-1)
    assert list(column.part(199_998, 200_001)) == [199_998, 199_999, -1]


def test_what_is_asked_for_ahead_is_what_is_read():
    column = Column("i")
    column.soon(0, 0)
    column.extend(range(5000))
    for start, end in [(0, 1), (1023, 1025), (4999, 5000), (0, 5000), (7, 7)]:
        column.soon(start, end)
        assert list(column.part(start, end)) == list(range(start, end))


def test_the_files_of_a_folder_have_no_name_and_end_with_their_last_reader(tmp_path):
    rows = Rows(tmp_path)
    rows.append(Row([1, 2, 3], [0, 1], 0.5))
    before = len(list(Path("/dev/fd").iterdir()))
    assert list(tmp_path.iterdir()) == []
    assert (list(rows[0].ids), list(rows[0].loss_at), rows[0].weight) == ([1, 2, 3], [0, 1], 0.5)
    del rows
    gc.collect()
    assert len(list(Path("/dev/fd").iterdir())) < before


def test_a_full_disk_is_told_at_the_row_that_no_longer_fits():
    column = Column("i")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, column._file.fileno())
    os.close(full)
    with pytest.raises(OSError, match="No space left"):
        column.extend(range(100_000))


def test_many_rows_hold_next_to_nothing_in_memory():
    tracemalloc.start()
    rows, ids = Rows(), list(range(100))
    for _ in range(20_000):  # 8 MB of tokens, 7 of loss positions
        rows.append(Row(ids, range(10, 99)))
    assert rows[19_999] == Row(rows[0].ids, rows[0].loss_at)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (rows.tokens, rows.loss_tokens, rows.longest) == (2_000_000, 1_780_000, 100)
    assert max(held, peak) < 4e6
