"""Local copies of adapters: which of them go, and which stay."""

import os
import time

import pytest

from luthier.errors import Gone, InUse
from luthier.registry.copies import Copies

HOUR, WEEK = 3600.0, 7 * 24 * 3600.0


@pytest.fixture
def copies(world):
    return Copies(world.folder / "copies", world.storage, most_bytes=250)


@pytest.fixture
def kept(copies):
    """Makes a copy of 100 bytes that was asked so long ago."""

    def kept(key, unused_s=0.0):
        folder = copies.at(key)
        folder.mkdir(parents=True)
        (folder / "adapter_model.safetensors").write_bytes(bytes(100))
        at = time.time() - unused_s
        os.utime(folder, (at, at))
        return folder

    return kept


def test_beyond_the_bound_the_longest_unasked_go_first(copies, kept):
    old, older, oldest = kept("old", HOUR), kept("older", 2 * HOUR), kept("oldest", 3 * HOUR)
    assert copies.used(oldest)  # somebody asks it: now it is the newest
    assert copies.sweep() == 1
    assert (old.exists(), older.exists(), oldest.exists()) == (True, False, True)
    assert sorted(each.name for each in old.parent.iterdir()) == ["old", "oldest"]  # nothing is left of what went


def test_what_was_asked_just_now_stays_beyond_the_bound(copies, kept):
    folders = [kept(f"new-{number}", unused_s=number) for number in range(5)]
    assert copies.sweep() == 0
    assert all(folder.exists() for folder in folders)


def test_after_a_week_a_copy_goes_unless_it_answers(copies, kept):
    kept("left", WEEK + HOUR)
    answering = kept("answering", WEEK + HOUR)
    with copies.holding(answering):
        os.utime(answering, (0, 0))  # a very long answer
        assert copies.sweep() == 1
        assert [each.name for each in answering.parent.iterdir()] == ["answering"]
    assert copies.sweep() == 1


def test_what_a_dead_process_left_unfinished_goes_after_a_day(copies, kept):
    kept(".fetching-dead", 25 * HOUR)
    kept(".fetching-at-work", HOUR)
    copies.sweep()
    assert [each.name for each in copies.at("x").parent.iterdir()] == [".fetching-at-work"]


def test_who_comes_for_a_copy_that_is_gone_is_told(copies, kept):
    folder = kept("one")
    with copies.alone("one") as alone:
        assert alone
        copies.remove("one")
    assert not copies.used(folder)
    with pytest.raises(Gone), copies.holding(folder):
        pass
    with copies.alone("one") as alone:  # there is nothing to be held
        assert alone


def test_two_answer_at_once_and_neither_lets_it_be_removed(copies, kept):
    folder = kept("one")
    with copies.holding(folder):
        with copies.holding(folder), copies.alone("one") as alone:
            assert not alone
        with copies.alone("one") as alone:
            assert not alone
    with copies.alone("one") as alone:
        assert alone


def test_a_version_that_answers_is_not_deleted_and_an_idle_one_is_unloaded(world, alice):
    unloaded = []
    world.open(unload=unloaded.append)
    registry, model = world.registry, world.model(alice)
    folder = registry.weights(alice, model)
    with registry.copies.holding(folder), pytest.raises(InUse, match="Version 1 of this name is being served") as refused:
        registry.delete(alice, model.id)
    assert "hang up" in refused.value.hint
    assert (registry.get(alice, model.id).id, folder.is_dir(), unloaded) == (model.id, True, [])
    registry.delete(alice, model.id)
    assert (folder.exists(), unloaded) == (False, [folder])
