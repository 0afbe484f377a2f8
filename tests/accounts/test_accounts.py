import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from luthier.accounts.service import Accounts
from luthier.accounts.store import KeyRow
from luthier.accounts.types import Idempotency, Role
from luthier.database import EVERY_TENANT, Database, Row
from luthier.errors import KeyInFlight, KeyReused, Unauthenticated

NOW = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.fixture
def database(tmp_path: Path):
    database = Database(tmp_path / "luthier.db")
    Row.metadata.create_all(database.engine)
    yield database
    database.close()


@pytest.fixture
def accounts(database):
    return Accounts(database, lambda: NOW)


def test_the_first_start_makes_one_admin_whoever_else_starts_at_once(accounts):
    keys = []
    threads = [threading.Thread(target=lambda: keys.append(accounts.first_start())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made = [key for key in keys if key]
    assert len(made) == 1
    assert accounts.authenticate(made[0]).role is Role.ADMIN


def test_the_key_is_nowhere_in_the_database(accounts, database):
    key = accounts.first_start()
    database.close()
    stored = b"".join(path.read_bytes() for path in database.path.parent.iterdir())
    assert key.encode() not in stored


def test_a_wrong_truncated_or_foreign_key_is_refused_with_the_same_words(accounts):
    key = accounts.first_start()
    messages = set()
    for wrong in ("", "lk_", key[:-1], key.upper(), key + "x", "sk-" + key, "lk_" + "a" * 1000, "lk_ünïcode"):
        with pytest.raises(Unauthenticated) as refusal:
            accounts.authenticate(wrong)
        messages.add(str(refusal.value))
    assert len(messages) == 1


def test_a_revoked_key_is_refused_on_the_next_request(accounts, database):
    key = accounts.first_start()
    actor = accounts.authenticate(key)
    with database.write(EVERY_TENANT) as session:
        session.get(KeyRow, actor.key_id).revoked_at = NOW
    with pytest.raises(Unauthenticated):
        accounts.authenticate(key)


def test_an_idempotency_key_replays_its_own_request_and_refuses_another(accounts, database):
    actor = accounts.authenticate(accounts.first_start())
    first = Idempotency("once", "a" * 64)
    with database.write(actor.tenant_id) as session:
        assert accounts.replay(session, actor, first) is None
        accounts.remember(session, actor, first, "job_1")
    with database.write(actor.tenant_id) as session:
        assert accounts.replay(session, actor, first) == "job_1"
        with pytest.raises(KeyReused, match="another request"):
            accounts.replay(session, actor, Idempotency("once", "b" * 64))


def test_a_key_in_flight_is_refused_and_free_again_after_a_failure(accounts):
    actor = accounts.authenticate(accounts.first_start())
    key = "once"
    with accounts.in_flight(actor, key), pytest.raises(KeyInFlight), accounts.in_flight(actor, key):
        pass
    with pytest.raises(ZeroDivisionError), accounts.in_flight(actor, key):
        raise ZeroDivisionError
    with accounts.in_flight(actor, key):
        pass
