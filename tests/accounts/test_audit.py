"""The audit log: one row a transaction, sealed into chains in which every change shows."""

import sqlite3
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from luthier import ids, wiring
from luthier.accounts import deeds
from luthier.accounts.audit import Audit
from luthier.accounts.audit_types import Head, Outcome, Unreadable, Wanted
from luthier.accounts.deeds import Act, Deed
from luthier.accounts.refusals import Refusal, Refusals
from luthier.accounts.store import TenantRow, UserRow
from luthier.accounts.types import Actor, Role
from luthier.backends.engines.echo import EchoEngine
from luthier.database import EVERY_TENANT
from luthier.notifications import outbox
from luthier.settings import Settings

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TEAM, OTHER = ids.new(ids.TENANT), ids.new(ids.TENANT)
ALICE = Actor(tenant_id=TEAM, user_id=ids.new(ids.USER), role=Role.ADMIN)


@pytest.fixture
def platform(tmp_path):
    platform = wiring.build(Settings(data=tmp_path / "data"), engine=EchoEngine())
    yield platform
    platform.close()


UNREADABLE = "was changed: it does not read like a row of this log"


def deed(action="things.make", tenant_id=TEAM):
    return Deed(lambda: Act(action, ALICE.user_id, tenant_id, on=(TEAM,)))


def answer(platform, *deeds_and_statuses):
    for each, status in deeds_and_statuses:
        platform.audit.answered(each, status, None if status < 400 else "no")


def raw(platform):
    """As somebody who can write to the file: nothing protects it but the chain."""
    connection = sqlite3.connect(platform.database.path)
    for trigger in ("audit_kept", "audit_as_written", "audit_sealed_later"):
        connection.execute(f"DROP TRIGGER {trigger}")
    return connection


def sealed(platform, rows=6):
    """A log of two teams, sealed in three rounds."""
    for number in range(rows):
        answer(platform, (deed(f"things.n{number}"), 200), (deed(f"things.n{number}", OTHER), 200))
        if number % 2:
            platform.audit.keep()
    assert platform.audit.verify().faults == []


def test_a_change_and_its_row_are_one_transaction(platform):
    with pytest.raises(IntegrityError), deeds.doing(deed()), platform.database.write(EVERY_TENANT) as session:
        session.add_all(
            [tenant(), UserRow(id="twice", email="a@x", created_at=NOW), UserRow(id="twice", email="b@x", created_at=NOW)]
        )
    with deeds.doing(deed()) as making, platform.database.write(EVERY_TENANT) as session:
        session.add(tenant())
    with deeds.doing(making), platform.database.write(EVERY_TENANT) as session:
        session.add(tenant())
    answer(platform, (making, 500))
    platform.audit.keep(everything=True)
    (row,) = platform.audit.list(ALICE, Wanted()).data
    assert (row.outcome, row.actor, row.status) == (Outcome.CHANGED, ALICE.user_id, None)
    assert len(row.resources) == 2  # the one in its path, and the team that was made first


def tenant():
    return TenantRow(id=ids.new(ids.TENANT), name="made", created_at=NOW)


def test_a_transaction_that_changes_nothing_leaves_no_row(platform):
    with deeds.doing(deed()) as asked, platform.database.write(EVERY_TENANT):
        pass
    assert not asked.recorded


def test_what_the_platform_does_by_itself_stands_in_the_chain_of_whom_it_concerns(platform):
    platform.accounts.first_start()
    with deeds.by_system("tests.act"), platform.database.write(EVERY_TENANT) as session:
        session.add(tenant())
    platform.audit.keep()
    with platform.audit.export() as rows:
        assert [(row.tenant_id, row.actor, row.action) for row in rows] == [("platform", "system", "tests.act")]


