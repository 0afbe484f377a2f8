"""The database: three engines on one SQLite file, and one filter that keeps tenants apart.

`read` never writes, `write` is durable when it returns (fsync), `beat` may lose its last moments in a power cut; `look` is for
the questions of every request, and takes less time than the way to another thread.
Services open a session for their tenant; the supervisor opens one for `EVERY_TENANT`.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar
from weakref import WeakSet

from sqlalchemy import BigInteger, Connection, Engine, Insert, Select, bindparam, create_engine, event
from sqlalchemy import Row as Found
from sqlalchemy import insert as insert_into
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import DeclarativeBase, Mapped, ORMExecuteState, Session, mapped_column, with_loader_criteria
from sqlalchemy.orm.interfaces import ORMOption
from sqlalchemy.pool import NullPool
from sqlalchemy.sql.util import find_tables
from sqlalchemy.types import TypeDecorator

from luthier import ids
from luthier.errors import CursorInvalid, DatabaseBusy, StorageFull
from luthier.turns import Turns

EVERY_TENANT: Final = "*"
_BUSY_TIMEOUT_MS = 2500
_LONGEST_LOG_PAGES = 8000
"""32 MB. Whoever commits beyond that carries the log into the file; before, `Database.shorten` does it, and nobody waits."""
_CARRIES = 5
_TURN_S = 10.0
"""Longer than 40 threads, the most that serve requests, hold each other up: whoever waits in line gets there."""


class Row(DeclarativeBase):
    """The base of all tables. Rows stay inside `store.py`; what crosses a border is a value of `types.py`."""


class TenantOwned:
    """A table whose rows belong to a tenant: every query through a session sees only that tenant's."""

    tenant_id: Mapped[str] = mapped_column(index=True)


class UtcTime(TypeDecorator[datetime]):
    """A moment, stored as integer milliseconds since 1970 UTC, read as an aware datetime."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> int | None:  # noqa: ARG002
        return None if value is None else to_ms(value)

    def process_result_value(self, value: int | None, dialect: Any) -> datetime | None:  # noqa: ARG002
        return None if value is None else from_ms(value)


def to_ms(moment: datetime) -> int:
    """Milliseconds since 1970 UTC. Raises: ValueError for a naive datetime."""
    if moment.tzinfo is None:
        raise ValueError("a moment needs its time zone")
    return int(moment.timestamp() * 1000)


def from_ms(milliseconds: int) -> datetime:
    """The moment that many milliseconds after 1970 UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


_OURS: WeakSet[object] = WeakSet()
"""Engines on which no session works without a tenant."""


@dataclass
class Changes:
    """What one transaction changed, as far as its statements tell: ids of rows, and whose they are (None: nobody's)."""

    ids: dict[str, str | None] = field(default_factory=dict[str, str | None])
    tenants: dict[str, None] = field(default_factory=dict[str, None])
    any: bool = False

    def note(self, row: object) -> None:
        """That this row was added, changed or deleted."""
        self.any = True
        owner = row.tenant_id if isinstance(row, TenantOwned) else None
        self.ids.update(dict.fromkeys(_ids_of(row), owner))
        if owner is not None:
            self.tenants[owner] = None

    def ids_for(self, tenant_id: str) -> tuple[str, ...]:
        """Without those of other tenants: they are not for its eyes."""
        return tuple(each for each, owner in self.ids.items() if owner in {tenant_id, None})


Witness = Callable[[Session, Changes], Callable[[], None]]
"""Called inside each durable transaction that changed something, before it commits; what it returns is called after."""


