"""Keys beside what REST shows: when they were used, and whose rows each sees."""

from datetime import UTC, datetime, timedelta

import pytest

from luthier.accounts.service import Accounts
from luthier.accounts.types import Actor, Audience, KeyWish, Role, Scope
from luthier.database import Database, Row
from luthier.errors import Conflict, NotFound, Unauthenticated


class Moment:
    def __init__(self):
        self.now = datetime(2026, 11, 21, tzinfo=UTC)

    def __call__(self):
        return self.now


@pytest.fixture
def now():
    return Moment()


@pytest.fixture
def accounts(tmp_path, now):
    database = Database(tmp_path / "luthier.db")
    Row.metadata.create_all(database.engine)
    accounts = Accounts(database, now)
    yield accounts
    accounts.close()
    database.close()


@pytest.fixture
def admin(accounts):
    return accounts.authenticate(accounts.first_start())


def test_a_use_is_noted_once_a_minute(accounts, admin, now):
    made = accounts.keys.create(admin, KeyWish(name="ci"))

    def used_at():
        accounts.keys.close()
        return accounts.keys.every()[-1].last_used_at

    assert used_at() is None
    began = now.now
    for seconds, noted in ((0, 0), (59, 0), (60, 60), (119, 60), (120, 120)):
        now.now = began + timedelta(seconds=seconds)
        accounts.authenticate(made.secret)
        assert used_at() == began + timedelta(seconds=noted)


def test_a_key_for_another_door_opens_that_one_only(accounts, admin):
    made = accounts.keys.create(admin, KeyWish(name="assistant", audience=Audience.MCP, scopes=(Scope.READ,)))
    actor = accounts.keys.holder(made.secret, Audience.MCP)
    assert (actor.scopes, actor.key_id) == (frozenset({Scope.READ}), made.key.id)
    for audience in (Audience.API, Audience.WEBHOOK):
        with pytest.raises(Unauthenticated):
            accounts.keys.holder(made.secret, audience)


def test_a_member_sees_and_ends_their_own_keys_and_an_admin_the_teams(accounts, admin):
    user = accounts.users.add("bob@example.org", None)
    accounts.teams.put(admin.tenant_id, "bob@example.org", Role.MEMBER)
    bob = Actor(admin.tenant_id, user.id, Role.MEMBER)
    made = accounts.keys.create(bob, KeyWish(name="bobs"))
    assert [key.name for key in accounts.keys.list(bob).data] == ["bobs"]
    assert [key.name for key in accounts.keys.list(admin).data] == ["bobs", "first start"]
    with pytest.raises(NotFound):
        accounts.keys.revoke(bob, admin.key_id)
    with pytest.raises(NotFound):
        accounts.keys.rotate(admin, made.key.id)  # its secret is for Bob
    accounts.keys.revoke(admin, made.key.id)
    with pytest.raises(Unauthenticated):
        accounts.authenticate(made.secret)
    with pytest.raises(Conflict):
        accounts.keys.rotate(bob, made.key.id)


def test_a_key_of_another_team_is_unknown(accounts, admin):
    accounts.users.add("eve@example.org", None)
    eve = accounts.users.acting("eve@example.org")
    made = accounts.keys.create(eve, KeyWish(name="hers"))
    for act in (accounts.keys.revoke, accounts.keys.rotate):
        with pytest.raises(NotFound):
            act(admin, made.key.id)
    assert [key.name for key in accounts.keys.list(admin).data] == ["first start"]


def test_nobody_has_more_than_a_hundred_keys_in_use(accounts, admin):
    made = [accounts.keys.create(admin, KeyWish(name="k")) for _ in range(99)]
    with pytest.raises(Conflict, match="100 keys"):
        accounts.keys.create(admin, KeyWish(name="k"))
    accounts.keys.revoke(admin, made[0].key.id)
    assert accounts.keys.create(admin, KeyWish(name="k"))