def test_an_act_for_several_teams_names_to_each_what_is_its_own(platform):
    told = {}
    with deeds.by_system("tests.act"), platform.database.write(EVERY_TENANT) as session:
        for team in (TEAM, OTHER):
            told[team] = [outbox.publish(session, team, "job.queued", {}, at=NOW) for _ in range(2)]
    with platform.audit.export() as rows:
        assert {row.tenant_id: row.resources for row in rows} == told


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE audit SET actor = 'mallory' WHERE tenant_id = :team AND seq = 3", "row 3 (aud_"),
        ("UPDATE audit SET at = at + 1 WHERE tenant_id = :team AND seq = 1", "row 1 (aud_"),
        ("UPDATE audit SET sha256 = substr(sha256, 2) || substr(sha256, 1, 1) WHERE tenant_id = :team AND seq = 2", "row 2"),
        ("DELETE FROM audit WHERE tenant_id = :team AND seq = 2", "row 2 is missing"),
        ("DELETE FROM audit WHERE tenant_id = :team AND seq IN (2, 3)", "row 2 to 3 are missing"),
        ("DELETE FROM audit WHERE tenant_id = :team AND seq = 6", "its end was cut off: 5 rows of at least 6"),
        ("DELETE FROM audit WHERE tenant_id = :team", "its end was cut off: 0 rows of at least 6"),
        ("DELETE FROM audit WHERE tenant_id = 'platform' AND seq = 3", "platform: its end was cut off: 2 rows of at least 3"),
        ("DELETE FROM audit", "platform: its end was cut off"),
        ("UPDATE audit SET seq = CASE seq WHEN 2 THEN 99 ELSE seq END WHERE tenant_id = :team", "row 2 is missing"),
        ("UPDATE audit SET seq = -2 WHERE tenant_id = :team AND seq = 2", "row -2 (aud_"),
        ("UPDATE audit SET outcome = 'fine' WHERE tenant_id = :team AND seq = 2", UNREADABLE),
        ("UPDATE audit SET data = 'null' WHERE tenant_id = :team AND seq = 2", UNREADABLE),
        ("UPDATE audit SET data = '{' WHERE tenant_id = :team AND seq = 2", UNREADABLE),
        ("UPDATE audit SET at = 'yesterday' WHERE tenant_id = :team AND seq = 2", UNREADABLE),
        ("UPDATE audit SET at = 9e18 WHERE tenant_id = :team AND seq = 2", UNREADABLE),
        ("UPDATE audit SET actor = x'ff' WHERE tenant_id = :team AND seq = 2", UNREADABLE),
        ("UPDATE audit SET actor = CAST(x'ff' AS TEXT) WHERE tenant_id = :team AND seq = 2", UNREADABLE),
        # A search by id would find it no longer, and its ids are what they were.
        ("UPDATE audit SET resources = trim(resources) WHERE tenant_id = :team AND seq = 2", UNREADABLE),
    ],
)
def test_whatever_is_done_to_a_sealed_row_shows(platform, statement, found):
    sealed(platform)
    with raw(platform) as connection:
        assert connection.execute(statement, {"team": TEAM}).rowcount > 0
    faults = platform.audit.verify().faults
    assert len(faults) >= 1
    assert found in faults[0]
    assert (TEAM if ":team" in statement else "platform") in faults[0]


def test_two_rows_that_changed_places_and_one_that_was_put_between_show(platform):
    sealed(platform)
    with raw(platform) as connection:
        connection.execute("UPDATE audit SET seq = -seq WHERE tenant_id = ? AND seq IN (2, 3)", [TEAM])
        connection.execute("UPDATE audit SET seq = 5 + seq WHERE tenant_id = ? AND seq < 0", [TEAM])
        connection.execute("UPDATE audit SET seq = seq + 1000 WHERE tenant_id = ? AND seq > 3", [OTHER])
        connection.execute("UPDATE audit SET seq = seq - 999 WHERE tenant_id = ? AND seq > 3", [OTHER])
        copy = "INSERT INTO audit SELECT 'aud_forged', at, until, actor, key_id, address, request_id, action, route, resources, "
        copy += "outcome, status, code, count, data, 4, sha256, tenant_id FROM audit WHERE tenant_id = ? AND seq = 3"
        connection.execute(copy, [OTHER])
    faults = platform.audit.verify().faults
    assert [fault.split(":")[0] for fault in faults] == sorted([TEAM, OTHER])
    assert any("row 4 (aud_forged) was changed, moved or inserted" in fault for fault in faults)


