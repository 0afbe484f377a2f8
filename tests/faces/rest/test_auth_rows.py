"""Group A of the catalogue of bad inputs: who gets in, and what each may do. A15 to A17 stand with the matrix of tenants, and
so does A24: a cookie opens nothing, and a GET changes nothing.
"""

import base64
import hashlib
import hmac
import json
import threading
from datetime import UTC, datetime, timedelta

import pytest
from tests.at_once import at_once

from luthier import ids
from luthier.accounts import access_tokens
from luthier.accounts.signing import SigningKey
from luthier.accounts.types import Role
from luthier.errors import Unauthenticated

from .conftest import World

PASSWORD = "correct horse battery"
WRONG = "wrong horse battery"


class Moment:
    """A clock that stands until it is moved."""

    def __init__(self):
        self.now = datetime(2026, 11, 21, 12, tzinfo=UTC)

    def __call__(self):
        return self.now

    def pass_by(self, **time):
        self.now += timedelta(**time)


class Town(World):
    """A world with people in it."""

    def __init__(self, data, **settings):
        self.clock = Moment()
        super().__init__(data, now=self.clock, **settings)

    def login(self, email, password=PASSWORD, **more):
        return self.client.post("/auth/login", json={"email": email, "password": password, **more})

    def newcomer(self, email="new@example.org"):
        """Somebody with an account and nothing else: their tokens."""
        self.platform.accounts.users.add(email, PASSWORD)
        return self.login(email).json()

    def invited(self, role, email=None):
        """Somebody in the admin's team: their tokens."""
        email = email or f"{role}@example.org"
        made = self.ask("POST", "/api/invitations", json={"email": email, "role": role}).json()
        answer = self.client.post("/auth/signup", json={"email": email, "password": PASSWORD, "invitation": made["token"]})
        return answer.json()

    def as_(self, tokens, method="GET", path="/api/me", **more):
        token = tokens if isinstance(tokens, str) else tokens["access_token"]
        headers = {"authorization": f"Bearer {token}", **more.pop("headers", {})}
        return self.client.request(method, path, headers=headers, **more)

    def key_of(self, tokens, **wish):
        return self.as_(tokens, "POST", "/api/keys", json={"name": "k", **wish}).json()

    def claims(self, tokens):
        valid = self.platform.accounts.signing.valid()
        return access_tokens.read(tokens["access_token"], valid, self.clock())

    def forged(self, tokens, header=None, **changes):
        """A token with the right signature over what a test wants it to say."""
        key = self.platform.accounts.signing.current()
        said = {**self.claims(tokens).model_dump(exclude_none=True), **changes}
        said = {name: value for name, value in said.items() if value is not ...}
        return handmade({"alg": "HS256", "typ": "JWT", "kid": key.id, **(header or {})}, said, key.secret)


def handmade(header, said, secret):
    text = said if isinstance(said, str) else json.dumps(said)
    body = f"{coded(json.dumps(header).encode())}.{coded(text.encode())}"
    return f"{body}.{coded(hmac.new(secret.encode(), body.encode(), hashlib.sha256).digest())}"


