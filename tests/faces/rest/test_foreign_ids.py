"""How long an answer takes tells nobody whether another team has what they ask for (P15)."""

from __future__ import annotations

import random
import time
from statistics import median

import pytest

from .conftest import World
from .id_fields import answered, cases, request_for, unknown_like, values_of, without
from .neighbours import settle

TIMES = 200
WIDEST_MS = 5.0
ROUTES = (
    ("GET /api/jobs/{job_id}", "job_id"),
    ("GET /api/datasets/{dataset_id}", "dataset_id"),
    ("GET /api/models/{model_id}", "model_id"),
    ("GET /api/webhooks/{webhook_id}/deliveries", "webhook_id"),
    ("POST /api/jobs/{job_id}/cancel", "job_id"),
    ("POST /api/jobs", "dataset"),
    ("POST /api/chat", "model"),
    ("DELETE /api/keys/{key_id}", "key_id"),
    ("DELETE /api/invitations/{invitation_id}", "invitation_id"),
    ("GET /models/{model_id}/download", "model_id"),
    ("GET /billing/job/{job_id}/cost", "job_id"),
    ("POST /models/transition", "model"),
    ("GET /v1/files/{file_id}", "file_id"),
    ("GET /v1/fine_tuning/jobs/{job_id}", "job_id"),
    ("POST /v1/chat/completions", "model"),
)
"""Of the native paths, of the first documents', and under `/v1`."""


@pytest.fixture
def town(tmp_path):
    plenty = "1000000/minute"
    world = World(tmp_path / "data", limit_address=plenty)
    world.build_base()
    world.a, world.b = settle(world, "a"), settle(world, "b")
    yield world
    world.platform.close()


def questions(town):
    """For each route: what it is called, and (foreign, unknown) requests that differ by their id alone."""
    found = {(name, field): (operation, place, kind) for name, operation, place, field, kind in cases(town)}
    for name, field in ROUTES:
        operation, place, kind = found[name, field]
        foreign = values_of(kind, town.b.own)[0]
        values = (foreign, unknown_like(kind, foreign))
        yield name, [(value, request_for(name, operation, place, field, value, town.a.own)) for value in values]


def gaps(town, times, choice):
    """By route: by how many milliseconds the two medians differ, and the median of what nobody has."""
    found = {}
    for name, (foreign, unknown) in questions(town):
        took, said = ([], []), set()
        for which in choice.sample([0, 1] * times, 2 * times):
            value, request = (foreign, unknown)[which]
            began = time.perf_counter()
            status, body, _ = answered(town, town.a.keys["admin"], request)
            took[which].append((time.perf_counter() - began) * 1000)
            said.add((status, without(body, value)))
        assert {status for status, _ in said} == {404}, (name, said)
        assert len(said) == 1, (name, said)
        theirs, nobodys = map(median, took)
        found[name] = (abs(theirs - nobodys), nobodys)
    return found


@pytest.mark.prove
@pytest.mark.timeout(1500)
def test_p15_what_is_another_teams_takes_as_long_as_what_nobody_has(town, record):
    found = gaps(town, TIMES, random.Random(15))
    assert {name: gap for name, (gap, _) in found.items() if gap >= WIDEST_MS} == {}
    widest = max(found, key=lambda name: found[name][0])
    record(
        "foreign-ids",
        "Another team's id takes as long as one that nobody has",
        {
            "routes, native, of the first documents and under `/v1`": len(ROUTES),
            "requests for each, half of them with another team's id, in random order": 2 * TIMES,
            "answers that differ": 0,
            f"widest gap between the medians, ms (promised: below {WIDEST_MS:.0f}); `{widest}`": f"{found[widest][0]:.3f}",
            "median of the gaps, ms": f"{median(gap for gap, _ in found.values()):.3f}",
            **{f"`{name}`: gap, ms (an unknown id took {took:.1f})": f"{gap:.3f}" for name, (gap, took) in found.items()},
        },
    )