def test_a_chain_that_was_written_anew_is_not_the_one_that_was_pinned(platform):
    sealed(platform)
    with raw(platform) as connection:
        connection.execute("UPDATE audit SET seq = NULL, sha256 = NULL, actor = 'mallory' WHERE tenant_id = ?", [TEAM])
    platform.audit.keep()  # the sealer itself, misused: a chain that is right in itself
    (fault,) = platform.audit.verify().faults
    assert fault.startswith(f"{TEAM}: row 2 (aud_")
    assert fault.endswith("is not the one that was pinned: the chain was written anew")


def test_the_other_chains_are_walked_and_exported_whatever_stands_in_one_row(platform):
    sealed(platform)
    with raw(platform) as connection:
        connection.execute("UPDATE audit SET at = 'x' WHERE tenant_id = ? AND seq = 2", [TEAM])
        connection.execute("UPDATE audit SET actor = 'mallory' WHERE tenant_id = ? AND seq = 4", [OTHER])
    assert len(platform.audit.verify().faults) == 2
    with platform.audit.export() as entries:
        told = list(entries)
    (bad,) = [row for row in told if isinstance(row, Unreadable)]
    assert ((bad.tenant_id, bad.seq), len(told)) == ((TEAM, 2), 15)


def test_a_row_that_cannot_be_sealed_is_named_and_stops_no_other(platform):
    sealed(platform)
    answer(platform, (deed(), 200))
    with raw(platform) as connection:
        connection.execute("UPDATE audit SET outcome = 'fine' WHERE seq IS NULL")
    answer(platform, (deed(), 200))
    assert platform.audit.keep() == 1
    (fault,) = platform.audit.verify().faults
    assert fault.startswith(f"{TEAM}: row aud_")
    assert "which is not sealed yet" in fault


@pytest.mark.parametrize("written", ["none", None])
def test_a_hash_that_somebody_wrote_over_stops_nobodys_sealing(platform, written):
    sealed(platform)
    with raw(platform) as connection:
        connection.execute("UPDATE audit SET sha256 = ? WHERE tenant_id = ? AND seq = 6", [written, TEAM])
    answer(platform, (deed(), 200), (deed(tenant_id=OTHER), 200))
    assert platform.audit.keep() == 2
    (fault,) = platform.audit.verify().faults
    assert fault.startswith(f"{TEAM}: row 6 (aud_")


@pytest.mark.parametrize(("change", "says"), [(Path.unlink, "is missing"), (lambda path: path.write_text("{}"), "was changed")])
def test_a_head_that_does_not_lie_beside_the_database_shows(platform, change, says):
    sealed(platform)
    change(platform.settings.data / "audit.head")
    (fault,) = platform.audit.verify().faults
    assert fault.startswith("platform: audit.head ")
    assert says in fault
    answer(platform, (deed(), 200))
    platform.audit.keep()
    assert platform.audit.verify().faults == []


def test_a_head_that_cannot_be_written_stops_no_sealing(platform):
    sealed(platform)
    head = platform.settings.data / "audit.head"
    head.unlink()
    head.mkdir()
    answer(platform, (deed(), 200))
    assert platform.audit.keep() == 1
    head.rmdir()


def test_a_head_that_was_noted_elsewhere_finds_what_the_file_beside_the_database_cannot(platform):
    sealed(platform)
    head = platform.audit.verify().head
    with raw(platform) as connection:
        connection.execute("DELETE FROM audit")
    (platform.settings.data / "audit.head").unlink()
    assert platform.audit.verify().faults == []
    (fault,) = platform.audit.verify(head).faults
    assert "0 rows of at least 3" in fault
    assert platform.audit.verify(Head(seq=1, sha256="0" * 64)).faults != []


@pytest.mark.parametrize("statement", ["DELETE FROM audit", "UPDATE audit SET actor = 'x'", "UPDATE audit SET seq = 7"])
def test_the_database_refuses_what_an_append_only_table_must(platform, statement):
    sealed(platform)
    with pytest.raises(sqlite3.IntegrityError, match="only grows"), sqlite3.connect(platform.database.path) as connection:
        connection.execute(statement)


