"""`tune login` and what follows from it; `tune keys` and `tune team`. Row L05 stands here too."""

import json
import threading
import time

import pytest

from luthier import Client

PASSWORD = b"correct horse battery\n"


@pytest.fixture
def ada(world, terminal, monkeypatch):
    """Somebody with an account; no key is set."""
    world.platform.accounts.users.add("ada@example.org", PASSWORD.decode().strip())
    monkeypatch.delenv("LUTHIER_API_KEY")
    return "ada@example.org"


def log_in(terminal, email="ada@example.org", *flags):
    return terminal("tune", "login", "--email", email, *flags, typed=PASSWORD)


def file_of(terminal):
    return terminal.folder / "login.json"


def test_a_login_is_used_by_later_commands_until_the_logout(terminal, ada):
    done = log_in(terminal)
    assert (done.code, done.err.count("Logged in as ada@example.org")) == (0, 1)
    assert file_of(terminal).stat().st_mode & 0o777 == 0o600
    assert terminal("tune", "whoami", "--json").json["email"] == ada
    assert terminal("tune", "logout").code == 0
    assert json.loads(file_of(terminal).read_text()) == {}
    after = terminal("tune", "whoami")
    assert after.code == 3


def test_a_wrong_password_is_one_line(terminal, ada):
    done = terminal("tune", "login", "--email", ada, typed=b"wrong horse battery\n")
    assert (done.code, done.out) == (3, "")
    assert "do not belong together" in done.err
    assert not file_of(terminal).exists()


def test_tokens_are_exchanged_when_they_end(terminal, ada):
    log_in(terminal)
    path = file_of(terminal)
    ((root, kept),) = json.loads(path.read_text()).items()
    path.write_text(json.dumps({root: {**kept, "access_token": "x", "ends_at": time.time()}}))
    assert terminal("tune", "whoami", "--json").json["email"] == ada
    ((_, renewed),) = json.loads(path.read_text()).items()
    assert renewed["refresh_token"] != kept["refresh_token"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_many_who_exchange_tokens_at_once_do_not_end_the_login(terminal, ada):
    """A refresh token that comes twice ends its login: whoever shares the file must take turns."""
    log_in(terminal)
    path = file_of(terminal)
    ((root, kept),) = json.loads(path.read_text()).items()
    path.write_text(json.dumps({root: {**kept, "access_token": "x", "ends_at": 0}}))
    found = []

    def ask():
        with Client() as client:
            found.append(client.me().email)

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [ada] * 5


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [
        (None, 0o640, "chmod 600"),
        (None, 0o604, "chmod 600"),
        ("", 0o600, "tune login"),
        ("{", 0o600, "tune login"),
        ("[]", 0o600, "tune login"),
        ("{ROOT: []}", 0o600, "tune login"),
        ('{ROOT: {"access_token": "x"}}', 0o600, "tune login"),
        ("EXPIRED", 0o600, "tune login"),
    ],
)
def test_l05_a_login_file_that_cannot_be_used_says_how_to_log_in(terminal, ada, text, mode, says):
    log_in(terminal)
    path = file_of(terminal)
    ((root, kept),) = json.loads(path.read_text()).items()
    if text == "EXPIRED":
        text = json.dumps({root: {**kept, "refresh_token": "gone", "ends_at": 0}})
    if text is not None:
        path.write_text(text.replace("ROOT", json.dumps(root)))
    path.chmod(mode)
    done = terminal("tune", "list")
    assert (done.code, done.out) == (3, "")
    assert says in done.err
    assert "Traceback" not in done.err


def test_a_key_that_is_set_wins_and_is_said(terminal, world, ada, monkeypatch):
    monkeypatch.setenv("LUTHIER_API_KEY", world.key)
    assert "LUTHIER_API_KEY is set" in log_in(terminal).err
    assert terminal("tune", "whoami", "--json").json["email"] == "admin@localhost"
    assert terminal("tune", "logout").code == 0


def test_a_new_password_ends_the_login(terminal, ada):
    log_in(terminal)
    done = terminal("tune", "password", typed=PASSWORD + b"another good sentence\n")
    assert done.code == 0, done.err
    assert terminal("tune", "whoami").code == 3
    assert terminal("tune", "login", "--email", ada, typed=b"another good sentence\n").code == 0


