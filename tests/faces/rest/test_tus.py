"""Uploads in parts over REST: they go on where they broke off, and nothing that is wrong is kept."""

import base64
import hashlib
import os
import time

import pytest

from luthier.datasets import uploads
from luthier.errors import NotFound

from .conftest import GOOD

HALF = len(GOOD) // 2
SHA256 = hashlib.sha256(GOOD).hexdigest()
PART = "application/offset+octet-stream"


def metadata(**given):
    return ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in given.items())


def begin(world, length=None, **given):
    length = len(GOOD) if length is None else length
    headers = {"upload-length": str(length), "upload-metadata": metadata(**{"sha256": SHA256, "name": "parts", **given})}
    return world.ask("POST", "/api/uploads", headers=headers)


def send(world, where, data, offset, **headers):
    return world.ask("PATCH", where, content=data, headers={"upload-offset": str(offset), "content-type": PART, **headers})


def checksum(data):
    return {"upload-checksum": "sha256 " + base64.b64encode(hashlib.sha256(data).digest()).decode()}


def test_an_upload_in_parts_becomes_a_dataset_once(world):
    begun = begin(world)
    where = begun.headers["location"]
    assert (begun.status_code, begun.headers["upload-offset"], begun.headers["tus-resumable"]) == (201, "0", "1.0.0")
    assert world.ask("POST", f"{where}/dataset").json()["error"]["code"] == "wrong_state"
    assert send(world, where, GOOD[:HALF], 0, **checksum(GOOD[:HALF])).headers["upload-offset"] == str(HALF)
    asked = world.ask("HEAD", where)
    assert (asked.status_code, asked.headers["upload-offset"], asked.headers["upload-length"]) == (200, str(HALF), str(len(GOOD)))
    assert begin(world).headers["location"] == where  # announced again: the same upload
    assert begin(world, name="other").headers["location"] != where
    assert world.ask("GET", "/api/datasets").json()["data"] == []
    assert send(world, where, GOOD[HALF:], HALF).status_code == 204
    made = world.ask("POST", f"{where}/dataset")
    assert (made.status_code, made.json()["name"], made.json()["sha256"], made.json()["state"]) == (201, "parts", SHA256, "ready")
    assert made.headers["location"] == f"/api/datasets/{made.json()['id']}"
    assert world.ask("POST", f"{where}/dataset").json()["id"] == made.json()["id"]
    assert len(world.ask("GET", "/api/datasets").json()["data"]) == 1
    assert begin(world).headers["location"] != where  # a new version, if asked for again


def test_bytes_that_do_not_follow_are_refused(world):
    where = begin(world).headers["location"]
    send(world, where, GOOD[:HALF], 0)
    for offset in (0, HALF - 1, HALF + 1):
        refused = send(world, where, GOOD[HALF:], offset)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "offset_mismatch")
        assert refused.json()["error"]["details"] == {"offset": HALF}
    assert send(world, where, GOOD[HALF:] + b"x", HALF).status_code == 413
    assert send(world, where, GOOD[HALF:], HALF, **{"upload-checksum": "sha256 " + "A" * 43 + "="}).status_code == 422
    assert world.ask("HEAD", where).headers["upload-offset"] == str(HALF)
    assert send(world, where, b"x", HALF, **{"content-type": "text/plain"}).status_code == 415
    assert send(world, where, b"x", HALF, **{"upload-checksum": "md5 x"}).status_code == 400
    assert world.ask("PATCH", where, content=b"x", headers={"content-type": PART}).status_code == 422


def test_a_whole_that_is_another_file_is_refused_and_gone(world):
    where = begin(world).headers["location"]
    send(world, where, GOOD[:-3] + b"xx\n", 0)
    refused = world.ask("POST", f"{where}/dataset")
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "checksum_mismatch")
    assert world.ask("HEAD", where).status_code == 404


def test_a_file_with_bad_rows_is_refused_with_its_report(world):
    bad = GOOD + b"null\n"
    where = begin(world, len(bad), sha256=hashlib.sha256(bad).hexdigest()).headers["location"]
    send(world, where, bad, 0)
    refused = world.ask("POST", f"{where}/dataset")
    assert (refused.status_code, refused.json()["error"]["details"]["errors"]) == (422, 1)
    where = begin(world, len(bad), sha256=hashlib.sha256(bad).hexdigest(), drop_bad_rows="true").headers["location"]
    send(world, where, bad, 0)
    assert world.ask("POST", f"{where}/dataset").json()["report"]["dropped_rows"] == 1


def test_what_can_never_be_taken_is_refused_before_its_first_byte(world):
    assert begin(world, world.platform.settings.max_upload_bytes + 1).status_code == 413
    assert begin(world, 2**62).status_code in {413, 422}
    for wrong in ({"sha256": "x"}, {"sha256": ""}, {"name": "a\nb"}, {"drop_bad_rows": "perhaps"}, {"unknown": "x"}):
        assert begin(world, **wrong).status_code == 422
    for length in ("-1", "0", "1e3", ""):
        headers = {"upload-length": length, "upload-metadata": metadata(sha256=SHA256)}
        assert world.ask("POST", "/api/uploads", headers=headers).status_code == 422
    headers = {"upload-length": "5", "upload-metadata": "sha256 ***"}
    assert world.ask("POST", "/api/uploads", headers=headers).status_code == 422
    for number in range(uploads.MOST_UNFINISHED):
        assert begin(world, name=f"n{number}").status_code == 201
    assert begin(world, name="one more").status_code == 429


def test_an_upload_is_seen_by_its_team_alone_and_forgotten_after_a_day(world, tmp_path):
    where = begin(world).headers["location"]
    send(world, where, GOOD[:HALF], 0)
    with pytest.raises(NotFound):
        world.platform.uploads.show(world.stranger, where.rpartition("/")[2])
    (folder,) = (tmp_path / "data" / "uploads").glob("*/*/")
    old = time.time() - uploads.KEPT.total_seconds() - 1
    os.utime(folder / "bytes", (old, old))
    os.utime(folder, (old, old))
    assert world.ask("HEAD", where).status_code == 410
    assert not folder.exists()
    assert world.ask("DELETE", where).status_code == 404


def test_an_upload_that_is_given_up_leaves_nothing(world, tmp_path):
    where = begin(world).headers["location"]
    assert world.ask("DELETE", where).status_code == 204
    assert list((tmp_path / "data" / "uploads").glob("*/*")) == []


def test_what_is_spoken_here_is_told(world):
    told = world.ask("OPTIONS", "/api/uploads")
    assert (told.status_code, told.headers["tus-version"]) == (204, "1.0.0")
    assert told.headers["tus-max-size"] == str(world.platform.settings.max_upload_bytes)


@pytest.mark.parametrize("where", ["/api/uploads/upl_" + "0" * 26, "/api/uploads/..%2f..", "/api/uploads/x"])
def test_an_unknown_upload_is_not_found(world, where):
    assert world.ask("HEAD", where).status_code == 404
    assert send(world, where, b"x", 0).status_code == 404