class Database:
    """Sessions on one SQLite file. Safe to share between threads; open it once a process."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.witness: Witness | None = None
        self._read = _engine(path, begin="BEGIN", pragmas=("query_only=ON",))
        self._looks = _Looks(_engine(path, begin=None, pragmas=("query_only=ON",)))
        long = f"wal_autocheckpoint={_LONGEST_LOG_PAGES}"
        self._write = _engine(path, begin="BEGIN IMMEDIATE", pragmas=("synchronous=FULL", long))
        self._beat = _engine(path, begin="BEGIN IMMEDIATE", pragmas=("synchronous=NORMAL", long))
        self._plain = _engine(path, begin=None, pragmas=())
        self._turns = Turns()
        self._carried_ns = 0

    @contextmanager
    def read(self, tenant_id: str) -> Generator[Session]:
        """A consistent snapshot of what `tenant_id` owns. Raises: DatabaseBusy."""
        with _session(self._read, tenant_id) as session:
            yield session

    def look(self, tenant_id: str, query: Select[Any], values: Mapping[str, object]) -> Sequence[Found[Any]]:
        """What `tenant_id` owns of what `query` finds: columns, and no ORM, for a tenth of what a session takes.

        For a few rows by an index, also on the thread of the event loop. Make `query` once. Raises: DatabaseBusy.
        """
        with _explained():
            return self._looks.all(*_of_one_tenant(query, tenant_id, values))

    @contextmanager
    def write(self, tenant_id: str) -> Generator[Session]:
        """One transaction, on disk when the block ends; an exception undoes all of it. Raises: DatabaseBusy, StorageFull."""
        changes, committed = Changes(), None
        with self._turn(), _session(self._write, tenant_id, changes) as session:
            yield session
            session.flush()
            if changes.any and self.witness is not None:
                committed = self.witness(session, changes)
        if committed is not None:
            committed()

    @contextmanager
    def beat(self) -> Generator[Session]:
        """A transaction for heartbeats: consistent, but its last moments may be lost in a power cut."""
        with self._turn(), _session(self._beat, EVERY_TENANT) as session:
            yield session

    def shorten(self) -> None:
        """Carry what was written from the log into the file, beside readers and writers: a commit that does so keeps all who
        want to write waiting for the disk. Call it every second or so, in one thread."""
        log = self.path.with_name(f"{self.path.name}-wal")
        changed_ns = log.stat().st_mtime_ns if log.exists() else 0
        if changed_ns == self._carried_ns:
            return
        with _explained(), self._plain.connect() as connection:
            # Only a log that was carried whole begins anew: what was added meanwhile is carried in ever shorter turns.
            for _ in range(_CARRIES):
                _, pages, carried = connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)").one()
                if pages == carried:
                    self._carried_ns = changed_ns
                    return

    @contextmanager
    def _turn(self) -> Generator[None]:
        """The writers of this process, one after the other; among processes SQLite decides."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._turns.taken(_TURN_S))
            except TimeoutError as error:
                raise DatabaseBusy from error
            yield

    @property
    def engine(self) -> Engine:
        """The durable engine, for migrations."""
        return self._write

    def close(self) -> None:
        self._looks.close()
        for engine in (self._read, self._write, self._beat, self._plain):
            engine.dispose()


class _Looks:
    """Connections without a transaction, so that each question sees what was committed before it; kept when they are free."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._free: deque[Connection] = deque()

    def all(self, query: Select[Any], values: Mapping[str, object]) -> Sequence[Found[Any]]:
        try:
            connection = self._free.pop()
        except IndexError:
            connection = self._engine.connect()
        try:
            return connection.execute(query, values).all()
        finally:
            self._free.append(connection)

    def close(self) -> None:
        while self._free:
            self._free.pop().close()
        self._engine.dispose()


@contextmanager
def _session(engine: Engine, tenant_id: str, changes: Changes | None = None) -> Generator[Session]:
    info = {"tenant_id": tenant_id, "changes": changes}
    with _explained(), Session(engine, expire_on_commit=False, info=info) as session, session.begin():
        yield session


@contextmanager
def across_tenants(session: Session) -> Generator[None]:
    """Queries of this block see every tenant: for a sum over the whole platform inside one tenant's transaction."""
    mine, session.info["tenant_id"] = session.info["tenant_id"], EVERY_TENANT
    try:
        yield
    finally:
        session.info["tenant_id"] = mine


@contextmanager
def _explained() -> Generator[None]:
    try:
        yield
    except OperationalError as error:
        text = str(error.orig)
        if "locked" in text or "busy" in text:
            raise DatabaseBusy from error
        if "full" in text:
            raise StorageFull from error
        raise
    except PoolTimeout as error:  # all connections wait for the one writer
        raise DatabaseBusy from error


@event.listens_for(Session, "do_orm_execute")
def _only_the_tenants_own(state: ORMExecuteState) -> None:  # pyright: ignore[reportUnusedFunction]  # called by the event
    tenant_id = state.session.info.get("tenant_id")
    if tenant_id is None and state.session.bind not in _OURS:
        return  # a library's own database, in the same process
    if tenant_id is None:
        raise RuntimeError("a session needs a tenant; open it with Database.read or Database.write")
    if not state.is_select and (changes := state.session.info.get("changes")) is not None:
        changes.any = True
    if tenant_id != EVERY_TENANT and not state.is_column_load and not state.is_relationship_load:
        state.statement = state.statement.options(_of_tenant(tenant_id))


@lru_cache(maxsize=1024)
def _of_tenant(tenant_id: str) -> ORMOption:
    """The filter, made once a tenant: making it takes as long as a short query."""
    return with_loader_criteria(TenantOwned, lambda table: table.tenant_id == tenant_id, include_aliases=True)


