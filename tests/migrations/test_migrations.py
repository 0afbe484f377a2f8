"""The history of the schema leads to exactly what the stores say."""

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

import luthier
from luthier.database import Database, Row
from luthier.migrations import HEAD, upgrade


@pytest.fixture
def database(tmp_path):
    database = Database(tmp_path / "luthier.db")
    yield database
    database.close()


def every_store() -> list[str]:
    folder = Path(luthier.__file__).parent
    return [
        f"luthier.{module.name}.store"
        for module in pkgutil.iter_modules([str(folder)])
        if (folder / module.name / "store.py").is_file()
    ]


def test_a_fresh_upgrade_equals_the_tables_of_all_stores(database):
    for store in every_store():
        importlib.import_module(store)
    upgrade(database)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": False})
        assert compare_metadata(context, Row.metadata) == []


def test_the_partial_indexes_that_keep_promises_are_there(database):
    upgrade(database)
    with database.engine.connect() as connection:
        made = "\n".join(
            row[0] for row in connection.execute(text("SELECT sql FROM sqlite_master WHERE type = 'index' AND sql NOT NULL"))
        )
    assert "stage = 'Production'" in made


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