def test_a_team_from_the_invitation_to_the_end(terminal, world, monkeypatch):
    token = terminal("tune", "team", "invite", "bob@example.org", "--role", "viewer").out.strip()
    assert token.startswith("inv_")
    assert "bob@example.org" in terminal("tune", "team", "invitations").out
    monkeypatch.delenv("LUTHIER_API_KEY")
    done = terminal("tune", "signup", "--email", "bob@example.org", "--invitation", token, typed=PASSWORD)
    assert done.code == 0, done.err
    teams = terminal("tune", "team", "list", "--json").json["data"]
    assert [team["role"] for team in teams] == ["viewer", "admin"]
    assert terminal("tune", "team", "invite", "x@example.org").code == 3
    monkeypatch.setenv("LUTHIER_API_KEY", world.key)
    bob = next(each for each in terminal("tune", "team", "members", "--json").json["data"] if each["email"] == "bob@example.org")
    assert "member" in terminal("tune", "team", "role", bob["user_id"], "member").out
    assert terminal("tune", "team", "remove", bob["user_id"], "--yes").code == 0
    assert terminal("tune", "team", "remove", bob["user_id"], "--yes").code == 4
    assert terminal("tune", "team", "remove", world.actor.user_id).code == 1
    assert terminal("tune", "team", "remove", "bob").code == 2
    made = terminal("tune", "team", "invite", "x@example.org", "--json").json
    assert terminal("tune", "team", "withdraw", made["invitation"]["id"]).code == 0
    assert terminal("tune", "team", "join", made["token"]).code == 3  # a key joins nothing


def test_somebody_with_an_account_joins_and_acts_for_the_team(terminal, world, ada, monkeypatch):
    token = world.ask("POST", "/api/invitations", json={"email": ada}).json()["token"]
    log_in(terminal)
    joined = terminal("tune", "team", "join", token, "--json").json
    assert joined["id"] == world.actor.tenant_id
    assert terminal("tune", "whoami", "--json").json["tenant_id"] != joined["id"]
    log_in(terminal, ada, "--team", joined["id"])
    assert terminal("tune", "whoami", "--json").json["tenant_id"] == joined["id"]
    made = terminal("tune", "team", "create", "Research")
    assert log_in(terminal, ada, "--team", made.out.strip()).code == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("keys", "revoke", "key_", "--yes"), "tune keys list"),
        (("team", "withdraw", "inv_"), "tune team invitations"),
        (("team", "role", "user_", "member"), "tune team members"),
        (("hooks", "remove", "hook_", "--yes"), "tune hooks list"),
        (("webhooks", "remove", "wh_", "--yes"), "tune webhooks list"),
    ],
)
def test_what_is_not_there_is_looked_up_with_a_command(world, terminal, words, says):
    done = terminal("tune", *(f"{word}{'0' * 26}" if word.endswith("_") else word for word in words))
    assert (done.code, f"List what is there with `{says}`." in done.err) == (4, True), done.err


def test_a_key_is_made_shown_rotated_and_revoked(terminal, world, monkeypatch):
    made = terminal("tune", "keys", "create", "nightly", "--scope", "read", "--expires-in-days", "7")
    secret = made.out.strip()
    assert "only time" in made.err
    listed = terminal("tune", "keys", "list")
    assert secret not in listed.out
    assert "nightly" in listed.out
    key_id = terminal("tune", "keys", "list", "--json").json["data"][0]["id"]
    new = terminal("tune", "keys", "rotate", key_id, "--keep-old-hours", "0").out.strip()
    monkeypatch.setenv("LUTHIER_API_KEY", new)
    assert terminal("tune", "list").code == 0
    assert terminal("tune", "keys", "create", "more").code == 3
    monkeypatch.setenv("LUTHIER_API_KEY", secret)
    assert terminal("tune", "list").code == 3
    monkeypatch.setenv("LUTHIER_API_KEY", world.key)
    assert terminal("tune", "keys", "revoke", key_id, "--yes", "--json").json["revoked"]
    assert terminal("tune", "keys", "revoke", "nightly").code == 2
    assert terminal("tune", "keys", "create", "x", "--scope", "all").code == 1
