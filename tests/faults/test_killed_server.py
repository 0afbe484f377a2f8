"""The server is killed again and again while runs are submitted: what it acknowledged is there, once (P1, P2)."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from .submitting import CLIENTS, Load, check_nothing_lost

pytestmark = pytest.mark.slow


def kill_while_loaded(api, submits: int, lives: tuple[int, int]) -> tuple[Load, int]:
    """Submit, and kill the server each time that so many more (a seeded choice) were acknowledged. Returns also the kills."""
    load, kills, choice = Load(api), 0, random.Random(11)
    api.up()
    load.alive.set()
    with ThreadPoolExecutor(CLIENTS) as clients:
        sent = [clients.submit(load.submit, number) for number in range(submits)]
        while load.kill_at < submits:
            load.kill_after(min(submits, len(load.acknowledged) + choice.randint(*lives)))
            while not load.enough.wait(0.5):
                _raise_first(sent)
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


def test_p1_no_acknowledged_submit_is_lost_and_none_is_there_twice(api):
    load, kills = kill_while_loaded(api, 120, (25, 45))
    assert kills >= 2
    check_nothing_lost(api, load, 120)
    assert load.replayed >= load.retried > 0


@pytest.mark.prove
@pytest.mark.timeout(5000)
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
