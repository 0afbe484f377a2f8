"""Models on their way out, over HTTP: whole or in ranges, of each format, never short and never of the wrong bytes."""

from __future__ import annotations

import base64
import email
import hashlib
import io
import tarfile

import pytest
from tests.at_once import at_once

from luthier.faces.rest import ranges
from luthier.faces.rest.streaming import attachment

DATA = bytes(range(256)) * 40
GGUF = {"model.gguf": DATA, "Modelfile": b"FROM ./model.gguf\n"}


def refused(answer, status, code):
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    return answer.json()["error"]


def digest_of(answer) -> str:
    return base64.b64decode(answer.headers["repr-digest"].removeprefix("sha-256=:").removesuffix(":")).hex()


@pytest.fixture
def exported(world):
    model = world.model(name='Für "alle"; ok')
    world.export(model, export={"format": "gguf", "precision": "q8_0"})
    world.end_export(GGUF)
    return model


def test_a_tar_comes_whole_or_from_any_place_with_the_sha256_of_all_of_it(world):
    path = f"/api/models/{world.model().id}/download"
    whole = world.ask("GET", path)
    assert whole.headers["content-type"] == "application/x-tar"
    assert int(whole.headers["content-length"]) == len(whole.content)
    assert digest_of(whole) == whole.headers["etag"].strip('"') == hashlib.sha256(whole.content).hexdigest()
    rest = world.ask("GET", path, headers={"range": "bytes=700-", "if-range": whole.headers["etag"]})
    assert (rest.status_code, rest.content) == (206, whole.content[700:])
    assert rest.headers["content-range"] == f"bytes 700-{len(whole.content) - 1}/{len(whole.content)}"
    assert digest_of(rest) == digest_of(whole)
    changed = world.ask("GET", path, headers={"range": "bytes=700-", "if-range": '"another"'})
    assert (changed.status_code, changed.content) == (200, whole.content)
    same = world.ask("GET", path, headers={"if-none-match": f'"x", {whole.headers["etag"]}'})
    assert (same.status_code, same.content) == (304, b"")
    with tarfile.open(fileobj=io.BytesIO(whole.content)) as tar:
        assert len(tar.getmembers()) == 3


def test_the_path_of_the_first_documents_takes_a_format_too(world, exported):
    for query in ("?format=gguf", "?format=gguf&precision=q8_0", ""):
        here, there = (world.ask("GET", f"{path}/models/{exported.id}/download{query}") for path in ("/api", ""))
        assert (here.status_code, here.headers["etag"]) == (there.status_code, there.headers["etag"])
        assert here.content == there.content
    refused(world.ask("GET", f"/models/{exported.id}/download?format=merged"), 409, "not_exported")


def test_several_ranges_come_as_parts_and_no_byte_twice(world, exported):
    path = f"/api/models/{exported.id}/download?format=gguf"
    answer = world.ask("GET", path, headers={"range": "bytes=5000-5004, 0-9, 5-19, -3"})
    assert answer.status_code == 206
    assert int(answer.headers["content-length"]) == len(answer.content)
    message = email.message_from_bytes(b"content-type: " + answer.headers["content-type"].encode() + b"\r\n\r\n" + answer.content)
    found = [(part["content-range"], part.get_payload(decode=True)) for part in message.walk() if not part.is_multipart()]
    spans = [(0, 19), (5000, 5004), (len(DATA) - 3, len(DATA) - 1)]
    assert found == [(f"bytes {first}-{last}/{len(DATA)}", DATA[first : last + 1]) for first, last in spans]


@pytest.mark.parametrize(
    "header", ["bytes=" + "0-0," * 999 + "0-0", "bytes=0-0" + ",-1" * 8, "bytes=99999999999-", "bytes=5-1", "lines=0-1", "bytes="]
)
def test_ranges_that_cost_or_mean_nothing_are_refused_at_once(world, exported, header):
    """M03"""
    path = f"/api/models/{exported.id}/download?format=gguf"
    world.ask("GET", path)
    with at_once():
        error = refused(world.ask("GET", path, headers={"range": header}), 416, "range_invalid")
    assert error["details"] == {"bytes": len(DATA)}


