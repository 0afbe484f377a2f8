"""Rate limits and wrong passwords: who sends too much waits, and is told for how long; a Redis that is gone refuses nobody."""

import contextlib
import secrets
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from luthier import wiring
from luthier.accounts.limits import Limiter
from luthier.accounts.passwords import Passwords
from luthier.accounts.request_limits import RequestLimits
from luthier.accounts.types import Actor, Role
from luthier.backends.engines.echo import EchoEngine
from luthier.errors import AccountExists, LoginRefused, RateLimited, SetupError, TooMany
from luthier.faces.rest.app import create_app
from luthier.settings import Settings

from .conftest import QUICK

ALICE = Actor(tenant_id="t", user_id="alice", role=Role.ADMIN, key_id="key_1")
NONE = {"requests": "", "changes": "", "address": ""}


@pytest.fixture
def limited(tmp_path):
    from starlette.testclient import TestClient

    settings = Settings(data=tmp_path / "data", limit_requests="5/minute", limit_changes="2/minute", limit_address="3/minute")
    platform = wiring.build(settings, engine=EchoEngine())
    client = TestClient(create_app(platform), raise_server_exceptions=False)
    client.headers["x-api-key"] = platform.accounts.first_start()
    yield client
    platform.close()


def test_what_is_too_much_is_refused_with_the_time_to_wait(limited):
    for left in (4, 3, 2, 1, 0):
        answer = limited.get("/api/jobs")
        told = (answer.headers["ratelimit-limit"], answer.headers["ratelimit-remaining"])
        assert (answer.status_code, told) == (200, ("5", str(left)))
        assert 1 <= int(answer.headers["ratelimit-reset"]) <= 60
    answer = limited.get("/api/jobs")
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limited")
    assert answer.json()["error"]["message"] == "More than the 5 requests came that are allowed within 60 s."
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert answer.headers["ratelimit-remaining"] == "0"


def test_changes_have_a_rule_of_their_own_and_a_refused_one_changes_nothing(limited):
    body = {"name": "second"}
    assert [limited.post("/api/keys", json=body).status_code for _ in range(3)] == [201, 201, 429]
    assert len(limited.get("/api/keys").json()["data"]) == 3