def coded(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@pytest.fixture
def town(tmp_path):
    town = Town(tmp_path / "data")
    yield town
    town.platform.close()


def is_401(answer):
    assert answer.status_code == 401, answer.text
    assert answer.json()["error"]["code"] in {"unauthenticated", "login_refused"}
    assert answer.headers["www-authenticate"] == 'Bearer realm="luthier"'
    return True


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer ", "Bearer  x y", "Basic YTpi", "bearer\tx", "Token x", ""])
def test_a01_no_header_or_one_of_another_form(town, header):
    assert is_401(town.client.get("/api/me", headers={} if header is None else {"authorization": header}))


@pytest.mark.parametrize("alg", ["none", "None", "nOnE", "HS512", "hs256", ""])
def test_a02_another_algorithm_or_no_signature(town, alg):
    tokens = town.newcomer()
    assert is_401(town.as_(town.forged(tokens, {"alg": alg})))
    head, body, _ = town.forged(tokens, {"alg": alg}).split(".")
    assert is_401(town.as_(f"{head}.{body}."))
    assert is_401(town.as_(".".join([*tokens["access_token"].split(".")[:2], ""])))


def test_a03_a_public_key_is_no_secret(town):
    tokens = town.newcomer()
    said = town.claims(tokens).model_dump(exclude_none=True)
    public = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----\n"
    kid = town.platform.accounts.signing.current().id
    for alg in ("RS256", "ES256", "HS256"):
        assert is_401(town.as_(handmade({"alg": alg, "typ": "JWT", "kid": kid}, said, public)))


@pytest.mark.parametrize(
    "header",
    [
        {"kid": "../../dev/null"},
        {"kid": "x' UNION SELECT 'secret' --"},
        {"kid": "https://evil.example/key"},
        {"kid": None},
        {"kid": ["a"]},
        {"jku": "https://evil.example/jwks"},
        {"x5u": "https://evil.example/x"},
        {"jwk": {"kty": "oct", "k": "AAAA"}},
        {"typ": "at+jwt"},
    ],
    ids=str,
)
def test_a04_what_the_header_asks_for_is_not_done(town, header):
    assert is_401(town.as_(town.forged(town.newcomer(), header)))


def test_a05_an_unknown_critical_extension(town):
    tokens = town.newcomer()
    assert is_401(town.as_(town.forged(tokens, {"crit": ["exp2"], "exp2": 1})))
    assert is_401(town.as_(town.forged(tokens, {"crit": []})))


@pytest.mark.parametrize(
    "times",
    [
        {"exp": -31},
        {"nbf": 31},
        {"iat": 31},
        {"exp": "soon"},
        {"exp": ...},
        {"iat": ...},
        {"exp": None},
        {"exp": True},
        {"exp": 1.5},
        {"exp": 2**60},
    ],
    ids=str,
)
def test_a06_times_that_are_over_not_yet_or_none(town, times):
    at = int(town.clock().timestamp())
    small = {name: at + value if type(value) is int and abs(value) < 100 else value for name, value in times.items()}
    assert is_401(town.as_(town.forged(town.newcomer(), **small)))


def test_a06_an_infinite_end(town):
    tokens = town.newcomer()
    key = town.platform.accounts.signing.current()
    said = json.dumps(town.claims(tokens).model_dump(exclude_none=True))
    endless = said.replace(f'"exp": {town.claims(tokens).exp}', '"exp": 1e400')
    assert endless != said
    assert is_401(town.as_(handmade({"alg": "HS256", "typ": "JWT", "kid": key.id}, endless, key.secret)))


def test_a06_a_token_ends_after_ten_minutes_and_half_a_minute_of_leeway(town):
    tokens = town.newcomer()
    assert tokens["expires_in"] == 600
    town.clock.pass_by(seconds=629)
    assert town.as_(tokens).status_code == 200
    town.clock.pass_by(seconds=1)
    assert is_401(town.as_(tokens))


@pytest.mark.parametrize(
    "claims",
    [{"iss": "other"}, {"aud": "luthier-mcp"}, {"aud": ["luthier-api"]}, {"aud": ...}, {"iss": ...}, {"admin": True}],
    ids=str,
)
def test_a07_another_issuer_or_audience(town, claims):
    assert is_401(town.as_(town.forged(town.newcomer(), **claims)))


def test_a07_tokens_and_keys_open_their_own_door_only(town):
    tokens = town.newcomer()
    assert is_401(town.as_(tokens["refresh_token"]))
    for audience in ("mcp", "webhook"):
        assert is_401(town.as_(town.key_of(tokens, audience=audience)["secret"]))
    assert is_401(town.client.post("/auth/refresh", json={"refresh_token": tokens["access_token"][:200]}))


def test_a08_a_signature_that_is_another_or_written_otherwise(town):
    tokens = town.newcomer()
    good = tokens["access_token"]
    body, signature = good.rsplit(".", 1)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    flipped = [signature[:-1] + alphabet[alphabet.index(signature[-1]) ^ bit] for bit in (1, 2, 4, 8, 16, 32)]
    for wrong in [*(f"{body}.{other}" for other in flipped), f"{good}=", f"{good}.", f"{good}A", good.replace(".", "..", 1)]:
        assert is_401(town.as_(wrong))
    foreign = SigningKey(town.platform.accounts.signing.current().id, "another server's secret of enough bytes")
    assert is_401(town.as_(access_tokens.signed(town.claims(tokens), foreign)))
    assert town.as_(good).status_code == 200


def test_a08_a_newline_behind_a_token(town):
    """No header can carry one; where one arrives all the same, it is refused."""
    tokens = town.newcomer()
    valid = town.platform.accounts.signing.valid()
    for tail in ("\n", "=", " "):
        with pytest.raises(Unauthenticated, match="needs an API key"):
            access_tokens.read(tokens["access_token"] + tail, valid, town.clock())


def test_a09_a_huge_token_is_not_parsed(town):
    with at_once():
        assert is_401(town.as_("a." * 50_000))
        assert is_401(town.client.get("/api/me", headers={"x-api-key": "lk_" + "a" * 100_000}))


def test_a10_a_logout_holds_on_the_next_request(town):
    tokens, other = town.newcomer(), town.login("new@example.org").json()
    assert town.as_(tokens, "POST", "/auth/logout").status_code == 204
    assert is_401(town.as_(tokens))
    assert is_401(town.client.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]}))
    assert town.as_(other).status_code == 200


