"""Imports that are fetched in the background: how far they are, and what becomes of those that break off."""

import threading
from contextlib import contextmanager

import pytest

from luthier.datasets.deliveries import MOST_WAITING, Deliveries
from luthier.datasets.importing import Imports
from luthier.datasets.sources import Import, Sources
from luthier.datasets.types import Room
from luthier.errors import DatasetNotReady, Gone, NotFound, StorageFull, TooMany
from luthier.seams import Fetched, NotFetched

from .conftest import jsonl, rows

URL = "https://example.org/rows.jsonl?key=secret"
DATA = jsonl(*rows())


class Slow:
    """Gives a file in pieces, each after a nod."""

    def __init__(self, data: bytes = DATA, *, said: int | None = 10**6, fault: str | None = None) -> None:
        self.data, self.said, self.fault = data, said, fault
        self.nod = threading.Semaphore(0)
        self.opened = 0

    @contextmanager
    def fetch(self, url, *, max_bytes, redirects=0):
        self.opened += 1
        yield Fetched(self.said, self.chunks(max_bytes))

    def chunks(self, max_bytes):
        for at in range(0, len(self.data), 100):
            assert self.nod.acquire(timeout=10)
            yield self.data[at : at + 100]
        if self.fault is not None:
            raise NotFetched(self.fault)

    def nod_to_all(self):
        self.nod.release(10**6)


class Shop:
    """The services that take part, on one folder; a second one is a second start of the server."""

    def __init__(self, world, fetcher) -> None:
        self.world, self.fetcher = world, fetcher
        self.datasets = world.start(inline_upload_bytes=1000)
        room = Room(world.folder / "data" / "scratch", max_upload_bytes=64 * 2**20, inline_upload_bytes=1000)
        self.deliveries = Deliveries(world.database, world.storage, room, world.now, self.datasets.check_later)
        self.imports = Imports(self.datasets, self.deliveries, fetcher, Sources(fetcher, "https://hub.example"), room)

    def take(self, actor, **more):
        return self.imports.take(actor, Import(source=URL, **more))

    def settle(self):
        self.imports.settle(20)
        self.datasets.settle(20)

    def close(self):
        self.imports.close()
        self.datasets.close()


@pytest.fixture
def opened(world):
    shops = []

    def open_one(fetcher) -> Shop:
        shops.append(Shop(world, fetcher))
        return shops[-1]

    yield open_one
    for shop in shops:
        shop.fetcher.nod_to_all()
        shop.close()


def until(done):
    for _ in range(2000):
        if (found := done()) is not None:
            return found
        threading.Event().wait(0.005)
    raise TimeoutError


def test_a_large_file_is_answered_at_once_and_says_how_far_it_is(world, opened, alice):
    shop = opened(Slow())
    made = shop.take(alice)
    assert (made.state, made.bytes, made.sha256, made.arriving.bytes, made.arriving.total) == ("validating", 0, None, 0, 10**6)
    assert "secret" not in made.model_dump_json()
    shop.fetcher.nod.release(3)
    on_the_way = until(lambda: shop.datasets.get(alice, made.id) if shop.datasets.get(alice, made.id).arriving.bytes else None)
    assert 100 <= on_the_way.arriving.bytes <= 300
    shop.fetcher.nod_to_all()
    shop.settle()
    there = shop.datasets.get(alice, made.id)
    assert (there.state, there.bytes, there.rows, there.arriving) == ("ready", len(DATA), 12, None)
    assert there.report.origin == "https://example.org/rows.jsonl"
    with shop.datasets.open(alice, made.id) as file:
        assert file.read() == DATA


def test_a_file_whose_size_is_not_said_is_fetched_in_the_background(opened, alice):
    shop = opened(Slow(said=None))
    assert shop.take(alice).arriving.total is None


def test_the_address_is_kept_only_until_the_file_is_here(world, opened, alice):
    shop = opened(Slow())
    shop.take(alice)
    kept = [name for name in world.files() if b"key=secret" in world.storage.read(name)]
    assert len(kept) == 1
    shop.fetcher.nod_to_all()
    shop.settle()
    assert [name for name in world.files() if b"key=secret" in world.storage.read(name)] == []


