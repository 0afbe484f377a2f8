"""Login with an OpenID provider: a real one on loopback, over TLS, with discovery, code, PKCE, nonce and RS256."""

import base64
import hashlib
import secrets
import ssl
import threading
import time
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import trustme
import uvicorn
from fastapi import FastAPI, Form, HTTPException
from fastapi.responses import RedirectResponse
from joserfc import jwt
from joserfc.jwk import RSAKey
from pydantic import SecretStr

from luthier.errors import SetupError

from .test_auth_rows import PASSWORD, Town, is_401

CLIENT = {"oidc_client_id": "luthier", "oidc_client_secret": SecretStr("a secret of the provider")}


class IdProvider:
    """`person` is who logs in there; `changes` go into the next id token, `key` signs it."""

    def __init__(self, folder):
        self.key = self.published = RSAKey.generate_key(2048, {"kid": "k1", "use": "sig", "alg": "RS256"})
        self.person = {"sub": "ada", "email": "ada@example.org", "email_verified": True}
        self.changes = {}
        self.codes = {}
        ca = trustme.CA()
        self.ca = folder / "ca.pem"
        ca.cert_pem.write_to_path(self.ca)
        ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
        pem = str(folder / "server.pem")
        self._server = uvicorn.Server(
            uvicorn.Config(self._app(), host="127.0.0.1", port=0, ssl_certfile=pem, ssl_keyfile=pem, log_level="error")
        )
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started:
            self._thread.join(0.01)
        self.issuer = f"https://localhost:{self._server.servers[0].sockets[0].getsockname()[1]}"

    def close(self):
        self._server.should_exit = True
        self._thread.join()

    def visit(self, url):
        """Log in there, as a browser does: where it sends one back to."""
        context = ssl.create_default_context(cafile=str(self.ca))
        return httpx.get(url, verify=context, trust_env=False).headers["location"]

    def _app(self):
        app = FastAPI()

        @app.get("/.well-known/openid-configuration")
        def discovery():
            paths = {"authorization_endpoint": "/auth", "token_endpoint": "/token", "jwks_uri": "/jwks"}
            facts = {name: self.issuer + path for name, path in paths.items()}
            return {"issuer": self.issuer, "id_token_signing_alg_values_supported": ["RS256"], **facts}

        @app.get("/jwks")
        def jwks():
            return {"keys": [self.published.as_dict(private=False)]}

        @app.get("/auth")
        def auth(client_id: str, redirect_uri: str, state: str, code_challenge: str, nonce: str):
            code = secrets.token_urlsafe(16)
            self.codes[code] = (client_id, redirect_uri, code_challenge, nonce)
            return RedirectResponse(f"{redirect_uri}?code={code}&state={state}&session_state=theirs")

        @app.post("/token")
        def token(code: str = Form(), code_verifier: str = Form(), redirect_uri: str = Form()):
            client_id, wanted, challenge, nonce = self.codes.pop(code)
            digest = base64.urlsafe_b64encode(hashlib.sha256(code_verifier.encode()).digest()).rstrip(b"=").decode()
            if (redirect_uri, digest) != (wanted, challenge):
                raise HTTPException(400, "pkce")
            at = int(time.time())
            said = {"iss": self.issuer, "aud": client_id, "iat": at, "exp": at + 300, "nonce": nonce, **self.person}
            id_token = jwt.encode({"alg": "RS256", "kid": "k1"}, {**said, **self.changes}, self.key)
            return {"access_token": "theirs", "id_token": id_token, "token_type": "Bearer"}

        return app


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    provider = IdProvider(tmp_path_factory.mktemp("provider"))
    yield provider
    provider.close()


@pytest.fixture
def provider(running, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(running.ca))
    running.key, running.changes = running.published, {}
    running.person = {"sub": "ada", "email": "ada@example.org", "email_verified": True}
    return running


