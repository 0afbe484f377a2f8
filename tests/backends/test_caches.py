"""The contract of `seams.Cache`, and what memory does besides."""

import shutil
import time

import pytest

from luthier.backends.caches.memory import MemoryCache
from luthier.backends.caches.redis import connected
from luthier.errors import SetupError

from .small_redis import SmallRedis


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


@pytest.fixture(scope="module")
def redis_url(request):
    """A real Redis where this machine has one, else what speaks its protocol."""
    if shutil.which("redis-server"):
        yield request.getfixturevalue("own_redis").url
        return
    with SmallRedis() as small:
        yield small.url
        small.shutdown()


@pytest.fixture(params=["memory", "redis"])
def any_cache(request):
    return MemoryCache(1000, 60) if request.param == "memory" else connected(request.getfixturevalue("redis_url"), 60, 20)


def test_what_was_put_is_there_and_replaced_by_what_is_put_again(any_cache):
    cache = any_cache
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


def test_redis_forgets_after_a_while_and_another_server_finds_what_one_kept(redis_url):
    one, other, short = connected(redis_url, 60, 20), connected(redis_url, 60, 20), connected(redis_url, 0.001, 20)
    one.put("shared", b"\x00\xff")
    assert other.get("shared") == b"\x00\xff"
    short.put("brief", b"1")
    until = time.monotonic() + 10
    while short.get("brief") is not None:
        assert time.monotonic() < until
    assert (one.remote, MemoryCache(0, 1).remote) == (True, False)


def test_a_redis_that_is_not_there_is_no_hindrance_and_asked_again_later(watch):
    gone = connected("redis://127.0.0.1:1/0", 60)
    gone._seconds = watch
    gone.put("a", b"1")
    assert gone.get("a") is None
    with SmallRedis() as small:
        back = connected(small.url, 60, 20)
        gone._client = back._client
        back.put("a", b"2")
        assert gone.get("a") is None
        watch.now += 11
        assert gone.get("a") == b"2"
        small.shutdown()


def test_an_address_of_redis_that_is_none_is_refused():
    with pytest.raises(SetupError, match="LUTHIER_REDIS_URL"):
        connected("nonsense://x", 60)
