"""The gate of a team, by the commands, the SDK below them and REST."""

import pytest


def test_a_gate_is_shown_changed_and_given_back_and_the_audit_log_knows(world, terminal):
    assert "the platform" in terminal("model", "gate").out
    changed = terminal("model", "gate", "set", "--metric", "f1", "--margin", "-0.01", "--json").json
    assert (changed["metric"], changed["margin"], changed["second_person"], changed["own"]) == (
        "f1",
        -0.01,
        False,
        ["metric", "margin"],
    )
    kept = terminal("tune", "model", "gate", "set", "--people", "2", "--margin", "default", "--json").json
    assert kept["own"] == ["metric", "second_person"]
    assert "your team" in terminal("model", "gate").out
    world.platform.audit.keep()
    rows = world.ask("GET", "/api/audit?limit=20").json()["data"]
    assert [row["outcome"] for row in rows if row["route"] == "PUT /api/gate"] == ["changed", "changed"]


@pytest.mark.parametrize("wrong", [("--margin", "much"), ("--people", "3"), ("--metric", "F 1"), ("--margin", "inf"), ()])
def test_what_is_no_gate_is_refused(world, terminal, wrong):
    assert terminal("model", "gate", "set", *wrong).code != 0
    assert world.ask("PUT", "/api/gate", json={"margin": 0.1, "other": 1}).status_code == 422
    assert world.ask("GET", "/api/gate").json()["own"] == []