@pytest.fixture
def town(tmp_path, provider):
    town = Town(tmp_path / "data", oidc_issuer=provider.issuer, **CLIENT)
    yield town
    town.platform.close()


def through(town, provider):
    """From our door to the provider and back: what the last step answers."""
    start = town.client.get("/auth/oidc/login")
    assert start.status_code == 302, start.text
    return town.client.get(provider.visit(start.headers["location"]))


def test_somebody_new_gets_an_account_and_a_login_like_any_other(town, provider):
    tokens = through(town, provider).json()
    assert town.as_(tokens).json()["email"] == "ada@example.org"
    again = through(town, provider).json()
    assert (again["user_id"], again["tenant_id"]) == (tokens["user_id"], tokens["tenant_id"])
    assert town.as_(tokens, "POST", "/auth/logout").status_code == 204
    assert is_401(town.as_(tokens))
    assert town.as_(again).status_code == 200


def test_the_way_there_asks_for_pkce_state_and_nonce(town):
    asked = parse_qs(urlsplit(town.client.get("/auth/oidc/login").headers["location"]).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert {"state", "nonce", "code_challenge"} <= set(asked)
    assert asked["response_type"] == ["code"]
    assert asked["redirect_uri"] == ["http://testserver/auth/oidc/callback"]


def test_the_subject_counts_and_not_the_address(town, provider):
    first = through(town, provider).json()
    provider.person = {"sub": "ada", "email": "other@example.org", "email_verified": False}
    assert through(town, provider).json()["user_id"] == first["user_id"]
    provider.person = {"sub": "eve", "email": "ada@example.org", "email_verified": False}
    assert through(town, provider).status_code == 403
    provider.person = {"sub": "eve", "email": "ada@example.org", "email_verified": "true"}
    assert through(town, provider).status_code == 403


def test_a_verified_address_finds_the_account_that_has_it(town, provider):
    tokens = town.newcomer("ada@example.org")
    assert through(town, provider).json()["user_id"] == tokens["user_id"]
    town.platform.accounts.users.disable("ada@example.org")
    assert through(town, provider).status_code == 403


@pytest.fixture
def open_town(tmp_path, provider):
    town = Town(tmp_path / "open", oidc_issuer=provider.issuer, open_signup=True, **CLIENT)
    yield town
    town.platform.close()


def squatted(town, invitation=None):
    """Somebody signs up with Ada's address, makes a key, and has a friend join: their tokens, key and friend's tokens."""
    asked = {"email": "ada@example.org", "password": PASSWORD, **({"invitation": invitation} if invitation else {})}
    tokens = town.client.post("/auth/signup", json=asked).json()
    home = next(team["id"] for team in town.as_(tokens, path="/api/teams").json()["data"] if team["name"] == "ada")
    tokens = town.login("ada@example.org", team=home).json()
    invited = town.as_(tokens, "POST", "/api/invitations", json={"email": "eve@example.org"}).json()
    eve = town.newcomer("eve@example.org")
    joined = town.as_(eve, "POST", "/api/invitations/accept", json={"token": invited["token"]})
    assert joined.status_code == 200, joined.text
    return tokens, town.key_of(tokens)["secret"], (eve, home)


def is_not_linked(answer):
    assert answer.status_code == 403
    assert "luthier users confirm EMAIL" in answer.json()["error"]["hint"]
    return True


def test_an_account_that_was_made_beforehand_is_not_shared_with_the_one_whose_address_it_has(open_town, provider):
    squatted(open_town)
    assert is_not_linked(through(open_town, provider))
    assert is_not_linked(through(open_town, provider))  # nothing was kept of the first


def test_an_invitation_from_ones_own_team_takes_nobodys_address(open_town, provider):
    """Whoever invites sees the token: with one account of their own they could come in anybody's name."""
    mallory = open_town.client.post("/auth/signup", json={"email": "m@example.org", "password": PASSWORD}).json()
    invited = open_town.as_(mallory, "POST", "/api/invitations", json={"email": "ada@example.org"}).json()
    squatted(open_town, invited["token"])
    assert is_not_linked(through(open_town, provider))


def test_who_was_invited_by_the_platforms_team_is_linked(town, provider):
    tokens = town.invited("member", "ada@example.org")
    assert through(town, provider).json()["user_id"] == tokens["user_id"]


def test_a_confirmed_account_is_linked_at_the_next_login_and_keeps_what_is_its_own(open_town, provider):
    tokens, key, _ = squatted(open_town)
    assert is_not_linked(through(open_town, provider))
    open_town.platform.accounts.users.confirm("ada@example.org")
    linked = through(open_town, provider).json()
    assert linked["user_id"] == tokens["user_id"]
    assert open_town.as_(tokens).status_code == 200
    assert open_town.as_(key).status_code == 200


def test_an_account_that_is_confirmed_afresh_has_nothing_left_of_whoever_made_it(open_town, provider):
    tokens, key, (eve, home) = squatted(open_town)
    open_town.platform.accounts.users.confirm("ada@example.org", afresh=True)
    ada = through(open_town, provider).json()
    assert ada["tenant_id"] != home
    assert open_town.as_(ada).json()["email"] == "ada@example.org"
    assert [user["email"] for user in open_town.as_(ada, path="/api/users").json()["data"]] == ["ada@example.org"]
    for taken in (tokens, key):
        assert is_401(open_town.as_(taken))
    assert is_401(open_town.login("ada@example.org"))
    headers = {"x-luthier-team": ada["tenant_id"]}
    assert open_town.as_(eve, headers=headers).status_code == 404


@pytest.mark.parametrize(
    "changes",
    [{"iss": "https://evil.example"}, {"aud": "another"}, {"exp": 1}, {"nonce": "another"}, {"iat": 9_999_999_999}, {"sub": 7}],
    ids=str,
)
def test_what_the_provider_did_not_say_to_us_is_refused(town, provider, changes):
    provider.changes = changes
    assert is_401(through(town, provider))


def test_a_token_of_another_key_is_refused(town, provider):
    provider.key = RSAKey.generate_key(2048, {"kid": "k1"})
    assert is_401(through(town, provider))


def test_a_callback_that_nobody_asked_for_is_refused(town, provider):
    assert is_401(town.client.get("/auth/oidc/callback"))
    assert is_401(town.client.get("/auth/oidc/callback?code=x&state=y"))
    back = provider.visit(town.client.get("/auth/oidc/login").headers["location"])
    town.client.cookies.clear()
    assert is_401(town.client.get(back))  # somebody else's browser


def test_a_callback_works_once(town, provider):
    back = provider.visit(town.client.get("/auth/oidc/login").headers["location"])
    assert town.client.get(back).status_code == 200
    assert is_401(town.client.get(back))


def test_a_certificate_that_nobody_signed_is_not_spoken_to(town, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    assert town.client.get("/auth/oidc/login").status_code == 503


def test_a_server_without_a_provider_says_so(tmp_path):
    town = Town(tmp_path / "data")
    for path in ("/auth/oidc/login", "/auth/oidc/callback?code=x&state=y"):
        assert town.client.get(path).status_code == 404
    town.platform.close()


@pytest.mark.parametrize(
    "settings",
    [
        {"oidc_issuer": "http://provider.example", **CLIENT},
        {"oidc_issuer": "https://p.example/?x=1", **CLIENT},
        {"oidc_issuer": "https://p.example"},
        {"oidc_issuer": "https://p.example", "oidc_client_id": "x"},
    ],
)
def test_a_provider_that_cannot_be_trusted_or_is_half_described_stops_the_start(tmp_path, settings):
    with pytest.raises(SetupError, match="LUTHIER_OIDC"):
        Town(tmp_path / "data", **settings)
