"""What one `luthier up` on SQLite answers: submits, status polls, pages of a long list, and all of that while people log in.

    python benchmarks/load.py [--seconds 20] [--only submit] [--keep]

Requests arrive when they are due (`arrivals.py`); their latency counts from then. The server runs with its defaults on an empty
folder, over loopback, its supervisor too; only its limit of 1,500 requests a second is lifted, which would end `most_per_s`. What
is submitted trains nowhere, and lies on the disk that `--folder` is on. `cores` are those of the API process, of its children and
of this client, which takes its share of the same machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import facts
import httpx
import psutil
from arrivals import Ask, arrive, most_per_s
from upload import server

from luthier import ids
from luthier.datasets.types import Upload
from luthier.server.first import first_start
from luthier.settings import Settings
from luthier.wiring import build

RESULTS = Path(__file__).parent / "results"
JOBS, PAGE, _PIECE = 100_000, 50, 5_000
EMAIL, PASSWORD = "load@example.com", "a long enough pass phrase 7"
SUBMITS_PER_S, POLLS_PER_S, PAGES_PER_S, LOGINS_PER_S = 50.0, 800.0, 20.0, 5.0
GOALS_MS = {"submit": 120, "page_1": 50, "page_2000": 50}


@dataclass(frozen=True)
class Place:
    """A running server, and what is asked of it."""

    data: Path
    address: tuple[str, int]
    key: str
    dataset: str

    @property
    def url(self) -> str:
        return f"http://{self.address[0]}:{self.address[1]}"

    def get(self, path: str, **headers: str) -> Ask:
        return Ask("GET", path, (("x-api-key", self.key), *headers.items()))

    def post(self, path: str, body: dict[str, Any], **headers: str) -> Ask:
        heads = (("x-api-key", self.key), ("content-type", "application/json"), *headers.items())
        return Ask("POST", path, heads, json.dumps(body).encode())

    def spec(self, name: str) -> dict[str, str]:
        return {"base_model": "luthier/tiny", "dataset": self.dataset, "name": name}


def prepare(data: Path) -> str:
    """An admin, somebody with a password, a dataset, and a queue that nobody here takes from. Returns the dataset's id."""
    platform = build(Settings(data=data))
    first_start(platform)
    admin = platform.accounts.authenticate((data / "admin.key").read_text("utf-8").strip())
    rows = [b'{"prompt": "What is number %d?", "completion": "It is %d."}\n' % (n, n) for n in range(40)]
    dataset = platform.datasets.upload(admin, Upload(rows, name="numbers"))
    platform.accounts.users.add(EMAIL, PASSWORD)
    platform.close()
    with contextlib.closing(sqlite3.connect(data / "luthier.db")) as connection:
        connection.execute(
            "CREATE TRIGGER nobody_here AFTER INSERT ON jobs BEGIN UPDATE jobs SET hardware = 'elsewhere' WHERE id = new.id; END"
        )
    return dataset.id


def fill(data: Path, template: str, count: int) -> list[str]:
    """So many more jobs like this one, all finished. Returns their ids, newest first."""
    began = time.time_ns() // 1_000_000 - 10 * count
    made = [ids.new(ids.JOB, at_ms=began + 10 * number) for number in range(count)]
    with contextlib.closing(sqlite3.connect(data / "luthier.db", timeout=30)) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(jobs)") if row[1] not in ("id", "state")]
        names = ", ".join(columns)
        copy = f"INSERT INTO jobs (id, state, {names}) SELECT ?, 'cancelled', {names} FROM jobs WHERE id = ?"
        for first in range(0, count, _PIECE):
            with connection:  # in pieces: the supervisor starts beside it, and waits for no writer that long
                connection.executemany(copy, [(job_id, template) for job_id in made[first : first + _PIECE]])
        # Else the first who writes would carry hundreds of megabytes from the log into the file.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return made[::-1]


def fsync_ms(folder: Path) -> dict[str, float]:
    """How long this disk takes to keep 4 KB, as each submit has it do."""
    times: list[float] = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(300):
            file.write(os.urandom(4096))
            began = time.perf_counter()
            os.fsync(file.fileno())
            times.append((time.perf_counter() - began) * 1000)
    times.sort()
    return {"p50": round(times[150], 2), "p95": round(times[285], 2)}


def submits(place: Place, seconds: float) -> dict[str, Any]:
    """Durable when answered."""
    tag = ids.new(ids.REQUEST)
    return arrive(
        place.address,
        SUBMITS_PER_S,
        seconds,
        lambda number: place.post("/api/jobs", place.spec(f"run-{number}"), **{"idempotency-key": f"{tag}-{number}"}),
    ).figures()


