"""The three engines and the filter that keeps tenants apart."""

import contextlib
import sqlite3
from datetime import UTC, datetime

import pytest
from sqlalchemy import bindparam, create_engine, select, update
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from luthier.database import EVERY_TENANT, Database, TenantOwned, UtcTime, insert, look_in, page
from luthier.errors import CursorInvalid, DatabaseBusy


class Row(DeclarativeBase):
    pass


class NoteRow(TenantOwned, Row):
    __tablename__ = "notes"
    id: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[datetime | None] = mapped_column(UtcTime)


@pytest.fixture
def database(tmp_path):
    database = Database(tmp_path / "luthier.db")
    Row.metadata.create_all(database.engine)
    with database.write(EVERY_TENANT) as session:
        session.add_all(NoteRow(id=f"n{number}", tenant_id="ab"[number % 2]) for number in range(10))
    yield database
    database.close()


def test_a_tenant_sees_only_its_own(database):
    with database.read("a") as session:
        assert [row.id for row in session.scalars(select(NoteRow))] == ["n0", "n2", "n4", "n6", "n8"]
        assert session.get(NoteRow, "n1") is None


def test_a_tenant_changes_only_its_own(database):
    moment = datetime(2026, 11, 21, tzinfo=UTC)
    with database.write("a") as session:
        session.execute(update(NoteRow).values(at=moment))
    with database.read(EVERY_TENANT) as session:
        assert {row.tenant_id for row in session.scalars(select(NoteRow)) if row.at == moment} == {"a"}


def test_a_session_without_a_tenant_reads_nothing(database):
    with Session(database.engine) as session, pytest.raises(RuntimeError, match="needs a tenant"):
        session.scalars(select(NoteRow))


def test_another_librarys_sessions_are_left_alone(database):
    other = create_engine("sqlite://")
    NoteRow.metadata.create_all(other)
    with Session(other) as session:
        assert list(session.scalars(select(NoteRow))) == []


def test_pages_are_newest_first_and_meet_without_a_gap(database):
    with database.read("a") as session:
        first, cursor = page(session, select(NoteRow), NoteRow, after=None, limit=3)
        second, end = page(session, select(NoteRow), NoteRow, after=cursor, limit=3)
    assert [row.id for row in first + second] == ["n8", "n6", "n4", "n2", "n0"]
    assert end is None


@pytest.mark.parametrize("cursor", ["n1", "nothing", ""])
def test_a_foreign_cursor_and_garbage_get_the_same_answer(database, cursor):
    with database.read("a") as session, pytest.raises(CursorInvalid):
        page(session, select(NoteRow), NoteRow, after=cursor, limit=3)


def test_the_reading_engine_cannot_write(database):
    with pytest.raises(OperationalError, match="readonly"), database.read("a") as session:
        session.execute(update(NoteRow).values(at=None))


def test_a_writer_that_holds_on_makes_the_next_one_busy_in_time(database):
    holder = sqlite3.connect(database.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseBusy), database.write("a") as session:
        session.execute(update(NoteRow).values(at=None))
    holder.close()


def test_an_exception_undoes_the_whole_transaction(database):
    def fail_halfway() -> None:
        with database.write("a") as session:
            session.add(NoteRow(id="n99", tenant_id="a"))
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    with database.read("a") as session:
        assert session.get(NoteRow, "n99") is None


LOOK = select(NoteRow.__table__).where(NoteRow.id == bindparam("note_id"))


def test_a_look_finds_only_the_tenants_own(database):
    for tenant, note, found in [("a", "n0", ["n0"]), ("a", "n1", []), (EVERY_TENANT, "n1", ["n1"])]:
        assert [row.id for row in database.look(tenant, LOOK, {"note_id": note})] == found
        with database.read(tenant) as session:
            assert [row.id for row in look_in(session, LOOK, {"note_id": note})] == found


def test_a_look_sees_what_was_committed_before_it(database):
    moment = datetime(2026, 11, 21, tzinfo=UTC)

    def at():
        (row,) = database.look("a", LOOK, {"note_id": "n0"})
        return row.at

    assert at() is None
    with database.write("a") as session:
        session.execute(update(NoteRow).values(at=moment))
        session.flush()
        assert at() is None
    assert at() == moment
    with contextlib.closing(sqlite3.connect(database.path)) as other, other:
        other.execute("DELETE FROM notes")
    assert database.look("a", LOOK, {"note_id": "n0"}) == []


def test_an_inserted_row_is_there_at_once_and_noted_as_a_change(database):
    seen = []
    database.witness = lambda _session, changes: seen.append((changes.any, dict(changes.tenants))) or (lambda: None)
    moment = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=UTC)
    with database.write("a") as session:
        insert(session, NoteRow(id="new", tenant_id="a", at=moment))
        assert session.get(NoteRow, "new").at == moment.replace(microsecond=123000)
    assert seen == [(True, {"a": None})]
    with pytest.raises(IntegrityError), database.write("a") as session:
        insert(session, NoteRow(id="new", tenant_id="a"))


def test_the_log_is_carried_into_the_file_beside_who_reads_and_writes(database):
    def on_disk(name: str) -> bool:  # what a reader of the file alone finds, without the log beside it
        return name.encode() in database.path.read_bytes()

    with database.write("a") as session:
        insert(session, NoteRow(id="carried over", tenant_id="a"))
    assert not on_disk("carried over")
    with database.write("a") as session:
        insert(session, NoteRow(id="not committed", tenant_id="a"))
        session.flush()
        database.shorten()
        assert on_disk("carried over")
        assert not on_disk("not committed")
    with database.read("a"):
        database.shorten()
    assert on_disk("not committed")
    database.shorten()  # and what has not changed is left alone
