import hashlib
import io
import os
import threading

import pytest

from luthier import errors
from luthier.errors import ArtifactCorrupt, ClientError, Invalid

from .conftest import MODEL, Reply, as_json, refused

DATA = b'{"prompt": "a", "completion": "b"}\n' * 60_000  # more than one chunk of a megabyte
SHA = hashlib.sha256(DATA).hexdigest()
FILES = f"GET /api/models/{MODEL}/files"
WEIGHTS = f"GET /api/models/{MODEL}/files/adapter_model.safetensors"


def listed(name: str = "adapter_model.safetensors", data: bytes = DATA, sha256: str | None = None) -> Reply:
    return as_json([{"name": name, "bytes": len(data), "sha256": sha256 or hashlib.sha256(data).hexdigest()}])


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "my rows.jsonl"
    path.write_bytes(DATA)
    return path


def test_an_upload_streams_the_file_with_its_size_its_hash_and_progress(server, client, rows):
    server.say("POST /api/datasets", as_json({"id": "ds_1", "state": "ready", "sha256": SHA}, 201))
    seen: list[tuple[int, int | None]] = []
    assert client.datasets.upload(rows, on_progress=lambda *step: seen.append(step)).id == "ds_1"
    asked = server.asked[0]
    assert asked.query == {"name": "my rows", "sha256": SHA}
    assert asked.headers["content-length"] == str(len(DATA))
    assert asked.body == DATA
    assert seen == [(1024 * 1024, len(DATA)), (2 * 1024 * 1024, len(DATA)), (len(DATA), len(DATA))]


def test_an_upload_that_changed_nothing_is_sent_again_whole(server, client, rows):
    server.say("POST /api/datasets", refused(503, "unavailable"), as_json({"id": "ds_1", "sha256": SHA}))
    client.datasets.upload(rows, name="mine")
    assert [asked.body == DATA for asked in server.asked] == [True, True]


def test_an_upload_whose_answer_was_lost_is_sent_again_with_the_same_key(server, client, rows):
    server.say("POST /api/datasets", Reply(deaf=True), as_json({"id": "ds_1", "sha256": SHA}, 201))
    assert client.datasets.upload(rows).id == "ds_1"
    assert len({asked.headers["idempotency-key"] for asked in server.asked}) == 1
    client.datasets.upload(rows, idempotency_key="mine")
    assert server.asked[2].headers["idempotency-key"] == "mine"


def test_a_stream_whose_answer_was_lost_is_not_sent_twice(server, client):
    server.say("POST /api/datasets", Reply(deaf=True))
    with pytest.raises(ClientError, match="broke off"):
        client.datasets.upload(io.BytesIO(DATA), name="piped")
    assert len(server.asked) == 1


def test_refused_rows_come_back_with_their_findings(server, client, rows):
    findings = [{"line": 3, "code": "json_syntax", "message": "No.", "fix": "Mend it."}]
    server.say("POST /api/datasets", refused(422, "json_syntax", "1 error.", details=findings))
    with pytest.raises(Invalid) as caught:
        client.datasets.upload(rows)
    assert caught.value.details == findings


def test_a_stream_is_sent_once_and_checked_against_the_answer(server, client):
    server.say("POST /api/datasets", as_json({"id": "ds_1", "sha256": SHA}))
    stream = io.BytesIO(DATA)
    client.datasets.upload(stream, name="piped")
    assert server.asked[0].body == DATA
    assert server.asked[0].query == {"name": "piped"}
    assert not stream.closed
    server.say("POST /api/datasets", as_json({"id": "ds_2", "sha256": "0" * 64}))
    with pytest.raises(ClientError, match="other bytes"):
        client.datasets.upload(io.BytesIO(DATA), name="piped")
    server.say("POST /api/datasets", refused(503, "unavailable"))
    with pytest.raises(errors.Unavailable):
        client.datasets.upload(io.BytesIO(DATA), name="piped")
    assert len(server.asked) == 3


def test_a_fifo_can_be_uploaded(server, client, tmp_path):
    server.say("POST /api/datasets", as_json({"id": "ds_1", "sha256": SHA}))
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes(DATA))
    writer.start()
    client.datasets.upload(fifo)
    writer.join()
    assert server.asked[0].body == DATA
    assert "sha256" not in server.asked[0].query


@pytest.mark.parametrize("change", [b"one more row", None])
def test_a_file_that_grows_or_shrinks_meanwhile_is_refused(server, client, rows, change):
    server.say("POST /api/datasets", as_json({"id": "ds_1"}))

    def meddle(done: int, total: int | None) -> None:
        if done == 1024 * 1024:
            with rows.open("r+b") as file:
                file.truncate(done + 5) if change is None else rows.write_bytes(DATA + change)

    with pytest.raises(ClientError, match="changed while"):
        client.datasets.upload(rows, on_progress=meddle)


def test_a_folder_or_a_missing_file_is_told_before_anything_is_sent(server, client, tmp_path):
    with pytest.raises(ClientError, match="folder"):
        client.datasets.upload(tmp_path)
    with pytest.raises(ClientError, match="cannot be read"):
        client.datasets.upload(tmp_path / "missing.jsonl")
    assert server.asked == []


