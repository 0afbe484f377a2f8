"""Tokenised rows that outlive their run: the same numbers again, or they are made anew."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.training.batches import Row, Rows
from luthier.training.token_cache import Kept, TokenCache, key_of

ROOM = 1 << 20
ROWS = [Row([1, 2, 3], [1], 1.0), Row([4], [0], 0.5), Row([5] * 700, range(3, 699), 1.0)]


def kept_of(rows=ROWS, beside=("a", {"answer": 1})) -> Kept:
    kept = Kept(Rows(), list(beside))
    for row in rows:
        kept.rows.append(row)
    kept.rows.truncated, kept.rows.dropped = 1, 2
    return kept


def never() -> Kept:
    raise AssertionError("they are there already")


def seen(kept: Kept) -> list[object]:
    rows = [(list(row.ids), list(row.loss_at), row.weight) for row in map(kept.rows.__getitem__, range(len(kept.rows)))]
    return [rows, kept.rows.tokens, kept.rows.loss_tokens, dict(kept.rows.counts), list(kept.beside)]


@given(
    st.lists(
        st.builds(Row, st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=9), st.just([0]), st.floats(0, 5)), max_size=8
    )
)
def test_what_was_made_once_is_found_again(tmp_path_factory, rows):
    cache = TokenCache(tmp_path_factory.mktemp("tokens"), ROOM)
    made, before = cache.get("key", lambda: kept_of(rows))
    found, again = cache.get("key", never)
    assert (before, again) == (False, True)
    assert seen(found) == seen(made)


@pytest.mark.parametrize("at", [0, 20, 60, -1])
def test_an_entry_that_was_touched_is_made_anew(tmp_path, at):
    cache = TokenCache(tmp_path, ROOM)
    cache.get("key", kept_of)
    data = bytearray((tmp_path / "key").read_bytes())
    data[at] ^= 1
    (tmp_path / "key").write_bytes(data)
    assert cache.get("key", kept_of)[1] is False
    assert cache.get("key", never)[1] is True


@pytest.mark.parametrize("size", [0, 10, 49, 200])
def test_a_torn_entry_is_made_anew(tmp_path, size):
    cache = TokenCache(tmp_path, ROOM)
    cache.get("key", kept_of)
    os.truncate(tmp_path / "key", size)
    assert cache.get("key", kept_of)[1] is False


def test_what_was_not_used_for_longest_makes_room(tmp_path):
    cache = TokenCache(tmp_path, ROOM)
    cache.get("first", kept_of)
    size = (tmp_path / "first").stat().st_size
    cache = TokenCache(tmp_path, 2 * size)
    os.utime(tmp_path / "first", (1, 1))
    cache.get("second", kept_of)
    os.utime(tmp_path / "second", (2, 2))
    cache.get("first", never)  # used just now
    cache.get("third", kept_of)
    assert {path.name for path in tmp_path.iterdir()} == {"first", "third"}


def test_rows_that_do_not_fit_are_not_kept(tmp_path):
    kept, before = TokenCache(tmp_path, 100).get("key", kept_of)
    assert (len(kept.rows), before, list(tmp_path.iterdir())) == (3, False, [])


def test_a_folder_that_cannot_be_written_hinders_nobody(tmp_path):
    (tmp_path / "file").write_text("no folder")
    kept, before = TokenCache(tmp_path / "file", ROOM).get("key", kept_of)
    assert (len(kept.rows), before) == (3, False)


def test_what_an_ended_trainer_left_half_is_swept(tmp_path):
    (tmp_path / ".half").write_bytes(b"x")
    (tmp_path / ".new").write_bytes(b"x")
    os.utime(tmp_path / ".half", (1, 1))
    TokenCache(tmp_path, ROOM).get("key", kept_of)
    assert {path.name for path in tmp_path.iterdir()} == {".new", "key"}


def test_rows_that_are_read_outlive_their_entry(tmp_path):
    cache = TokenCache(tmp_path, ROOM)
    cache.get("key", kept_of)
    found, _ = cache.get("key", never)
    (tmp_path / "key").unlink()
    assert seen(found) == seen(kept_of())
    with pytest.raises(ValueError, match="only be read"):
        found.rows.append(Row([1] * 100_000, [0]))


def test_many_trainers_at_once_all_see_whole_rows(tmp_path):
    found: list[list[object]] = []

    def train(folder: Path) -> None:
        found.extend(seen(TokenCache(folder, ROOM).get("key", kept_of)[0]) for _ in range(20))

    threads = [threading.Thread(target=train, args=(tmp_path,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [seen(kept_of())] * 120


def test_a_key_changes_with_all_that_tokens_depend_on():
    keys = {
        key_of("data", "template", ["sft", 512]),
        key_of("other", "template", ["sft", 512]),
        key_of("data", "other", ["sft", 512]),
        key_of("data", "template", ["dpo", 512]),
        key_of("data", "template", ["sft", 256]),
    }
    assert len(keys) == 5
    assert key_of("data", "template", ["sft", 512]) in keys
