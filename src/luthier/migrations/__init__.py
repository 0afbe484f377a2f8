"""The database's history: `versions/` has one file a step, applied in order, once, whoever starts at the same time."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from luthier.database import Database

HEAD = "0001"


def upgrade(database: Database) -> None:
    """Bring the schema to `HEAD`. Does nothing, and loads no alembic, where it is there already.

    Safe with several starts at once: the first one holds the write lock, the others then find nothing to do.
    """
    with database.engine.begin() as connection:
        if _version(connection) == HEAD:
            return
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, HEAD)


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
