"""Clients that submit runs to a server that dies, and go on until they are answered."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import httpx

CLIENTS = 6
_AGAIN = ((409, "idempotency_key_in_flight"), (503, "database_busy"))
"""What says by itself that the same request may be sent again: the second one where the machine has no time for the disk."""


@dataclass
class Load:
    """Submits by several clients. Each goes on until it is acknowledged, as a careful client does: with its key."""

    api: object
    acknowledged: dict[str, str] = field(default_factory=dict)
    unanswered: int = 0
    refused: int = 0
    retried: int = 0
    replayed: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.alive = threading.Event()
        self.enough = threading.Event()
        self.kill_at = 0

    def kill_after(self, acknowledged: int) -> None:
        """`enough` is set once so many are acknowledged, be it now: clients may have gone on while the server was killed."""
        with self._lock:
            self.kill_at = acknowledged
            self.enough.clear()
            if len(self.acknowledged) >= acknowledged:
                self.enough.set()

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
            if (answer.status_code, answer.json().get("error", {}).get("code")) in _AGAIN:
                with self._lock:
                    self.refused += 1
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