def test_ranges_beyond_the_end_are_cut_and_touching_ones_joined():
    assert ranges.of("bytes=90-1000", 100) == [ranges.Span(90, 99)]
    assert ranges.of("bytes=0-1,2-3,200-", 100) == [ranges.Span(0, 3)]
    with pytest.raises(ranges.NotARange):
        ranges.of("bytes=0-1, x", 100)
    with pytest.raises(ranges.NotARange):
        ranges.of("bytes=0-", 0)


def test_a_gguf_comes_as_it_is_under_a_name_that_says_what_it_is(world, exported):
    """M05: a name with quotes, letters of other alphabets and what would end a header."""
    answer = world.ask("GET", f"/api/models/{exported.id}/download?format=gguf&precision=q8_0")
    assert answer.content == DATA
    assert answer.headers["content-disposition"] == (
        "attachment; filename=\"F_r__alle___ok-v1-q8_0.gguf\"; filename*=UTF-8''F%C3%BCr%20%22alle%22%3B%20ok-v1-q8_0.gguf"
    )
    header = attachment('a\r\nset-cookie: b="c"; é.tar')
    assert header.isascii()
    assert not set(header) & set("\r\n")
    assert "filename*=UTF-8''a%0D%0Aset-cookie%3A%20b%3D%22c%22%3B%20%C3%A9.tar" in header


def test_exports_are_listed_with_their_proof_and_the_newest_of_a_format_is_taken(world, exported):
    world.export(exported)
    world.end_export({"config.json": b"{}", "model.safetensors": DATA})
    listed = world.ask("GET", f"/api/models/{exported.id}/exports").json()["data"]
    assert [(each["format"], each["precision"], len(each["files"])) for each in listed] == [
        ("merged", "base", 2),
        ("gguf", "q8_0", 2),
    ]
    merged = world.ask("GET", f"/api/models/{exported.id}/download?format=merged")
    with tarfile.open(fileobj=io.BytesIO(merged.content)) as tar:
        assert sorted(tar.getnames()) == [f"{exported.id}-merged/config.json", f"{exported.id}-merged/model.safetensors"]
    path = f"/api/models/{exported.id}/download"
    assert "model export" in refused(world.ask("GET", f"{path}?format=gguf-adapter"), 409, "not_exported")["hint"]
    refused(world.ask("GET", f"{path}?format=gguf&precision=f32"), 409, "not_exported")
    refused(world.ask("GET", f"{path}?format=zip"), 422, "literal_error")
    theirs = world.model(world.stranger, "theirs")
    refused(world.ask("GET", f"/api/models/{theirs.id}/exports"), 404, "not_found")
    refused(world.ask("GET", f"/api/models/{theirs.id}/download?format=gguf"), 404, "not_found")


def test_an_export_that_rotted_is_not_sent(world):
    model = world.model()
    world.export(model, export={"format": "gguf"})
    folder = world.end_export(GGUF)
    world.platform.storage.write(f"{folder}/model.gguf", b"GGUF")
    refused(world.ask("GET", f"/api/models/{model.id}/download?format=gguf"), 409, "artifact_corrupt")
    world.platform.storage.write(f"{folder.rpartition('/')[0]}/export.json", b"[]")
    assert world.ask("GET", f"/api/models/{model.id}/exports").json()["data"] == []


def test_a_link_out_of_the_storage_is_refused_and_stands_in_the_audit_log(world):
    """M02"""
    model = world.model()
    weights = world.platform.settings.data / "users" / world.actor.tenant_id / "models" / model.id / "weights"
    (weights / "tokenizer.json").unlink()
    (weights / "tokenizer.json").symlink_to("/etc/passwd")
    refused(world.ask("GET", f"/api/models/{model.id}/download"), 409, "artifact_corrupt")
    (weights / "tokenizer.json").unlink()
    moved = weights.with_name("elsewhere")
    weights.rename(moved)
    weights.symlink_to(moved)
    refused(world.ask("GET", f"/api/models/{model.id}/files/adapter_config.json"), 409, "artifact_corrupt")
    world.platform.audit.keep(everything=True)
    with world.platform.audit.export() as entries:
        codes = [(entry.action, entry.code) for entry in entries]
    assert ("models.download", "artifact_corrupt") in codes
    assert ("models.file", "artifact_corrupt") in codes
