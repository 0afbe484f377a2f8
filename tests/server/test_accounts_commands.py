"""`luthier users`, `teams` and `keys`: on a data folder, whether a server runs on it or not."""

import contextvars
import json

import pytest
from typer.testing import CliRunner

from luthier.errors import AccountExists, Conflict, FieldInvalid, LastAdmin, NotFound, Unauthenticated
from luthier.server import main
from luthier.settings import Settings
from luthier.wiring import build

PASSWORD = "correct horse battery"


class Console:
    """`console("users", "list")`: what it printed on stdout, read as JSON where it is."""

    def __init__(self, data):
        self.data = data

    def __call__(self, *words, typed="", flags=("--json",)):
        run = CliRunner().invoke
        arguments = [*words, "--data", str(self.data), *flags]
        # A context of its own: the command notes who acts, as a process of its own would.
        done = contextvars.copy_context().run(run, main.app, arguments, input=typed)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout) if flags and done.stdout.strip() else done.stdout


@pytest.fixture
def console(tmp_path):
    return Console(tmp_path / "data")


@pytest.fixture
def accounts(console):
    console("users", "list")
    platform = build(Settings(data=console.data))
    yield platform.accounts
    platform.close()


def test_somebody_gets_an_account_with_a_team_and_logs_in(console, accounts):
    user = console("users", "add", "Ada@Example.org", typed=f"{PASSWORD}\n")
    assert user["email"] == "ada@example.org"
    assert accounts.logins.log_in("ada@example.org", PASSWORD).user_id == user["id"]
    assert [team["members"] for team in console("teams", "list")] == [1, 1]
    made = console("users", "password", "ada@example.org", "--generate")
    with pytest.raises(Unauthenticated):
        accounts.logins.log_in("ada@example.org", PASSWORD)
    assert accounts.logins.log_in("ada@example.org", made["password"])


def test_what_cannot_be_an_account_is_refused(console):
    console("users", "add", "ada@example.org", "--generate")
    for error, words in ((AccountExists, "ADA@example.org"), (FieldInvalid, "ada"), (FieldInvalid, "aда@example.org")):
        with pytest.raises(error):
            console("users", "add", words, "--generate")
    with pytest.raises(FieldInvalid, match="at least 10"):
        console("users", "add", "bob@example.org", typed="short\n")
    with pytest.raises(FieldInvalid, match="No password came on stdin") as refused:
        console("users", "add", "bob@example.org")
    assert "--generate" in refused.value.hint
    with pytest.raises(NotFound):
        console("users", "disable", "nobody@example.org")


def test_a_disabled_account_opens_nothing_until_it_is_enabled(console, accounts):
    console("users", "add", "ada@example.org", typed=f"{PASSWORD}\n")
    secret = console("keys", "create", "ada@example.org", "--name", "ci")["secret"]
    assert accounts.authenticate(secret)
    assert console("users", "disable", "ada@example.org")["disabled_at"]
    with pytest.raises(Unauthenticated):
        accounts.authenticate(secret)
    console("users", "enable", "ada@example.org")
    assert accounts.authenticate(secret)


def test_the_list_names_accounts_whose_address_nobody_confirmed_and_confirm_ends_that(console, accounts):
    console("users", "add", "ada@example.org", "--generate")
    squatter = accounts.teams.sign_up("bob@example.org", PASSWORD, None)
    assert [line.split()[1:] for line in console("users", "list", flags=()).splitlines()[-2:]] == [
        ["ada@example.org"],
        ["bob@example.org", "unconfirmed"],
    ]
    with pytest.raises(Conflict, match="nothing of it was ended"):
        console("users", "confirm", "ada@example.org", "--afresh")
    made = console("users", "confirm", "bob@example.org")
    assert (made["id"], made["confirmed"], made["has_password"]) == (squatter, True, True)
    assert "unconfirmed" not in console("users", "list", flags=())
    with pytest.raises(NotFound):
        console("users", "confirm", "nobody@example.org")


