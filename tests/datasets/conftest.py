"""A dataset service on a temporary folder, with the shipped base as the only one."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import luthier
from luthier.accounts.types import Actor, Role
from luthier.backends.storage.local import LocalStorage
from luthier.bases.service import Bases
from luthier.database import Database, Row
from luthier.datasets.service import Datasets
from luthier.datasets.types import Room, Upload

TINY = Path(luthier.__file__).parent / "bases" / "tiny"
START = datetime(2026, 11, 21, tzinfo=UTC)


class World:
    """The service with what it stands on, and a second start of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = Database(folder / "luthier.db")
        Row.metadata.create_all(self.database.engine)
        self.storage = LocalStorage(folder / "data")
        self.ticks = 0
        self.datasets = self.start()

    def start(self, **limits: int) -> Datasets:
        room = Room(
            self.folder / "data" / "scratch", **{"max_upload_bytes": 64 * 2**20, "inline_upload_bytes": 16 * 2**20, **limits}
        )
        return Datasets(self.database, self.storage, Bases(self.folder / "bases"), room, self.now)

    def now(self) -> datetime:
        self.ticks += 1
        return START + timedelta(seconds=self.ticks)

    def files(self) -> list[str]:
        return [name for name in self.storage.names("") if not name.endswith("/lock")]


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.datasets.close()
    world.database.close()


@pytest.fixture
def datasets(world):
    return world.datasets


@pytest.fixture
def alice():
    return Actor("team_a", "user_alice", Role.ADMIN)


@pytest.fixture
def bob():
    return Actor("team_b", "user_bob", Role.ADMIN)


def chat(question: str = "Where is my order?", answer: str = "On its way.", **more) -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **more}


def jsonl(*rows) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def rows(count: int = 12) -> list[dict]:
    return [chat(f"Question {number}?", f"Answer {number}.") for number in range(count)]


def an_upload(data: bytes | None = None, **more) -> Upload:
    return Upload(chunks=[jsonl(*rows()) if data is None else data], **more)
