"""`tune audit`: what is searched for, and how to go on."""

import shlex

import pytest


def test_the_hint_that_there_are_more_is_the_same_search(world, terminal):
    for _ in range(3):
        world.job()
    world.platform.audit.keep()
    given = ("--action", "jobs.submit", "--since", "2020-01-01", "--until", "2099-01-01", "--limit", "1")
    first = terminal("tune", "audit", *given)
    words = shlex.split(first.err.split("There are more: ")[1])
    assert words[:2] == ["tune", "audit"]
    assert set(given) < set(words)
    second = terminal(*words, "--json").json["data"]
    assert [row["action"] for row in second] == ["jobs.submit"]
    assert second[0]["id"] < words[words.index("--after") + 1]


def test_a_row_is_found_by_its_request_and_one_that_has_none_is_explained(world, terminal):
    request = world.ask("POST", "/api/jobs", json={"a": 1}).json()["error"]["request_id"]
    world.platform.audit.keep(everything=True)
    assert [row["request_id"] for row in terminal("tune", "audit", "--request", request, "--json").json["data"]] == [request]
    none = terminal("tune", "audit", "--request", f"req_{'0' * 26}")
    assert (none.code, "equal refusals" in none.err) == (0, True)


def test_a_day_is_its_beginning_in_utc(world, terminal):
    world.job()
    world.platform.audit.keep()
    assert terminal("tune", "audit", "--since", "2099-01-01", "--json").json["data"] == []
    assert terminal("tune", "audit", "--until", "2099-01-01", "--json").json["data"] != []


@pytest.mark.parametrize("wrong", [("--since", "yesterday"), ("--until", "2026-02-30"), ("--request", "job_1")])
def test_what_cannot_be_searched_for_is_a_wrong_use(terminal, wrong):
    assert terminal("tune", "audit", *wrong).code == 2
