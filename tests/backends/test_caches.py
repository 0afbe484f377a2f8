"""The contract of `seams.Cache`, and what memory does besides."""

import pytest

from luthier.backends.caches.memory import MemoryCache


class Watch:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def watch():
    return Watch()


@pytest.fixture
def cache(watch):
    return MemoryCache(1000, 60, watch)


def test_what_was_put_is_there_and_replaced_by_what_is_put_again(cache):
    assert cache.get("a") is None
    cache.put("a", b"1")
    cache.put("b", b"")
    cache.put("a", b"2")
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (b"2", b"", None)


def test_after_a_while_it_is_gone(cache, watch):
    cache.put("a", b"1")
    watch.now += 59
    assert cache.get("a") == b"1"
    watch.now += 1
    assert cache.get("a") is None


def test_the_longest_unasked_leaves_first(cache):
    for name in "abcd":  # 301 bytes each, counted with what an entry takes
        cache.put(name, b"x" * 100)
        cache.get("a")
    assert [name for name in "abcd" if cache.get(name)] == ["a", "c", "d"]


def test_what_is_larger_than_the_cache_is_not_kept(cache):
    cache.put("a", b"1")
    cache.put("b", b"x" * 5000)
    assert cache.get("b") is None


def test_a_cache_of_no_bytes_keeps_nothing(watch):
    nothing = MemoryCache(0, 60, watch)
    nothing.put("a", b"1")
    assert nothing.get("a") is None


def test_what_left_takes_no_room(cache, watch):
    for number in range(500):
        cache.put(f"{number}", b"x" * 300)
        watch.now += 61
        assert cache.get(f"{number}") is None
    cache.put("a", b"x" * 700)
    assert cache.get("a") is not None
