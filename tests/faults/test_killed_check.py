"""The server is killed while it checks large files: each of them ends ready or rejected, and nothing half is ever shown."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import sqlite3
import time

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROWS = 60_000
"""Enough that their check takes longer than a kill."""
DECIDED = {"ready", "rejected"}


@pytest.fixture
def checking(api):
    """An API for which every file but a tiny one is large."""
    api.environment["LUTHIER_INLINE_UPLOAD_BYTES"] = "1000"
    api.up()
    return api


def found(api, dataset_id: str) -> dict:
    return api.ask("GET", f"/api/datasets/{dataset_id}").json()


def half_sent(api, data: bytes) -> str:
    """An upload in parts, of which half has arrived."""
    facts = {"sha256": hashlib.sha256(data).hexdigest(), "name": "parts"}
    told = ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in facts.items())
    begun = api.ask("POST", "/api/uploads", headers={"upload-length": str(len(data)), "upload-metadata": told})
    where = begun.headers["location"]
    sent = part(api, where, data[: len(data) // 2], 0)
    assert sent.status_code == 204
    return where


def part(api, where: str, data: bytes, offset: int):
    headers = {"upload-offset": str(offset), "content-type": "application/offset+octet-stream"}
    return api.ask("PATCH", where, content=data, headers=headers)


def decided(api, ids: list[str]) -> list[dict]:
    """The datasets, when every check has ended."""
    end = time.monotonic() + 120
    while True:
        datasets = [found(api, id_) for id_ in ids]
        if {each["state"] for each in datasets} <= DECIDED:
            return datasets
        assert time.monotonic() < end, api.log()
        time.sleep(0.1)  # another process checks them


def test_a_server_that_is_killed_while_it_checks_goes_on_with_it(checking, rows):
    api, good = checking, rows(ROWS)
    made = [api.upload(data).json() for data in (good, good + b"null\n")]
    assert [each["state"] for each in made] == ["validating", "validating"]
    where = half_sent(api, good)
    api.kill()
    assert "validating" in stored_states(api)
    api.up()
    listed = {each["id"]: each["state"] for each in api.listed("datasets")}
    assert listed.keys() <= {api.dataset, *(each["id"] for each in made)}
    ready, rejected = decided(api, [each["id"] for each in made])
    assert (ready["state"], ready["rows"], ready["sha256"]) == ("ready", ROWS, hashlib.sha256(good).hexdigest())
    assert (rejected["state"], rejected["report"]["counts"]) == ("rejected", {"row_not_object": 1})
    assert {each["id"] for each in api.listed("datasets")} == {api.dataset, ready["id"]}
    nothing_is_left_over(api, {api.dataset, ready["id"], rejected["id"]})

    # What had arrived of the upload in parts is there, and the rest makes a dataset of it.
    assert int(api.ask("HEAD", where).headers["upload-offset"]) == len(good) // 2
    assert part(api, where, good[len(good) // 2 :], len(good) // 2).status_code == 204
    third = api.ask("POST", f"{where}/dataset").json()
    assert decided(api, [third["id"]])[0]["rows"] == ROWS


def stored_states(api) -> set[str]:
    """What a server that is gone has left."""
    with contextlib.closing(sqlite3.connect(api.data / "luthier.db")) as connection:
        return {state for (state,) in connection.execute("SELECT state FROM datasets")}


def nothing_is_left_over(api, dataset_ids: set[str]) -> None:
    """No folder but those of datasets, no file that only stood for another one, nothing in scratch space."""
    assert api.folders("data") == dataset_ids
    end = time.monotonic() + 10
    while scratch := list((api.data / "scratch").glob("*")):
        assert time.monotonic() < end, scratch
        time.sleep(0.1)
    assert not [path for path in (api.data / "users").rglob("*") if path.name.startswith(".") or path.suffix == ".part"]


def test_what_broke_off_is_never_listed_and_swept_in_the_end(checking, rows):
    api, good = checking, rows(3000)
    where = half_sent(api, good)
    assert [each["id"] for each in api.listed("datasets")] == [api.dataset]
    api.kill()
    (folder,) = (api.data / "uploads").glob("*/*")
    long_ago = time.time() - 25 * 3600
    for path in (folder / "bytes", folder):
        os.utime(path, (long_ago, long_ago))
    api.up()
    end = time.monotonic() + 20
    while folder.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert api.ask("HEAD", where).status_code in {404, 410}
    assert [each["id"] for each in api.listed("datasets")] == [api.dataset]