def look_in(session: Session, query: Select[Any], values: Mapping[str, object]) -> Sequence[Found[Any]]:
    """As `Database.look`, inside a transaction. What the session has not flushed is not there yet."""
    statement, bound = _of_one_tenant(query, session.info["tenant_id"], values)
    return session.connection().execute(statement, bound).all()


def insert(session: Session, row: Row) -> None:
    """Write a new row at once, for a fifth of what it takes to add it and flush.

    The session does not know it: whoever wants to change it reads it first. What it refers to is there already.
    """
    values = {name: value for name, value in vars(row).items() if name != "_sa_instance_state"}
    session.connection().execute(_insertion(type(row)), values)
    changes: Changes | None = session.info.get("changes")
    if changes is not None:
        changes.note(row)


@lru_cache(maxsize=64)
def _insertion(table: type[Row]) -> Insert:
    """Made once a table: making it takes as long as running it."""
    return insert_into(table.__table__)  # pyright: ignore[reportArgumentType]  # a mapped class has a Table


def _of_one_tenant(query: Select[Any], tenant_id: str, values: Mapping[str, object]) -> tuple[Select[Any], Mapping[str, object]]:
    if tenant_id == EVERY_TENANT:
        return query, values
    return _filtered(query), {**values, "its_tenant": tenant_id}


@lru_cache(maxsize=64)
def _filtered(query: Select[Any]) -> Select[Any]:
    """The filter once more, for queries without the ORM: in each table that belongs to tenants."""
    for table in dict.fromkeys(find_tables(query)):  # once each: a condition twice makes SQLite guess another index
        if "tenant_id" in table.c:
            query = query.where(table.c.tenant_id == bindparam("its_tenant"))
    return query


@event.listens_for(Session, "after_flush")
def _note_changes(session: Session, _context: object) -> None:  # pyright: ignore[reportUnusedFunction]  # called by the event
    changes: Changes | None = session.info.get("changes")
    if changes is None:
        return
    for row in (*session.new, *session.deleted, *(row for row in session.dirty if session.is_modified(row))):
        changes.note(row)


def _ids_of(row: object) -> list[str]:
    """A row with an id of its own is named by it (and by its user), any other by what it belongs to."""
    values: dict[str, object] = {name: value for name, value in vars(row).items() if name == "id" or name.endswith("_id")}
    own = isinstance(values.get("id"), str)
    named = [value for name, value in values.items() if name in {"id", "user_id"} or (not own and name != "tenant_id")]
    return [value for value in named if isinstance(value, str) and ids.has_form(value)]


class HasId(Protocol):
    id: Mapped[str]


R = TypeVar("R", bound=HasId)


def page(session: Session, query: Select[R], row: type[R], *, after: str | None, limit: int) -> tuple[list[R], str | None]:
    """One page of `query`, newest first (ids sort by time), and the cursor of the next one. No COUNT, no OFFSET.

    Raises: CursorInvalid where `after` is not an id that this session's tenant can see.
    """
    if after is not None:
        if session.get(row, after) is None:
            raise CursorInvalid
        query = query.where(row.id < after)
    rows: list[R] = list(session.scalars(query.order_by(row.id.desc()).limit(limit + 1)))
    more = len(rows) > limit
    return rows[:limit], rows[limit - 1].id if more else None


def _engine(path: Path, *, begin: str | None, pragmas: tuple[str, ...]) -> Engine:
    # Without a transaction there is nothing to wait for: `_Looks` keeps its connections itself, as many as threads ask at once.
    pool: dict[str, Any] = {"poolclass": NullPool} if begin is None else {"pool_size": 16, "pool_timeout": 3}
    engine = create_engine(f"sqlite:///{path}", connect_args={"check_same_thread": False}, **pool)

    def on_connect(connection: sqlite3.Connection, _record: Any) -> None:
        # The driver must not open transactions by itself: `begin` below decides how each one starts.
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
        _to_wal(connection)
        for pragma in ("foreign_keys=ON", *pragmas):
            connection.execute(f"PRAGMA {pragma}")

    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(str(begin))

    _OURS.add(engine)
    event.listen(engine, "connect", on_connect)
    if begin is not None:
        event.listen(engine, "begin", on_begin)
    return engine


def _to_wal(connection: sqlite3.Connection) -> None:
    # SQLite answers a change of journal mode with "locked" at once, whatever the busy timeout says, when another
    # process does the same or recovers the log of a killed one. It passes in milliseconds.
    until = time.monotonic() + _BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return
