"""The history of the schema leads to exactly what the stores say."""

import importlib
import io
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import text

import luthier
from luthier.database import Database, Row
from luthier.errors import SetupError
from luthier.migrations import HEAD, config, upgrade


@pytest.fixture
def database(tmp_path):
    database = Database(tmp_path / "luthier.db")
    yield database
    database.close()


def every_store() -> list[str]:
    folder = Path(luthier.__file__).parent
    return [".".join(("luthier", *path.relative_to(folder).with_suffix("").parts)) for path in sorted(folder.rglob("*store.py"))]


def steps() -> list[str]:
    folder = Path(luthier.__file__).parent / "migrations/versions"
    return sorted(path.stem for path in folder.glob("[0-9]*.py"))


def schema(database: Database) -> dict[str, str]:
    with database.engine.begin() as connection:
        return dict(connection.execute(text("SELECT name, sql FROM sqlite_master WHERE sql NOT NULL")).all())


def test_a_fresh_upgrade_equals_the_tables_of_all_stores(database):
    for store in every_store():
        importlib.import_module(store)
    upgrade(database)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, Row.metadata) == []


def test_every_partial_index_is_made_with_its_condition(database):
    for store in every_store():
        importlib.import_module(store)
    upgrade(database)
    made = schema(database)
    assert made["ix_models_one_production"].endswith("WHERE stage = 'Production'")
    for index in (index for table in Row.metadata.tables.values() for index in table.indexes):
        assert (index.dialect_options["sqlite"]["where"] is not None) == ("WHERE" in made[index.name]), index.name


def test_postgresql_gets_the_same_conditions():
    """Without its condition `one_price_now` would be an index that allows one price for ever."""
    for store in every_store():
        importlib.import_module(store)
    script = io.StringIO()
    context = MigrationContext.configure(dialect_name="postgresql", opts={"as_sql": True, "output_buffer": script})
    with Operations.context(context):
        for step in steps():
            importlib.import_module(f"luthier.migrations.versions.{step}").upgrade()
    lines = [line for line in script.getvalue().splitlines() if line.startswith(("CREATE INDEX", "CREATE UNIQUE INDEX"))]
    made = {line.split(" ON ")[0].split()[-1]: line for line in lines}
    partial = [
        index
        for table in Row.metadata.tables.values()
        for index in table.indexes
        if index.dialect_options["sqlite"]["where"] is not None
    ]
    assert len(partial) >= 3
    for index in partial:
        condition = str(index.dialect_options["sqlite"]["where"])
        assert str(index.dialect_options["postgresql"]["where"]) == condition
        assert made[index.name].endswith(f"WHERE {condition};")


def test_accounts_of_before_count_as_confirmed(database):
    with database.engine.begin() as connection:
        command.upgrade(config(connection), "0019")
        connection.execute(text("INSERT INTO users (id, email, created_at) VALUES ('user_x', 'ada@example.org', 0)"))
    upgrade(database)
    with database.engine.connect() as connection:
        assert connection.execute(text("SELECT email, confirmed FROM users")).all() == [("ada@example.org", 1)]


def test_an_upgrade_repeated_does_nothing(database):
    upgrade(database)
    upgrade(database)
    with database.engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == [HEAD]


def test_head_is_the_last_file():
    folder = Path(luthier.__file__).parent / "migrations/versions"
    assert max(path.name[:4] for path in folder.glob("[0-9]*.py")) == HEAD


def test_four_processes_that_start_at_once_make_one_schema(tmp_path):
    script = (
        "import sys, pathlib; from luthier.database import Database; from luthier.migrations import upgrade; "
        "upgrade(Database(pathlib.Path(sys.argv[1])))"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "luthier.db")], stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    errors = [child.communicate(timeout=60)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0, 0, 0], errors


def test_a_start_that_has_nothing_to_migrate_loads_no_alembic(tmp_path, database):
    upgrade(database)
    script = (
        "import sys, pathlib; from luthier.database import Database; from luthier.migrations import upgrade; "
        "upgrade(Database(pathlib.Path(sys.argv[1]))); print('alembic' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "luthier.db")], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_an_upgrade_that_is_cut_off_leaves_nothing_behind(database):
    class CutOffError(Exception):
        pass

    def cut_off() -> None:
        with database.engine.begin() as connection:
            command.upgrade(config(connection), "head")
            raise CutOffError

    with pytest.raises(CutOffError):
        cut_off()
    assert schema(database) == {}
    upgrade(database)
    assert "jobs" in schema(database)


def test_a_database_of_a_newer_version_is_refused(database):
    upgrade(database)
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SetupError, match=r"revision 9999.*newer"):
        upgrade(database)


def test_the_way_back_removes_every_table(database):
    upgrade(database)
    with database.engine.begin() as connection:
        command.downgrade(config(connection), "base")
    # What SQLite itself keeps of autoincrement cannot be dropped.
    assert set(schema(database)) <= {"alembic_version", "sqlite_autoindex_alembic_version_1", "sqlite_sequence"}