def test_a10_a_new_password_ends_every_login(town):
    tokens, other = town.newcomer(), town.login("new@example.org").json()
    asked = {"current": PASSWORD, "new": "another good sentence"}
    assert is_401(town.as_(tokens, "POST", "/auth/password", json={**asked, "current": WRONG}))
    assert town.as_(tokens, "POST", "/auth/password", json=asked).status_code == 204
    assert is_401(town.as_(tokens))
    assert is_401(town.as_(other))
    assert is_401(town.client.post("/auth/refresh", json={"refresh_token": other["refresh_token"]}))
    assert is_401(town.login("new@example.org"))
    assert town.login("new@example.org", "another good sentence").status_code == 200


def test_a10_a_smaller_role_holds_on_the_next_request(town):
    tokens = town.invited("admin")
    assert town.as_(tokens, path="/api/invitations").status_code == 200
    town.ask("PATCH", f"/api/users/{tokens['user_id']}", json={"role": "viewer"})
    assert town.as_(tokens, path="/api/invitations").status_code == 403
    assert town.as_(tokens).json()["role"] == "viewer"


def test_a10_somebody_removed_or_disabled_or_of_a_suspended_team_is_out(town):
    users, teams = town.platform.accounts.users, town.platform.accounts.teams
    tokens = town.invited("member")
    key = town.key_of(tokens)["secret"]
    users.disable("member@example.org")
    assert is_401(town.as_(tokens))
    assert is_401(town.as_(key))
    assert is_401(town.login("member@example.org"))
    users.enable("member@example.org")
    again = town.login("member@example.org").json()
    assert town.as_(key).status_code == 200
    teams.suspend(town.actor.tenant_id)
    assert is_401(town.as_(again))
    assert is_401(town.as_(key))
    teams.suspend(town.actor.tenant_id, on=False)
    assert town.as_(again).status_code == 200
    assert town.ask("DELETE", f"/api/users/{tokens['user_id']}").status_code == 204
    assert is_401(town.as_(again))
    assert is_401(town.as_(key))


def test_a10_a_second_invitation_brings_no_old_key_back(town):
    tokens = town.invited("member")
    key = town.key_of(tokens)["secret"]
    town.ask("DELETE", f"/api/users/{tokens['user_id']}")
    made = town.ask("POST", "/api/invitations", json={"email": "member@example.org", "role": "member"}).json()
    home = town.login("member@example.org").json()
    assert town.as_(home, "POST", "/api/invitations/accept", json={"token": made["token"]}).status_code == 200
    assert is_401(town.as_(key))


