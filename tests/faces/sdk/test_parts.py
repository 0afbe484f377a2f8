"""Large files over real HTTP: connections that are cut half way, a server that is started again, two senders at once."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from contextlib import suppress
from itertools import pairwise

import pytest
import uvicorn

from luthier import Client, wiring
from luthier.errors import Invalid
from luthier.faces.rest.app import create_app
from luthier.faces.sdk import parts
from luthier.faces.sdk.transport import Retry
from luthier.settings import Settings


class Server:
    """The platform on loopback, and a way to end it and to start another one on the same folder and port."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.platform = wiring.build(Settings(data=folder))
        self.key = self.platform.accounts.first_start()
        self._run()

    def _run(self) -> None:
        config = uvicorn.Config(create_app(self.platform), log_level="error", lifespan="off", timeout_graceful_shutdown=1)
        self.uvicorn = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.uvicorn.run, kwargs={"sockets": [self.listener]})
        self.thread.start()

    def stop(self) -> None:
        self.uvicorn.should_exit = True
        self.thread.join()
        self.platform.close()

    def again(self) -> None:
        self.stop()
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.platform = wiring.build(Settings(data=self.folder))
        self._run()

    @property
    def arrived(self) -> int:
        return sum(path.stat().st_size for path in (self.folder / "uploads").glob("*/*/bytes"))


class Cutting:
    """A way to the server that cuts each connection after so many bytes, as often as it is told to."""

    def __init__(self, port: int, after: int, times: int) -> None:
        self.port, self.after, self.times, self.cuts = port, after, times, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self.listener.accept()
            except OSError:
                return
            there = socket.create_connection(("127.0.0.1", self.port))
            threading.Thread(target=self._pump, args=(there, here, None), daemon=True).start()
            threading.Thread(target=self._pump, args=(here, there, self.after), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, most: int | None) -> None:
        passed = 0
        try:
            while data := source.recv(65536):
                passed += len(data)
                target.sendall(data)
                if most is not None and passed > most and self.cuts < self.times:
                    self.cuts += 1
                    break
        except OSError:
            pass
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path / "data")
    yield server
    server.stop()


@pytest.fixture
def file(tmp_path):
    """A little above the size from which files go in parts."""
    path = tmp_path / "large.jsonl"
    with path.open("w") as lines:
        for number in range(5000):
            chat = [{"role": "user", "content": f"{number} {'x' * 3500}"}, {"role": "assistant", "content": f"{number}"}]
            lines.write(json.dumps({"messages": chat}) + "\n")
    assert path.stat().st_size > parts.FROM_BYTES
    return path


def client_of(server, url=None, attempts=30):
    retry = Retry(first_s=0.01, most_s=0.05, follow_attempts=attempts)
    return Client(api_key=server.key, base_url=url or f"http://127.0.0.1:{server.port}", retry=retry)


def test_a_connection_that_is_cut_goes_on_where_it_ended(server, file):
    way = Cutting(server.port, 4 * 2**20, times=3)
    seen = []
    with client_of(server, way.url) as client:
        dataset = client.datasets.upload(file, on_progress=lambda done, total: seen.append((done, total)))
    assert (way.cuts, dataset.sha256) == (3, hashlib.sha256(file.read_bytes()).hexdigest())
    assert seen[-1] == (file.stat().st_size, file.stat().st_size)
    sent_again = sum(later <= before for (before, _), (later, _) in pairwise(seen))
    assert sent_again <= 3 * 12  # a few MiB in flight each time, never all of it
    assert server.arrived == 0
    way.listener.close()


def test_a_second_call_goes_on_after_the_first_gave_up_and_the_server_was_started_again(server, file):
    way = Cutting(server.port, 6 * 2**20, times=1000)
    with client_of(server, way.url, attempts=0) as client, pytest.raises(Exception, match="connection"):
        client.datasets.upload(file, name="twice")
    deadline = time.monotonic() + 10
    while (there := server.arrived) < 4 * 2**20 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert 4 * 2**20 <= there < file.stat().st_size
    server.again()
    seen = []
    with client_of(server) as client:
        assert list(client.datasets.each()) == []  # an unfinished upload shows in no list
        dataset = client.datasets.upload(file, name="twice", on_progress=lambda done, _: seen.append(done))
    assert seen[0] > there  # it began behind what was there
    assert (dataset.version, dataset.sha256) == (1, hashlib.sha256(file.read_bytes()).hexdigest())
    way.listener.close()


def test_two_senders_of_one_file_mix_nothing(server, file):
    made = []

    def send():
        with client_of(server, attempts=1000) as client:
            made.append(client.datasets.upload(file, name="both"))

    senders = [threading.Thread(target=send) for _ in range(2)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert {each.sha256 for each in made} == {hashlib.sha256(file.read_bytes()).hexdigest()}


def test_a_file_that_changes_on_the_way_is_refused(server, file):
    def change(done, _total):
        if done < 2**21:
            with file.open("r+b") as lines:
                lines.seek(file.stat().st_size - 100)
                lines.write(b"y")

    with client_of(server) as client, pytest.raises(Invalid) as refused:
        client.datasets.upload(file, on_progress=change)
    assert refused.value.error_code == "checksum_mismatch"
    assert server.arrived == 0
