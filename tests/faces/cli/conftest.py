"""The three commands, run in this process against a real server on loopback, or one that says what a test tells it to."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import sys
import threading
from dataclasses import dataclass

import pytest
import uvicorn

from ..rest.conftest import World
from ..sdk.conftest import FakeServer

JOB = "job_01kagz3vqdfyxtqn4w5b9zn8r2"
DATASET = "ds_01kagz3vqdfyxtqn4w5b9zn8r2"
MODEL = "model_01kagz3vqdfyxtqn4w5b9zn8r2"


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


class Terminal:
    """`terminal("tune", "list")`: the exit status and what was printed. Neither input nor output is a TTY."""

    def __init__(self, monkeypatch, capsys, folder) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.folder = folder

    def point_to(self, url: str, key: str | None = "lk_test") -> None:
        self._monkeypatch.setenv("LUTHIER_API_URL", url)
        if key is None:
            self._monkeypatch.delenv("LUTHIER_API_KEY", raising=False)
        else:
            self._monkeypatch.setenv("LUTHIER_API_KEY", key)

    def __call__(self, command: str, *arguments: str, typed: bytes = b"") -> Ended:
        self._monkeypatch.setattr(sys, "argv", [command, *arguments])
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed)))
        self._capsys.readouterr()
        try:
            importlib.import_module(f"luthier.faces.cli.{command}").main()
            code = 0
        except SystemExit as ending:
            code = ending.code if isinstance(ending.code, int) else 1
        seen = self._capsys.readouterr()
        return Ended(code, seen.out, seen.err)


@pytest.fixture
def terminal(monkeypatch, capsys, tmp_path) -> Terminal:
    for name in [name for name in os.environ if name.startswith("LUTHIER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LUTHIER_LOGIN_PATH", str(tmp_path / "login.json"))
    monkeypatch.chdir(tmp_path)
    return Terminal(monkeypatch, capsys, tmp_path)


@pytest.fixture
def fake(terminal):
    server = FakeServer()
    terminal.point_to(server.url)
    yield server
    server.close()


@pytest.fixture
def world(tmp_path, terminal):
    """The real REST app on a real socket."""
    with serving(World(tmp_path / "data"), terminal) as world:
        yield world


@contextlib.contextmanager
def serving(world, terminal):
    """`world` on a socket, and the terminal pointed to it."""
    server = uvicorn.Server(uvicorn.Config(world.app, port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        thread.join(0.01)
        assert thread.is_alive()
    port = server.servers[0].sockets[0].getsockname()[1]
    terminal.point_to(f"http://127.0.0.1:{port}", world.key)
    yield world
    server.should_exit = True
    thread.join()
    world.platform.close()


@pytest.fixture
def rows(tmp_path):
    """A small good dataset file."""
    path = tmp_path / "rows.jsonl"
    lines = [{"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}]} for n in range(12)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
