"""The server is killed again and again while runs are submitted: what it acknowledged is there, once (P1, P2)."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5000)]

CLIENTS = 6


@dataclass
class Load:
    """Submits by several clients. Each goes on until it is acknowledged, as a careful client does: with its key."""

    api: object
    acknowledged: dict[str, str] = field(default_factory=dict)
    unanswered: int = 0
    retried: int = 0
    replayed: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.alive = threading.Event()
        self.enough = threading.Event()
        self.kill_at = 0

    def submit(self, number: int) -> None:
        key = f"key-{number}"
        self._send(key, first=True)
        if number % 10 == 0:  # once more, though it was acknowledged: the same job
            self._send(key, first=False)

    def _send(self, key: str, *, first: bool) -> None:
        while True:
            self.alive.wait()
            try:
                answer = self.api.submit(key, name=key)
            except httpx.TransportError:
                with self._lock:
                    self.unanswered += 1
                continue
            if answer.status_code == 409 and answer.json()["error"]["code"] == "idempotency_key_in_flight":
                continue
            self._answered(key, answer, first=first)
            return

    def _answered(self, key: str, answer: httpx.Response, *, first: bool) -> None:
        assert answer.status_code == 201, answer.text
        job_id = answer.json()["job"]["id"]
        with self._lock:
            assert self.acknowledged.setdefault(key, job_id) == job_id
            self.replayed += answer.headers.get("idempotent-replayed") == "true"
            self.retried += not first
            if len(self.acknowledged) >= self.kill_at:
                self.enough.set()


def kill_while_loaded(api, submits: int, lives: tuple[int, int]) -> tuple[Load, int]:
    """Submit, and kill the server each time that so many more (a seeded choice) were acknowledged. Returns also the kills."""
    load, kills, choice = Load(api), 0, random.Random(11)
    api.up()
    load.alive.set()
    with ThreadPoolExecutor(CLIENTS) as clients:
        sent = [clients.submit(load.submit, number) for number in range(submits)]
        while load.kill_at < submits:
            load.kill_at = min(submits, len(load.acknowledged) + choice.randint(*lives))
            while not load.enough.wait(0.5):
                _raise_first(sent)
            load.enough.clear()
            if load.kill_at < submits:
                load.alive.clear()
                api.kill()
                kills += 1
                api.up()
                load.alive.set()
        for each in sent:
            each.result()
    return load, kills


def _raise_first(sent) -> None:
    for each in sent:
        if each.done() and each.exception() is not None:
            raise each.exception()


def check_nothing_lost(api, load: Load, submits: int) -> int:
    """Each acknowledged run exists once, under its own name, with its folder. Returns how many folders have no run."""
    jobs = api.listed("jobs")
    by_id = {job["id"]: job["name"] for job in jobs}
    assert len(load.acknowledged) == submits
    assert len(jobs) == len(by_id) == submits
    assert {job_id: key for key, job_id in load.acknowledged.items()} == by_id
    folders = api.folders("jobs")
    assert by_id.keys() <= folders
    assert all(list(api.data.glob(f"users/*/jobs/{job_id}/run.yaml")) for job_id in by_id)
    return len(folders) - len(by_id)


def test_p1_no_acknowledged_submit_is_lost_and_none_is_there_twice(api):
    load, kills = kill_while_loaded(api, 120, (25, 45))
    assert kills >= 2
    check_nothing_lost(api, load, 120)
    assert load.replayed >= load.retried > 0


@pytest.mark.prove
def test_p1_ten_thousand_submits(api, record):
    load, kills = kill_while_loaded(api, 10_000, (30, 150))
    litter = check_nothing_lost(api, load, 10_000)
    record(
        "ten-thousand-submits",
        "Ten thousand submits to a server that is killed all the time",
        {
            "submits acknowledged": len(load.acknowledged),
            "clients at a time": CLIENTS,
            "kills (SIGKILL) of the server under load": kills,
            "requests that got no answer, and were sent again with their key": load.unanswered,
            "sent again although acknowledged": load.retried,
            "answers that said that they were replays": load.replayed,
            "acknowledged and lost": 0,
            "there twice": 0,
            "folders without a run (a kill between the two; litter, never a run)": litter,
        },
    )