def test_a11_keys_that_are_not_or_no_longer_valid(town):
    tokens = town.newcomer()
    made = town.key_of(tokens, expires_in_days=1)
    secret = made["secret"]
    assert secret.startswith("lk_")
    assert made["key"]["prefix"] == secret[:12]
    head, tail = secret[:30], secret[30:]
    texts = set()
    for wrong in (secret[:-1], secret.swapcase(), secret + "x", head + tail[::-1], "lk_" + "a" * 70, "lk_"):
        answer = town.as_(wrong)
        assert is_401(answer)
        texts.add(answer.json()["error"]["message"])
    assert len(texts) == 1
    assert town.as_(secret).status_code == 200
    assert town.client.get("/api/me", headers={"x-api-key": secret}).status_code == 200
    town.clock.pass_by(days=1)
    assert is_401(town.as_(secret))
    lasting = town.key_of(town.login("new@example.org").json())
    assert town.as_(lasting["secret"], "DELETE", f"/api/keys/{lasting['key']['id']}").status_code == 204
    assert is_401(town.as_(lasting["secret"]))


def test_a12_a_key_in_the_address_is_no_key(town):
    for name in ("api_key", "key", "access_token", "token", "X-API-Key"):
        answer = town.client.get(f"/api/me?{name}={town.key}")
        assert is_401(answer)
        assert town.key not in answer.text
    town.platform.access_log.close()
    kept = [path.read_bytes() for path in town.platform.settings.data.rglob("*") if path.is_file()]
    assert not any(town.key.encode() in data for data in kept)


