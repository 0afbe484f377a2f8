"""The server is killed before it has sealed: no row of an answered request is lost, and the chain goes on (P19)."""

from __future__ import annotations

import random
import sqlite3
import time

import pytest

from luthier.accounts.audit_types import Wanted
from luthier.settings import Settings
from luthier.wiring import build

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LIVES = 4


def test_a_server_that_is_killed_before_it_seals_loses_no_row(api):
    choice = random.Random(7)
    asked = {}
    for life in range(LIVES):
        api.up()
        for number in range(choice.randint(3, 12)):
            answer = api.submit(f"key-{life}-{number}", name="numbers")
            asked[answer.headers["x-request-id"]] = answer.json()["job"]["id"]
        estimate = api.ask("POST", "/api/jobs/estimate", json={"base_model": "luthier/tiny", "dataset": api.dataset})
        asked[estimate.headers["x-request-id"]] = None
        api.kill()
    with sqlite3.connect(api.data / "luthier.db") as connection:
        assert connection.execute("SELECT count(*) FROM audit WHERE seq IS NULL").fetchone()[0] > 0
    api.up()
    end = time.monotonic() + 5
    while unsealed(api) and time.monotonic() < end:
        time.sleep(0.1)  # another process seals: there is nothing to step forward but real time
    assert unsealed(api) == 0
    api.kill()
    platform = build(Settings(data=api.data))
    try:
        actor = platform.accounts.authenticate(api.key)
        rows = platform.audit.list(actor, Wanted(), limit=200).data
        assert {row.request_id for row in rows} >= set(asked)
        assert all(row.resources[0] == asked[row.request_id] for row in rows if asked.get(row.request_id))
        assert len([row for row in rows if row.request_id in asked]) == len(asked)
        assert platform.audit.verify().faults == []
    finally:
        platform.close()


def unsealed(api):
    with sqlite3.connect(api.data / "luthier.db") as connection:
        return connection.execute("SELECT count(*) FROM audit WHERE seq IS NULL").fetchone()[0]