def test_several_sealers_at_once_seal_each_row_once(platform):
    for _ in range(40):
        answer(platform, (deed(), 200))
    counts = []
    threads = [threading.Thread(target=lambda: counts.append(platform.audit.keep())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    verdict = platform.audit.verify()
    assert (sum(counts), verdict.faults, verdict.rows) == (40, [], 41)  # and one anchor


def test_rows_that_nobody_seals_are_told(platform, tmp_path):
    old = wiring.build(Settings(data=tmp_path / "old"), engine=EchoEngine(), now=lambda: NOW)
    answer(old, (deed(), 200))
    old.database.close()
    late = wiring.build(Settings(data=tmp_path / "old"), engine=EchoEngine(), now=lambda: NOW + timedelta(minutes=2))
    assert late.audit.verify().unsealed == 1
    late.close()


# -- refusals -------------------------------------------------------------------------------------------------------------


def refusal(at, code="no", request_id=None, actor="alice"):
    return Refusal(Act("jobs.submit", actor, TEAM, request_id=request_id), "refused", 422, code, at, at)


def test_equal_refusals_of_a_minute_are_two_rows_the_first_at_once():
    refusals = Refusals()
    for second in range(50):
        refusals.add(refusal(NOW + timedelta(seconds=second), request_id=f"req_{second}"))
        if second == 2:
            (first,) = refusals.due(NOW + timedelta(seconds=second))
            assert (first.count, first.act.request_id) == (3, "req_0")
        assert second < 3 or refusals.due(NOW + timedelta(seconds=second)) == []
    (rest,) = refusals.due(NOW + timedelta(seconds=63))
    assert (rest.count, rest.first, rest.last) == (47, NOW + timedelta(seconds=3), NOW + timedelta(seconds=49))
    assert refusals.due(NOW + timedelta(hours=1)) == []


def test_refusals_that_differ_are_rows_of_their_own():
    refusals = Refusals()
    for each in (refusal(NOW), refusal(NOW, code="other"), refusal(NOW, actor="bob"), refusal(NOW)):
        refusals.add(each)
    assert sorted(each.count for each in refusals.due(NOW)) == [1, 1, 2]


def test_a_flood_of_kinds_takes_no_more_memory_and_none_is_uncounted():
    refusals = Refusals()
    for number in range(10_050):
        refusals.add(refusal(NOW, actor=f"n{number}"))
    due = refusals.due(NOW)
    assert len(due) == 10_001
    assert sum(each.count for each in due) == 10_050


def test_what_waits_at_the_end_is_written_and_sealed(platform):
    answer(platform, (deed(), 422), (deed(), 422))
    platform.audit.close()
    (row,) = platform.audit.list(ALICE, Wanted(outcome=Outcome.REFUSED)).data
    assert (row.count, row.code, row.seq) == (2, "no", 1)


def test_a_search_finds_by_each_of_its_fields_and_never_another_team(platform):
    job = ids.new(ids.JOB)
    answer(platform, (Deed(lambda: Act("jobs.stop", ALICE.user_id, TEAM, on=(job,))), 200), (deed("jobs.stop", OTHER), 200))
    log = platform.audit
    now = datetime.now(UTC)
    found = Wanted(actor=ALICE.user_id, action="jobs.stop", outcome=Outcome.UNCHANGED, on=job, since=now - timedelta(minutes=1))
    assert [row.resources for row in log.list(ALICE, found).data] == [[job]]
    for nothing in (Wanted(actor="x"), Wanted(action="x"), Wanted(on=job[:-1]), Wanted(on="%"), Wanted(until=now - timedelta(1))):
        assert log.list(ALICE, nothing).data == []


def test_a_second_sealer_takes_only_what_the_first_one_left(platform, tmp_path):
    patience = timedelta(minutes=1)
    answer(platform, (deed(), 200))
    assert platform.audit.keep(patience=patience) == 0
    later = Audit(platform.database, lambda: platform.now() + 2 * patience, tmp_path / "head.json")
    assert later.keep(patience=patience) == 1
    assert later.verify().faults == []