@pytest.mark.parametrize("fault", ["the connection broke off before the end", "the server answered with status 404"])
def test_a_fetch_that_breaks_off_is_never_listed_and_says_why(world, opened, alice, fault):
    shop = opened(Slow(fault=fault))
    made = shop.take(alice)
    shop.fetcher.nod_to_all()
    shop.settle()
    refused = shop.datasets.get(alice, made.id)
    assert refused.state == "rejected"
    assert [(each.code, fault in each.message) for each in refused.report.findings] == [("source", True)]
    assert refused.report.origin == "https://example.org/rows.jsonl"
    assert (list(shop.datasets.list(alice).data), world.files()) == ([], [])
    for use in (shop.datasets.open, shop.datasets.fix):
        with pytest.raises(DatasetNotReady):
            use(alice, made.id)


def test_a_file_with_bad_rows_is_rejected_as_an_upload_would_be(opened, alice):
    shop = opened(Slow(jsonl(*rows()) + b"{\n"))
    made = shop.take(alice)
    shop.fetcher.nod_to_all()
    shop.settle()
    refused = shop.datasets.get(alice, made.id)
    assert (refused.state, refused.report.counts) == ("rejected", {"json_syntax": 1})


def test_wishes_travel_with_an_import(opened, alice):
    shop = opened(Slow(jsonl(*({"question": f"{n}?", "answer": "b"} for n in range(40))) + b"{\n"))
    made = shop.take(alice, map="prompt=question,completion=answer", drop_bad_rows=True, name="sums")
    shop.fetcher.nod_to_all()
    shop.settle()
    there = shop.datasets.get(alice, made.id)
    assert (there.state, there.name, there.rows, there.report.dropped_rows) == ("ready", "sums", 40, 1)


def test_wishes_that_cannot_be_granted_are_refused_before_anything_is_fetched(world, opened, alice, bob):
    shop = opened(Slow())
    other = shop.take(bob).id
    with pytest.raises(NotFound):
        shop.take(alice, against=(other,))
    assert list(shop.datasets.list(alice).data) == []


def test_a_dataset_that_is_deleted_meanwhile_takes_nothing_more(world, opened, alice):
    shop = opened(Slow())
    made = shop.take(alice)
    shop.fetcher.nod.release(2)
    shop.datasets.delete(alice, made.id)
    shop.fetcher.nod_to_all()
    shop.settle()
    assert world.files() == []
    with pytest.raises(Gone):
        shop.datasets.get(alice, made.id)


def test_a_restart_begins_the_fetch_again(world, opened, alice):
    shop = opened(Slow())
    made = shop.take(alice)
    shop.fetcher.nod.release(2)
    closing = threading.Thread(target=shop.close)
    closing.start()
    shop.fetcher.nod_to_all()
    closing.join()
    assert shop.datasets.get(alice, made.id).state == "validating"
    second = opened(Slow())
    second.fetcher.nod_to_all()
    second.datasets.recover()
    second.imports.recover()
    second.settle()
    assert (second.fetcher.opened, second.datasets.get(alice, made.id).rows) == (1, 12)


def test_a_team_has_a_limit_of_its_own(opened, alice, bob):
    shop = opened(Slow())
    for number in range(MOST_WAITING):
        shop.take(alice, name=f"n{number}")
    with pytest.raises(TooMany, match="16 unfinished imports"):
        shop.take(alice)
    assert shop.take(bob).state == "validating"


def test_there_must_be_room_for_all_that_is_on_its_way(opened, alice):
    shop = opened(Slow(said=2**60))
    with pytest.raises(StorageFull):
        shop.take(alice)


def test_four_are_fetched_at_once_so_that_a_slow_one_holds_nobody_up(opened, alice, bob):
    slow = opened(Slow())
    slow.take(alice)
    many = [slow.take(bob, name=f"n{n}").id for n in range(3)]
    until(lambda: True if slow.fetcher.opened == 8 else None)  # four looked at for their size, four begun
    assert len(many) == 3