def test_a13_a_key_does_what_its_scopes_say(town):
    tokens = town.newcomer()
    reads, writes = (town.key_of(tokens, scopes=[scope])["secret"] for scope in ("read", "write"))
    assert town.as_(reads, path="/api/jobs").status_code == 200
    refused = town.as_(reads, "POST", "/api/keys", json={"name": "x"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    assert town.as_(reads, "POST", "/api/jobs", content=b"not even json").status_code == 403
    assert town.as_(writes, path="/api/jobs").status_code == 403
    assert town.as_(writes, "POST", "/api/jobs", content=b"{").status_code == 415


def test_a13_a_small_key_makes_no_larger_one(town):
    tokens = town.newcomer()
    for wish in ({"scopes": ["read", "write"]}, {"expires_in_days": 1}, {"spend_cap_usd": "1.00"}):
        made = town.key_of(tokens, **wish)
        assert town.as_(made["secret"], "POST", "/api/keys", json={"name": "x"}).status_code == 403
        whole = town.key_of(tokens)
        assert town.as_(made["secret"], "POST", f"/api/keys/{whole['key']['id']}/rotate", json={}).status_code == 403
        own = town.as_(made["secret"], "POST", f"/api/keys/{made['key']['id']}/rotate", json={})
        kept = ("scopes", "audience", "spend_cap_usd", "expires_at")
        assert {name: own.json()["key"][name] for name in kept} == {name: made["key"][name] for name in kept}


def test_a14_roles(town):
    viewer, member = town.invited("viewer"), town.invited("member")
    assert town.as_(viewer, "POST", "/api/jobs", json=town.spec()).status_code == 403
    assert town.as_(viewer, path="/api/jobs").status_code == 200
    assert town.as_(viewer, "POST", "/api/jobs/estimate", json=town.spec()).status_code != 403
    for method, path in (("GET", "/api/invitations"), ("DELETE", f"/api/users/{viewer['user_id']}")):
        assert town.as_(member, method, path).status_code == 403
    stranger = town.newcomer()
    assert town.as_(stranger, "PATCH", f"/api/users/{viewer['user_id']}", json={"role": "admin"}).status_code == 404
    assert town.as_(stranger, headers={"x-luthier-team": town.actor.tenant_id}).status_code == 404
    assert town.as_(member, "DELETE", f"/api/keys/{town.actor.key_id}").status_code == 404


def test_a18_headers_that_claim_to_know_better(town):
    tokens = town.newcomer()
    spoofed = {
        "x-forwarded-for": "10.0.0.1",
        "x-user": town.actor.user_id,
        "x-original-url": "/api/invitations",
        "x-tenant-id": town.actor.tenant_id,
    }
    assert town.as_(tokens, headers=spoofed).json() == town.as_(tokens).json()
    twice = [("host", "a.example"), ("host", "b.example"), ("x-api-key", town.key)]
    assert town.client.get("/api/me", headers=twice).status_code == 400


def test_a18_another_address_in_a_header_does_not_lift_the_limit(town):
    for number in range(10):
        headers = {"x-forwarded-for": f"10.0.0.{number}"}
        town.client.post("/auth/login", json={"email": f"u{number}@example.org", "password": WRONG}, headers=headers)
    assert town.login("other@example.org").status_code == 429


@pytest.mark.parametrize("email", ["new@example.org", "nobody@example.org"])
def test_a19_ten_wrong_passwords_close_the_account_for_a_while(town, email):
    town.newcomer()
    answers = [town.login(email, WRONG) for _ in range(10)]
    assert {answer.json()["error"]["message"] for answer in answers} == {
        "E-mail and password do not belong together, or this account may not log in."
    }
    assert {answer.status_code for answer in answers} == {401}
    last = town.login(email)
    assert last.status_code == 429
    assert 1 <= int(last.headers["retry-after"]) <= 60


def test_a19_many_at_once_are_not_more(town):
    town.newcomer()
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(town.login("new@example.org", WRONG).status_code)) for _ in range(30)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [401] * 10 + [429] * 20


def test_a19_somebody_unknown_takes_as_long():
    """Both run one hash, with the same memory, passes and threads: a clock could tell no more, and on a busy machine less."""
    from argon2 import extract_parameters
    from pwdlib.hashers.argon2 import Argon2Hasher

    from luthier.accounts.passwords import Passwords

    compared = []

    class Watched(Argon2Hasher):
        def verify(self, password, hash):  # noqa: A002  # the library's name
            compared.append(extract_parameters(hash))
            return super().verify(password, hash)

    passwords = Passwords(Watched())
    kept = passwords.hashed(PASSWORD)
    assert not passwords.matches(WRONG, kept)
    assert not passwords.matches(WRONG, None)
    known, nobody = compared
    assert known == nobody


@pytest.mark.parametrize(
    "password", ["a", "a" * 9, "a" * 1025, "nul \0 in the middle of it", "bell \a in the middle of it"], ids=len
)
def test_a20_passwords_that_are_none(town, password):
    made = town.ask("POST", "/api/invitations", json={"email": "n@example.org"}).json()
    asked = {"email": "n@example.org", "password": password, "invitation": made["token"]}
    answer = town.client.post("/auth/signup", json=asked)
    assert answer.status_code == 422
    assert len(password) == 1 or password not in answer.text


def test_a20_a_megabyte_is_refused_and_a_long_sentence_counts_to_its_end(town):
    assert town.login("new@example.org", "a" * 1_000_000).status_code == 422
    long = "ä" * 1000
    town.platform.accounts.users.add("new@example.org", long + "x")
    assert is_401(town.login("new@example.org", long + "y"))
    assert town.login("new@example.org", long + "x").status_code == 200


def test_a21_one_account_a_person(town):
    town.newcomer("ada@example.org")
    assert town.login("Ada@EXAMPLE.org").status_code == 200
    assert is_401(town.login("ada+b@example.org"))  # somebody else, as far as anybody but their provider knows
    for email in ("аda@example.org", "ada@exаmple.org", "ada@example.org\r\nbcc: x@y", "ada", "a b@example.org", "a@", "a@b..c"):
        answer = town.ask("POST", "/api/invitations", json={"email": email})
        assert answer.status_code == 422, email
    made = town.ask("POST", "/api/invitations", json={"email": "ADA@example.org"}).json()
    assert made["invitation"]["email"] == "ada@example.org"


def test_a22_two_signups_at_once_make_one_account(tmp_path):
    town = Town(tmp_path / "data", open_signup=True)
    asked, answers = {"email": "new@example.org", "password": PASSWORD}, []
    threads = [threading.Thread(target=lambda: answers.append(town.client.post("/auth/signup", json=asked))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
    refused = next(answer for answer in answers if answer.status_code == 409)
    assert refused.json()["error"]["code"] == "account_exists"
    assert [user.email for user in town.platform.accounts.users.list()].count("new@example.org") == 1
    town.platform.close()


def test_a22_a_closed_server_makes_no_account_without_an_invitation(town):
    answer = town.client.post("/auth/signup", json={"email": "new@example.org", "password": PASSWORD})
    assert answer.status_code == 403


def test_a23_a_refresh_token_that_comes_twice_ends_the_login(town):
    first = town.newcomer()
    second = town.client.post("/auth/refresh", json={"refresh_token": first["refresh_token"]}).json()
    assert town.as_(second).status_code == 200
    assert is_401(town.client.post("/auth/refresh", json={"refresh_token": first["refresh_token"]}))
    assert is_401(town.as_(second))
    assert is_401(town.as_(first))
    ended = town.client.post("/auth/refresh", json={"refresh_token": second["refresh_token"]})
    assert is_401(ended)
    assert ended.json()["error"]["hint"].startswith("Log in again")


def test_a23_an_unknown_refresh_token_ends_nothing(town):
    tokens = town.newcomer()
    assert is_401(town.client.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"][:-1] + "!"}))
    assert town.client.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]}).status_code == 200


def test_a23_a_login_ends_after_thirty_days_however_often_it_was_refreshed(town):
    tokens = town.newcomer()
    for _ in range(3):
        town.clock.pass_by(days=9)
        tokens = town.client.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]}).json()
    town.clock.pass_by(days=4)
    assert is_401(town.client.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]}))


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
def test_a25_no_other_origin_is_let_in(town, origin):
    asks = {"origin": origin, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    for answer in (
        town.client.options("/api/jobs", headers=asks),
        town.ask("GET", "/api/jobs", headers={"origin": origin}),
        town.client.post("/auth/login", json={}, headers={"origin": origin}),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_a26_a_closed_server_describes_itself_to_nobody(tmp_path):
    town = Town(tmp_path / "data", open_docs=False)
    for path in ("/", "/docs", "/openapi.json", "/docs.js", "/metrics", "/debug"):
        assert is_401(town.client.get(path))
    assert town.ask("GET", "/openapi.json").status_code == 200
    assert town.client.get("/health").status_code == 200
    town.platform.close()


def test_a27_an_invitation_is_for_one_person_once(town):
    made = town.ask("POST", "/api/invitations", json={"email": "new@example.org", "role": "viewer"}).json()
    token = made["token"]
    other = town.newcomer("other@example.org")
    accept = {"method": "POST", "path": "/api/invitations/accept"}
    assert town.as_(other, **accept, json={"token": token}).status_code == 404
    tokens = town.newcomer()
    assert town.as_(tokens, **accept, json={"token": token}).json()["role"] == "viewer"
    assert town.as_(tokens, **accept, json={"token": token}).status_code == 410
    asked = {"email": "new@example.org", "password": PASSWORD, "invitation": token}
    assert town.client.post("/auth/signup", json=asked).status_code == 409
    assert town.ask("GET", "/api/invitations").json()["data"] == []


def test_a27_an_expired_or_withdrawn_invitation(town):
    tokens = town.newcomer()
    accept = {"method": "POST", "path": "/api/invitations/accept"}
    made = town.ask("POST", "/api/invitations", json={"email": "new@example.org"}).json()
    assert town.as_(tokens, "DELETE", f"/api/invitations/{made['invitation']['id']}").status_code == 404
    assert town.ask("DELETE", f"/api/invitations/{made['invitation']['id']}").status_code == 204
    assert town.as_(tokens, **accept, json={"token": made["token"]}).status_code == 404
    made = town.ask("POST", "/api/invitations", json={"email": "new@example.org"}).json()
    town.clock.pass_by(days=7)
    late = town.login("new@example.org").json()
    assert town.as_(late, **accept, json={"token": made["token"]}).status_code == 410


def test_a27_five_guesses_end_an_invitation(town):
    made = town.ask("POST", "/api/invitations", json={"email": "new@example.org"}).json()
    tokens = town.newcomer()
    accept = {"method": "POST", "path": "/api/invitations/accept"}
    for number in range(5):
        guess = f"{made['invitation']['id']}_guess{number}"
        assert town.as_(tokens, **accept, json={"token": guess}).status_code == 404
    ended = town.as_(tokens, **accept, json={"token": made["token"]})
    assert (ended.status_code, "guessed at" in ended.json()["error"]["message"]) == (410, True)
    assert town.ask("GET", "/api/invitations").json()["data"] == []
    for token in ("", "inv_x", ids.new("inv") + "_x", "\u0660" * 30):
        unknown = town.as_(tokens, **accept, json={"token": token})
        assert (unknown.status_code, "ask an admin" in unknown.json()["error"]["hint"]) == (404, True)


def test_a27_who_was_removed_does_not_come_back_by_an_earlier_invitation(town):
    first, second = (town.ask("POST", "/api/invitations", json={"email": "new@example.org"}).json() for _ in "12")
    elsewhere = town.newcomer("else@example.org")
    theirs = town.as_(elsewhere, "POST", "/api/invitations", json={"email": "new@example.org"}).json()
    tokens = town.newcomer()
    accept = {"method": "POST", "path": "/api/invitations/accept"}
    assert town.as_(tokens, **accept, json={"token": first["token"]}).status_code == 200
    assert town.ask("DELETE", f"/api/users/{tokens['user_id']}").status_code == 204
    assert town.as_(tokens, **accept, json={"token": second["token"]}).status_code == 404
    assert town.as_(tokens, **accept, json={"token": theirs["token"]}).status_code == 200  # another team's stays


def test_a28_a_team_keeps_an_admin(town):
    me = town.actor.user_id
    for answer in (town.ask("PATCH", f"/api/users/{me}", json={"role": "member"}), town.ask("DELETE", f"/api/users/{me}")):
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "last_admin")
    second = town.invited("admin")
    assert town.ask("PATCH", f"/api/users/{me}", json={"role": "member"}).json()["role"] == "member"
    assert town.as_(second, "PATCH", f"/api/users/{second['user_id']}", json={"role": "viewer"}).status_code == 409


def test_a28_an_admin_who_was_disabled_may_be_taken_out(town):
    second = town.invited("admin")
    town.platform.accounts.users.disable("admin@example.org")
    path = f"/api/users/{second['user_id']}"
    assert town.ask("DELETE", f"/api/users/{town.actor.user_id}").status_code == 409
    assert town.ask("PATCH", path, json={"role": "viewer"}).json()["role"] == "viewer"
    assert town.ask("PATCH", path, json={"role": "admin"}).json()["role"] == "admin"
    assert town.ask("DELETE", path).status_code == 204


def test_a28_two_admins_who_leave_at_once_leave_one(town):
    second = town.invited("admin")
    answers = []

    def leave(tokens, user_id):
        answers.append(town.as_(tokens, "DELETE", f"/api/users/{user_id}").status_code)

    threads = [
        threading.Thread(target=leave, args=(town.key, town.actor.user_id)),
        threading.Thread(target=leave, args=(second, second["user_id"])),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [204, 409]
    with_role = town.platform.accounts.teams.members(town.actor)
    assert [member.role for member in with_role] == [Role.ADMIN]


def test_every_row_of_the_group_has_a_case():
    rows = {f"a{number:02d}" for number in (*range(1, 15), *range(18, 24), *range(25, 29))}
    assert {name.split("_")[1] for name in globals() if name.startswith("test_a")} == rows
