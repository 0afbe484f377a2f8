"""Links that need no key: what they open, and that nothing of them can be changed. (M06)"""

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest

from luthier.errors import Forbidden
from luthier.registry.links import LONGEST, Linked, Links

FILE = Linked("team_a", "job_1", "model.gguf")
START = datetime(2026, 11, 21, tzinfo=UTC)


class Clock:
    now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def links(clock):
    keys = {"k2": b"newer", "k1": b"older"}
    return Links(lambda: ("k2", keys["k2"]), lambda: keys, clock)


def query_of(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def test_a_link_opens_its_file_until_its_time(links, clock):
    url, until = links.made(FILE, timedelta(hours=1))
    assert urlsplit(url).path == "/links/team_a/job_1/model.gguf"
    assert until == START + timedelta(hours=1)
    clock.now = until
    links.check(FILE, **query_of(url))
    clock.now = until + timedelta(seconds=1)
    with pytest.raises(Forbidden, match="expired"):
        links.check(FILE, **query_of(url))


def test_no_link_opens_for_longer_than_a_week(links):
    assert links.made(FILE, timedelta(days=400))[1] == START + LONGEST


@pytest.mark.parametrize(
    ("linked", "change"),
    [
        (Linked("team_a", "job_1", "Modelfile"), {}),
        (Linked("team_a", "job_2", "model.gguf"), {}),
        (Linked("team_b", "job_1", "model.gguf"), {}),
        (Linked("team_a", "job_1/model.gguf", ""), {}),
        (FILE, {"until": "1999999999"}),
        (FILE, {"until": "١"}),
        (FILE, {"key": "k1"}),
        (FILE, {"key": "k0"}),
        (FILE, {"signature": ""}),
        (FILE, {"signature": "0" * 64}),
    ],
)
def test_a_link_that_was_changed_opens_nothing(links, linked, change):
    query = query_of(links.made(FILE)[0]) | change
    with pytest.raises(Forbidden, match="changed"):
        links.check(linked, **query)


def test_a_link_made_with_the_key_before_still_opens(links, clock):
    before = Links(lambda: ("k1", b"older"), dict, clock)
    links.check(FILE, **query_of(before.made(FILE)[0]))