def test_an_address_without_a_key_is_slowed_and_those_with_one_are_not(limited):
    wrong = [limited.get("/api/jobs", headers={"x-api-key": "lk_wrong"}).status_code for _ in range(5)]
    assert wrong == [401, 401, 401, 429, 429]
    assert limited.get("/health").status_code == 429
    assert limited.get("/api/jobs").status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Basic YTpi"}, 401),
        ({"authorization": "Bearer another"}, 400),
        ({"x-luthier-team": "team_" + "0" * 26}, 404),
    ],
    ids=["no key", "no bearer", "two keys", "another team"],
)
def test_whoever_the_door_turns_away_is_slowed_however_they_knock(limited, headers, status):
    if not headers:
        del limited.headers["x-api-key"]
    answers = [limited.get("/api/jobs", headers=headers) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [status, status, status, 429]
    assert int(answers[3].headers["retry-after"]) >= 1


def test_users_and_keys_are_counted_apart():
    limits = RequestLimits(Limiter(), **{**NONE, "requests": "2/minute"})
    other_key = Actor(tenant_id="t", user_id="alice", role=Role.ADMIN, key_id="key_2")
    bob = Actor(tenant_id="t", user_id="bob", role=Role.ADMIN)
    limits.admit(ALICE, "GET")
    limits.admit(other_key, "GET")
    for actor in (ALICE, other_key):
        with pytest.raises(RateLimited):
            limits.admit(actor, "GET")
    limits.admit(bob, "GET")


def test_without_rules_nothing_is_counted():
    limits = RequestLimits(Limiter(), **NONE)
    assert (limits.admit(ALICE, "POST"), limits.admit_address("1.2.3.4"), limits.admit_address(None)) == (None, None, None)


def test_without_redis_each_process_counts_for_itself():
    limits = RequestLimits(Limiter("redis://127.0.0.1:1/0"), **{**NONE, "requests": "2/minute"})
    assert limits.remote
    assert limits.degraded
    limits.admit(ALICE, "GET")
    assert limits.degraded
    limits.admit(ALICE, "GET")
    with pytest.raises(RateLimited):
        limits.admit(ALICE, "GET")


def somebody() -> Actor:
    """Unknown to any Redis."""
    return Actor(tenant_id="t", user_id=secrets.token_hex(8), role=Role.ADMIN, key_id=secrets.token_hex(8))


def test_servers_with_one_redis_count_together(redis_url):
    one, other = (RequestLimits(Limiter(redis_url), **{**NONE, "requests": "4/minute", "changes": "3/minute"}) for _ in "12")
    alice, bob = somebody(), somebody()
    assert [each.admit(alice, "GET").remaining for each in (one, other, one, other)] == [3, 2, 1, 0]
    for each in (one, other):
        with pytest.raises(RateLimited) as refused:
            each.admit(alice, "GET")
        assert 1 <= refused.value.retry_after_s <= 60
    assert [other.admit(bob, "POST").limit for _ in range(3)] == [3, 3, 3]
    with pytest.raises(RateLimited):
        one.admit(bob, "POST")
    assert [one.degraded, other.degraded] == [False, False]


def test_many_at_once_do_not_share_the_last_one(redis_url):
    servers = [RequestLimits(Limiter(redis_url), **{**NONE, "address": "20/minute"}) for _ in range(4)]
    address, passed = secrets.token_hex(8), []

    def ask(number: int) -> None:
        with contextlib.suppress(RateLimited):
            passed.append(servers[number % 4].admit_address(address))

    with ThreadPoolExecutor(16) as many:
        list(many.map(ask, range(80)))
    assert len(passed) == 20


def test_a_redis_that_goes_refuses_nobody_and_is_asked_again_when_it_is_back(own_redis):
    limits = RequestLimits(Limiter(own_redis.url, again_s=0.2), **{**NONE, "requests": "3/minute"})
    alice = somebody()
    limits.admit(alice, "GET")
    own_redis.stop()
    try:
        assert [limits.admit(alice, "GET").remaining for _ in range(3)] == [2, 1, 0], "it counts for itself, anew"
        with pytest.raises(RateLimited):
            limits.admit(alice, "GET")
        assert limits.degraded
    finally:
        own_redis.start()
    end = time.monotonic() + 10
    while limits.degraded and time.monotonic() < end:
        time.sleep(0.05)  # another process starts: there is nothing to step forward but real time
    assert not limits.degraded
    assert limits.admit(alice, "GET").remaining == 2, "what Redis had counted went with it"


RIGHT, WRONG = "a right password of hers", "a wrong password of his"


class Guessers:
    """Servers with databases of their own: what they share is Redis alone, and one account that nobody else has."""

    def __init__(self, folder, redis_url):
        self.email, self.address = f"{secrets.token_hex(8)}@example.org", secrets.token_hex(8)
        self._folder, self._redis_url, self._platforms = folder, redis_url, []

    def server(self, name):
        settings = Settings(data=self._folder / name, redis_url=self._redis_url)
        platform = wiring.build(settings, engine=EchoEngine(), passwords=Passwords(QUICK))
        with contextlib.suppress(AccountExists):
            platform.accounts.users.add(self.email, RIGHT)
        self._platforms.append(platform)
        return platform

    def tries(self, platform, password, count=1, *, email=None, address=None):
        """How each of so many logins ended."""
        return [self._ending(platform, email or self.email, password, address) for _ in range(count)]

    def _ending(self, platform, email, password, address):
        try:
            platform.accounts.logins.log_in(email, password, address=address)
        except (LoginRefused, TooMany) as refused:
            return type(refused).__name__
        return "in"

    def close(self):
        for platform in self._platforms:
            platform.close()


@pytest.fixture
def guessers(tmp_path, redis_url):
    found = Guessers(tmp_path, redis_url)
    yield found
    found.close()


def test_ten_wrong_passwords_are_ten_on_all_servers_together_and_after_a_restart(guessers):
    one, other = guessers.server("one"), guessers.server("other")
    for _ in range(5):
        assert guessers.tries(one, WRONG) == guessers.tries(other, WRONG) == ["LoginRefused"]
    assert guessers.tries(one, RIGHT) == guessers.tries(other, RIGHT) == ["TooMany"]
    one.close()
    assert guessers.tries(guessers.server("one"), RIGHT) == ["TooMany"]


def test_a_right_password_clears_the_account_on_all_servers(guessers):
    one, other = guessers.server("one"), guessers.server("other")
    guessers.tries(one, WRONG, 9)
    assert guessers.tries(other, RIGHT) == ["in"]
    assert guessers.tries(one, WRONG, 9) == ["LoginRefused"] * 9


def test_an_address_is_counted_on_all_servers_together(guessers):
    servers = [guessers.server("one"), guessers.server("other")]
    for number in range(10):
        guessers.tries(servers[number % 2], WRONG, email=f"{number}-{guessers.email}", address=guessers.address)
    for server in servers:
        assert guessers.tries(server, RIGHT, address=guessers.address) == ["TooMany"]
        assert guessers.tries(server, RIGHT) == ["in"]


def test_while_redis_is_gone_each_server_counts_wrong_passwords_for_itself(tmp_path):
    guessers = Guessers(tmp_path, "redis://127.0.0.1:1/0")
    with contextlib.closing(guessers):
        one = guessers.server("one")
        assert guessers.tries(one, RIGHT) == ["in"]
        assert guessers.tries(one, WRONG, 11) == [*["LoginRefused"] * 10, "TooMany"]


def test_an_address_of_redis_that_is_none_stops_the_start():
    with pytest.raises(SetupError, match="LUTHIER_REDIS_URL"):
        Limiter("nonsense://x")


@pytest.mark.parametrize("rule", ["10", "0/second", "10/week", "-1/second", "1e3/second", "10/second;5/minute"])
def test_a_rule_that_is_none_stops_the_start(rule, monkeypatch):
    monkeypatch.setenv("LUTHIER_LIMIT_REQUESTS", rule)
    with pytest.raises(SetupError, match="LUTHIER_LIMIT_REQUESTS"):
        Settings.load()