def test_waiting_for_a_dataset_ends_when_it_is_validated(server, client, pauses):
    states = [as_json({"id": "ds_1", "state": state}) for state in ("validating", "validating", "ready")]
    server.say("GET /api/datasets/ds_1", *states)
    assert client.datasets.wait("ds_1", poll_s=2).state == "ready"
    assert pauses == [2, 2]


def test_a_dataset_can_be_downloaded(server, client, tmp_path):
    server.say("GET /api/datasets/ds_1", as_json({"id": "ds_1", "bytes": len(DATA), "sha256": SHA}))
    server.say("GET /api/datasets/ds_1/download", Reply(body=DATA))
    assert client.datasets.download("ds_1", tmp_path / "back.jsonl").read_bytes() == DATA


def test_a_model_download_that_breaks_is_taken_up_by_range_and_named_only_when_whole(server, client, tmp_path):
    server.say(FILES, listed())
    rest = {"content-range": f"bytes 1000-{len(DATA) - 1}/{len(DATA)}"}
    server.say(WEIGHTS, Reply(body=DATA[:1000], cut=len(DATA) - 1000), Reply(206, DATA[1000:], rest))
    steps: list[tuple[str, int, int | None]] = []
    (path,) = client.models.download(MODEL, tmp_path / "out", on_progress=lambda *step: steps.append(step))
    assert path.read_bytes() == DATA
    assert [asked.headers.get("range") for asked in server.asked[1:]] == [None, "bytes=1000-"]
    assert [entry.name for entry in path.parent.iterdir()] == ["adapter_model.safetensors"]
    assert steps[-1] == ("adapter_model.safetensors", len(DATA), len(DATA))
    client.models.download(MODEL, tmp_path / "out")
    assert [asked.path for asked in server.asked[3:]] == [f"/api/models/{MODEL}/files"]


def test_a_later_call_goes_on_with_the_part_that_lies_there(server, client, tmp_path):
    (tmp_path / "adapter_model.safetensors.part").write_bytes(DATA[:500])
    server.say(FILES, listed())
    server.say(WEIGHTS, Reply(206, DATA[500:], {"content-range": f"bytes 500-{len(DATA) - 1}/{len(DATA)}"}))
    (path,) = client.models.download(MODEL, tmp_path)
    assert path.read_bytes() == DATA


@pytest.mark.parametrize("part", [b"x" * 500, b"x" * (len(DATA) + 1), b"x" * len(DATA)])
def test_a_part_of_something_else_is_thrown_away(server, client, tmp_path, part):
    (tmp_path / "adapter_model.safetensors.part").write_bytes(part)
    server.say(FILES, listed())
    # A server without ranges: the whole file, whatever was asked for.
    server.say(WEIGHTS, Reply(body=DATA))
    (path,) = client.models.download(MODEL, tmp_path)
    assert path.read_bytes() == DATA


def test_the_end_of_another_file_is_found_by_its_checksum_and_fetched_anew(server, client, tmp_path):
    (tmp_path / "adapter_model.safetensors.part").write_bytes(b"x" * 500)
    server.say(FILES, listed())
    rest = {"content-range": f"bytes 500-{len(DATA) - 1}/{len(DATA)}"}
    server.say(WEIGHTS, Reply(206, DATA[500:], rest), Reply(body=DATA))
    (path,) = client.models.download(MODEL, tmp_path)
    assert path.read_bytes() == DATA


def test_bytes_that_do_not_match_their_checksum_never_get_the_name(server, client, tmp_path):
    server.say(FILES, listed())
    server.say(WEIGHTS, Reply(body=b"y" * len(DATA)))
    with pytest.raises(ArtifactCorrupt, match="checksum"):
        client.models.download(MODEL, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_more_bytes_than_announced_are_not_written(server, client, tmp_path):
    server.say(FILES, listed(data=DATA[:10]))
    server.say(WEIGHTS, Reply(body=DATA))
    with pytest.raises(ClientError, match="more bytes"):
        client.models.download(MODEL, tmp_path)
    assert (tmp_path / "adapter_model.safetensors.part").stat().st_size == 0


HOSTILE = ["../x", "/etc/x", "a/b", "a\\b", ".ssh", "..", "", "a\nb", "a\x00b", "C:x", "nul", "COM1.txt", "x.", "é", None, 7]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_name_is_refused_before_anything_is_written(server, client, tmp_path, name):
    server.say(FILES, as_json([{"name": "fine.json", "bytes": 1, "sha256": SHA}, {"name": name, "bytes": 1, "sha256": SHA}]))
    with pytest.raises(ClientError, match="no plain name"):
        client.models.download(MODEL, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_the_place_of_the_part_is_not_followed(server, client, tmp_path):
    target = tmp_path / "precious"
    target.write_bytes(b"")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/adapter_model.safetensors.part").symlink_to(target)
    server.say(FILES, listed())
    server.say(WEIGHTS, Reply(body=DATA))
    with pytest.raises(ClientError, match="cannot be written"):
        client.models.download(MODEL, tmp_path / "out")
    assert target.read_bytes() == b""