def test_people_are_put_into_teams(console, accounts):
    user = console("users", "add", "ada@example.org", typed=f"{PASSWORD}\n")
    home = console("teams", "list")[0]["id"]
    assert console("teams", "put", home, "ada@example.org", "--role", "viewer") == [
        {"user_id": user["id"], "email": "ada@example.org", "role": "viewer"}
    ]
    console("teams", "put", home, "ada@example.org", "--role", "admin")
    console("teams", "put", home, "admin@localhost", "--role", "member")
    with pytest.raises(LastAdmin):
        console("teams", "put", home, "ada@example.org", "--role", "member")
    with pytest.raises(FieldInvalid):
        console("teams", "put", home, "ada@example.org", "--role", "owner")
    with pytest.raises(NotFound):
        console("teams", "put", "team_x", "ada@example.org")
    tokens = accounts.logins.log_in("ada@example.org", PASSWORD, team=home)
    console("teams", "suspend", home, flags=())
    with pytest.raises(Unauthenticated):
        accounts.authenticate(tokens.access_token)
    console("teams", "resume", home, flags=())
    assert accounts.authenticate(tokens.access_token).tenant_id == home


def test_a_key_has_what_was_asked_for(console, accounts):
    asked = ("--scope", "read", "--expires-in-days", "7", "--spend-cap-usd", "2.50")
    made = console("keys", "create", "admin@localhost", "--name", "nightly", *asked)
    actor = accounts.authenticate(made["secret"])
    assert (actor.scopes, actor.spend_cap_micro_usd) == (frozenset({"read"}), 2_500_000)
    assert [key["name"] for key in console("keys", "list")] == ["first start", "nightly"]
    console("keys", "revoke", made["key"]["id"], flags=())
    with pytest.raises(Unauthenticated):
        accounts.authenticate(made["secret"])
    with pytest.raises(FieldInvalid, match="scopes"):
        console("keys", "create", "admin@localhost", "--name", "x", "--scope", "all")


def test_the_list_of_keys_says_whose_each_is_and_which_have_ended(console, accounts):
    console("users", "add", "ada@example.org", "--generate")
    made = [console("keys", "create", "ada@example.org", "--name", name)["key"] for name in ("first", "second", "third")]
    console("keys", "revoke", made[0]["id"], flags=())
    console("keys", "rotate", made[1]["id"], "--keep-old-hours", "0")
    lines = console("keys", "list", flags=()).splitlines()[1:]
    assert [line.split()[2:] for line in lines] == [
        [made[0]["user_id"], "first", "revoked"],
        [made[0]["user_id"], "second", "expired"],
        [made[0]["user_id"], "third"],
        [made[0]["user_id"], "second"],
    ]
    with pytest.raises(NotFound, match="luthier teams list"):
        console("keys", "create", "ada@example.org", "--name", "x", "--team", "team_x")


def test_the_admins_key_is_rotated_in_its_file(console, accounts):
    path = console.data / "admin.key"
    old = path.read_text().strip()
    made = console("keys", "rotate", accounts.authenticate(old).key_id, "--keep-old-hours", "0")
    assert path.read_text().strip() == made["secret"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert accounts.authenticate(made["secret"])
    with pytest.raises(Unauthenticated):
        accounts.authenticate(old)


def test_a_running_server_takes_a_new_signing_key_and_keeps_its_logins(console, accounts):
    console("users", "add", "ada@example.org", typed=f"{PASSWORD}\n")
    before = accounts.logins.log_in("ada@example.org", PASSWORD).access_token
    accounts.authenticate(before)
    name = console("keys", "rotate-signing", flags=()).strip()
    assert accounts.authenticate(before)
    assert accounts.signing.current().id == name
    assert accounts.authenticate(accounts.logins.log_in("ada@example.org", PASSWORD).access_token)
    assert (console.data / "signing-keys.json").stat().st_mode & 0o777 == 0o600