def polls(place: Place, seconds: float, job_ids: list[str]) -> dict[str, Any]:
    """Clients that know the state and ask whether it changed: `304`, by the tag of the answer before."""
    tags: dict[str, str] = {}
    with httpx.Client(base_url=place.url, headers={"x-api-key": place.key}, trust_env=False) as client:
        for job_id in job_ids:
            tags[job_id] = client.get(f"/api/jobs/{job_id}").headers["etag"]

    def poll(number: int) -> Ask:
        job_id = job_ids[number % len(job_ids)]
        return place.get(f"/api/jobs/{job_id}", **{"if-none-match": tags[job_id]})

    return {**arrive(place.address, POLLS_PER_S, seconds, poll).figures(), "most_per_s": most_per_s(place.address, 5, 16, poll)}


def pages(place: Place, seconds: float, path: str) -> dict[str, Any]:
    return arrive(place.address, PAGES_PER_S, seconds, lambda _: place.get(path)).figures()


@contextlib.contextmanager
def logging_in(place: Place, seconds: float) -> Iterator[list[dict[str, Any]]]:
    """Logins all the while, from a thread with a loop of its own."""
    found: list[dict[str, Any]] = []
    body = {"email": EMAIL, "password": PASSWORD}

    def run() -> None:
        found.append(arrive(place.address, LOGINS_PER_S, seconds, lambda _: place.post("/auth/login", body)).figures())

    thread = threading.Thread(target=run)
    thread.start()
    yield found
    thread.join()


class Cores:
    """How many cores were busy, from now on."""

    def __init__(self, server: psutil.Process) -> None:
        self._processes = {"server": [server], "children": server.children(recursive=True), "client": [psutil.Process()]}
        self._before, self._began = self._seconds(), time.monotonic()

    def taken(self) -> dict[str, float]:
        passed, now = time.monotonic() - self._began, self._seconds()
        return {who: round((now[who] - before) / passed, 2) for who, before in self._before.items()}

    def _seconds(self) -> dict[str, float]:
        return {
            who: sum(sum(process.cpu_times()[:2]) for process in processes if process.is_running())
            for who, processes in self._processes.items()
        }


def measured(server: psutil.Process, place: Place, seconds: float, only: str | None) -> dict[str, Any]:
    """All of it, in turn, on one server."""
    with httpx.Client(base_url=place.url, headers={"x-api-key": place.key}, trust_env=False) as client:
        first = client.post("/api/jobs", json=place.spec("first")).json()["job"]["id"]
    made = fill(place.data, first, JOBS)
    last_of_1999 = made[1999 * PAGE - 1]
    asked: dict[str, Callable[[], dict[str, Any]]] = {
        "submit": lambda: submits(place, seconds),
        "status": lambda: polls(place, seconds, made[:200]),
        "page_1": lambda: pages(place, seconds, f"/api/jobs?limit={PAGE}"),
        "page_2000": lambda: pages(place, seconds, f"/api/jobs?limit={PAGE}&after={last_of_1999}"),
        "status_alone": lambda: quiet_polls(place, seconds, made[:200]),
        "status_while_logins": lambda: polls_while_logins(place, seconds, made[:200]),
    }
    found: dict[str, Any] = {}
    for name, measure in asked.items():
        if only in (None, name):
            before, cores = fsync_ms(place.data), Cores(server)
            found[name] = {**measure(), "cores": cores.taken(), "fsync_ms": before}
            print(json.dumps({name: found[name]}), flush=True)
            time.sleep(1)
    return found


def quiet_polls(place: Place, seconds: float, job_ids: list[str]) -> dict[str, Any]:
    """A quarter of the polls, for comparison with the next."""
    return arrive(
        place.address, POLLS_PER_S / 4, seconds, lambda number: place.get(f"/api/jobs/{job_ids[number % 200]}")
    ).figures()


def polls_while_logins(place: Place, seconds: float, job_ids: list[str]) -> dict[str, Any]:
    """The same while 5 passwords a second are hashed (argon2id)."""
    with logging_in(place, seconds) as logins:
        found = quiet_polls(place, seconds, job_ids)
    return {**found, "logins": logins[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--only")
    parser.add_argument("--folder", type=Path, help="On the disk that is meant; a temporary folder by default.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        data = Path(folder) / "data"
        dataset = prepare(data)
        with server(data, LUTHIER_LIMIT_REQUESTS="") as process:
            url = httpx.URL(json.loads((data / "server.json").read_text())["url"])
            place = Place(data, (url.host, url.port or 80), (data / "admin.key").read_text().strip(), dataset)
            found = measured(process, place, options.seconds, options.only)
    record = {"at": f"{datetime.now(UTC):%Y-%m-%d}", "machine": facts.machine(), "seconds": options.seconds, "asked": found}
    if options.only is None:
        target = RESULTS / facts.machine_name() / f"load-{record['at']}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
