"""The database's history: `versions/` has one file a step, applied in order, once, whoever starts at the same time."""

from __future__ import annotations

import fcntl
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from luthier.database import EVERY_TENANT, Database
from luthier.errors import SetupError

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0021"
"""The newest step. Said here so that an ordinary start need not load alembic; a test compares it with `versions/`."""


def upgrade(database: Database) -> None:
    """Bring the tables to `HEAD`, all of it or nothing. Of several starts at once one migrates, the others wait.

    Loads no alembic where nothing is to be done. Raises: SetupError for a database that a newer Luthier made.
    """
    with database.read(EVERY_TENANT) as session:  # an ordinary start waits for no writer
        if revision(session.connection()) == HEAD:
            return
    with _alone(database.path), database.engine.begin() as connection:
        found = revision(connection)
        if found == HEAD:
            return
        from alembic import command
        from alembic.util import CommandError

        try:
            command.upgrade(config(connection), HEAD)
        except CommandError:
            raise SetupError(
                f"The database is at revision {found}, which this version of Luthier ({HEAD}) does not know.",
                hint="It was made by a newer one: install that, or restore a backup.",
            ) from None


def revision(connection: Connection) -> str | None:
    """Where this database stands, or None for an empty one."""
    exists = connection.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'alembic_version'")
    if exists.first() is None:
        return None
    row = connection.exec_driver_sql("SELECT version_num FROM alembic_version").first()
    return None if row is None else str(row[0])


def config(connection: Connection) -> Config:
    """What alembic needs, without an ini file. It runs inside the connection's transaction."""
    from alembic.config import Config

    made = Config()
    # A percent sign in the path would be read as a reference to another option.
    made.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    made.set_main_option("path_separator", "os")
    made.attributes["connection"] = connection
    return made


@contextmanager
def _alone(path: Path) -> Generator[None]:
    # SQLite's own lock gives up after `busy_timeout`; this one waits for as long as a migration takes.
    with path.with_name(f"{path.name}.migrating").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
