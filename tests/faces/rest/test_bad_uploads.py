"""Rows D21 to D48 of the catalogue of bad input, as a caller over HTTP meets them: refused with their code, nothing kept."""

import gzip
import os
import pickle
import socket
import struct
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
import uvicorn
from tests.at_once import at_once

from luthier.accounts.quotas import Quota

from ...datasets.test_containers import GOOD as PLENTY
from ...datasets.test_containers import MAX_MEMBERS, NAMES, member, tarred, zipped
from ...datasets.test_parquet import written
from .conftest import GOOD, World
from .test_bad_inputs import file
from .test_tus import begin, send

TABLE = b"text,label\n" + b"".join(b"Word %d.,%s\n" % (n, b"ab"[n % 2 : n % 2 + 1]) for n in range(12))
IMPORT = "/api/datasets/import"


def form(data, boundary=b"b", kind="multipart/form-data; boundary=b"):
    body = data.replace(b"\n", b"\r\n").replace(b"--b", b"--" + boundary)
    return lambda world: world.upload(body, query="", headers={"content-type": kind})


def part(name, value, more=b""):
    return b'--b\nContent-Disposition: form-data; name="%s"%s\n\n%s\n' % (name, more, value)


def dictionary_bomb():
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 30_000, pa.int32()), ["x" * 1_000_000])
    return written(pa.table({"text": text}))


def many_rows():
    """A Parquet file whose footer says that it holds more rows than are read."""
    return written({"text": pa.array([None] * 5_000_001, pa.string())})


def million_members():
    data = bytearray(zipped(("a.jsonl", PLENTY)))
    struct.pack_into("<HH", data, data.rfind(b"PK\x05\x06") + 8, 65_535, 65_535)
    struct.pack_into("<I", data, data.rfind(b"PK\x05\x06") + 12, 100_000_000)
    return bytes(data)


def encrypted():
    data = bytearray(zipped(("a.jsonl", PLENTY)))
    for at in (data.find(b"PK\x03\x04") + 6, data.find(b"PK\x01\x02") + 8):
        data[at] |= 1
    return bytes(data)


def overlapping():
    data = bytearray(zipped(("a.jsonl", PLENTY), (".b", PLENTY)))
    struct.pack_into("<I", data, data.rfind(b"PK\x01\x02") + 42, 10)
    return bytes(data)


def announced(text):
    """A body that says that it is longer or shorter than it is."""
    return lambda world: world.upload(GOOD, headers={"content-length": text})


def chunked(world):
    return world.upload(iter([GOOD[:100], GOOD[100:]]))


def used_by_a_job(world):
    world.job()
    return world.ask("DELETE", f"/api/datasets/{world.dataset}")


def beyond(offset):
    def call(world):
        where = begin(world).headers["location"]
        return send(world, where, GOOD[:10], offset)

    return call


def ranged(value):
    return lambda world: world.ask("GET", f"/api/datasets/{world.dataset}/download", headers={"range": value})


def imported(source, **more):
    return lambda world: world.ask("POST", IMPORT, json={"source": source, **more})


FILE = part(b"file", GOOD, b'; filename="x.jsonl"')
CASES = [
    ("D21", file(b"text,label\n%s,b\n" % (b"a" * 131_073)), 422, "csv_syntax"),
    *(("D22", file(TABLE + line), 422, None) for line in (b'"open,a\n', b"a,b,c\n", b"a\n", b"a\0b,c\n")),
    ("D24", file(TABLE.replace(b",", b";")), 201, None),
    ("D24", file(TABLE.replace(b",", b"\t")), 201, None),
    ("D24", file(TABLE.partition(b"\n")[2]), 422, "header"),
    *(("D25", file(data), 422, "parquet") for data in (b"PAR1", b"PAR1" + b"\0" * 99 + b"PAR1", written({"a": ["b"]})[:-6])),
    ("D27", lambda world: world.upload(dictionary_bomb()), 413, "ratio"),
    ("D27", lambda world: world.upload(many_rows()), 413, "too_many_rows"),
    ("D28", file(written({"text": pa.array([b"\xff\xfe"] * 12), "label": ["a", "b"] * 6})), 422, "columns"),
    ("D29", file(zipped(("rows.jsonl", b"\0" * 50_000_000))), 413, "ratio"),
    ("D29", file(gzip.compress(b"\n" * 50_000_000)), 413, "ratio"),
    *(("D30", file(pack((name, PLENTY))), 422, "member_path") for name in NAMES for pack in (zipped, tarred)),
    *(
        ("D31", file(tarred((member(kind), b""))), 422, "member_type")
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE)
    ),
    ("D31", file(tarred((member(mode=0o4755), PLENTY))), 422, "member_type"),
    ("D32", file(million_members()), 422, "archive"),
    ("D32", file(zipped(*((f"{n}.jsonl", b"") for n in range(MAX_MEMBERS + 1)))), 422, "archive"),
    ("D32", file(overlapping()), 422, "archive"),
    ("D32", file(encrypted()), 422, "encrypted"),
    ("D33", file(gzip.compress(PLENTY) * 2), 422, "archive"),
    ("D33", file(gzip.compress(PLENTY) + b"junk"), 422, "archive"),
    ("D33", file(gzip.compress(zipped(("a.jsonl", PLENTY)))), 422, "archive"),
    *(
        ("D34", file(data), 422, "type")
        for data in (b"\x7fELF\2\1\1", b"\x80\4\x95\0", b"\x89PNG\r\n\x1a\n", b"<!DOCTYPE html><p>")
    ),
    ("D36", announced(str(len(GOOD) + 9)), 400, "bad_request"),
    ("D36", announced(str(len(GOOD) - 9)), 400, "bad_request"),
    ("D37", chunked, 201, None),
    ("D39", lambda world: world.upload(gzip.compress(GOOD), headers={"content-encoding": "gzip"}), 415, None),
    ("D40", form(FILE + b"--b--\n", kind="multipart/form-data"), 400, None),
    ("D40", form(FILE + b"--b--\n", boundary=b"c"), 400, None),
    ("D40", form(FILE), 400, None),
    ("D41", form(b"".join(part(b"name", b"") for _ in range(10_000)) + b"--b--\n"), 422, "duplicate_key"),
    ("D41", form(b"--b\n\n\n" * 1_000_000), 422, "extra_forbidden"),
    ("D41", form(b"--b\nX: " + b"x" * 1_000_000 + b"\n\n\n--b--\n"), 400, None),
    ("D42", form(FILE + FILE + b"--b--\n"), 422, None),
    ("D42", form(part(b"name", b"x") + b"--b--\n"), 422, None),
    ("D43", file(GOOD, "?sha256=" + "0" * 64), 422, "checksum_mismatch"),
    ("D46", used_by_a_job, 409, "in_use"),
    *(("D47", beyond(offset), 409, "offset_mismatch") for offset in (1, len(GOOD), 10**8)),
    ("D47", beyond(-1), 422, None),
    ("D47", ranged("bytes=99999999-"), 416, "range_invalid"),
    ("D47", ranged("bytes=9-2"), 416, "range_invalid"),
    *(("D48", imported(source), 422, "source") for source in ("file:///etc/passwd", "s3://other-bucket/x", "a/b/c", "../x")),
    ("D48", imported("owner/name", file="loader.py"), 422, "source"),
]
ALONE = {"D23", "D26", "D35", "D38", "D44", "D45"}
"""With a test of its own below."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One platform for all cases: none of them leaves anything behind."""
    world = World(tmp_path_factory.mktemp("uploads"))
    yield world
    world.platform.close()


def listed(world):
    return len(world.ask("GET", "/api/datasets?limit=200").json()["data"])


@pytest.mark.parametrize(("call", "status", "code"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_bad_upload_is_answered_with_its_status_and_code(shared, call, status, code):
    shared.dataset  # noqa: B018  # what a case takes for granted is there before
    before = listed(shared)
    answer = call(shared)
    assert answer.status_code == status, answer.text[:500]
    assert listed(shared) - before == (status == 201)
    if status >= 400:
        error = answer.json()["error"]
        assert code in (None, error["code"]), error
        assert error["hint"]


def test_every_row_of_the_catalogue_has_a_case():
    assert {case[0] for case in CASES} | ALONE == {f"D{n}" for n in range(21, 49)}


@pytest.mark.parametrize("call", [case[1] for case in CASES if case[0] == "D41"], ids=["fields", "parts", "header"])
def test_d41_a_hostile_form_is_refused_at_once(shared, call):
    with at_once():
        answer = call(shared)
    assert answer.status_code in {400, 413, 422}


def test_d23_a_formula_is_stored_as_it_is_and_runs_nowhere(shared):
    table = b"text,label\n=cmd|'/c calc'!A0,a\n@SUM(1),b\n" + TABLE.partition(b"\n")[2]
    made = shared.upload(table, "?name=formulas").json()
    assert shared.ask("GET", f"/api/datasets/{made['id']}/download").content == table
    rows = shared.ask("GET", f"/api/datasets/{made['id']}/samples?by=shortest&n=20").json()["data"]
    assert "@SUM(1)" in [row["row"]["text"] for row in rows]


class Canary:
    """Touches a file, if anybody unpickles it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_d26_a_pickled_type_is_refused_and_never_loaded(shared, tmp_path):
    kind = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Canary(tmp_path / "c")),
    }
    fields = pa.schema([pa.field("text", pa.string(), metadata=kind), pa.field("label", pa.string())])
    answer = shared.upload(written(pa.table([["a", "b"] * 6, ["x", "y"] * 6], schema=fields)))
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "columns")
    assert list(tmp_path.iterdir()) == []


NAMES_OF_FILES = ["../../x", "x" * 4096, "a\r\nSet-Cookie: b", "\u202egnp.jsonl", "😀.jsonl", "CON", ".", ""]


@pytest.mark.parametrize("name", NAMES_OF_FILES, ids=range(len(NAMES_OF_FILES)))
def test_d35_a_file_name_is_only_shown(shared, name):
    answer = shared.ask("POST", "/api/datasets", files={"file": (name or ".", GOOD)})
    assert answer.status_code == 201, answer.text
    assert "\n" not in answer.json()["name"]
    assert "/" not in answer.json()["name"]
    assert "set-cookie" not in answer.headers
    there = shared.ask("GET", f"/api/datasets/{answer.json()['id']}/download")
    assert there.content == GOOD
    assert "\n" not in there.headers["content-disposition"]


def test_d44_two_uploads_of_one_name_at_once_get_two_numbers(shared):
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda data: shared.upload(data, "?name=twice"), (GOOD, GOOD + GOOD)))
    assert sorted((answer.status_code, answer.json()["version"]) for answer in answers) == [(201, 1), (201, 2)]


@pytest.fixture
def wire(shared):
    """A socket to the app behind a real HTTP server."""
    server = uvicorn.Server(uvicorn.Config(shared.app, port=0, log_level="critical", lifespan="off"))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    with socket.create_connection(listener.getsockname()) as client:
        client.settimeout(20)
        yield client
    server.should_exit = True
    thread.join()
    listener.close()


def test_d45_a_quota_that_would_be_exceeded_is_told_before_the_body(world):
    world.platform.quotas.set(world.actor.tenant_id, Quota.STORAGE_BYTES, len(GOOD) - 1)
    answer = world.upload()
    assert (answer.status_code, answer.json()["error"]["code"]) == (402, "quota_exceeded")
    assert world.ask("GET", "/api/datasets").json()["data"] == []


def head(world, *headers):
    lines = ["POST /api/datasets?name=wire HTTP/1.1", "Host: x", f"X-Api-Key: {world.key}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def test_d38_eleven_gigabytes_are_refused_before_the_body(shared, wire):
    wire.sendall(head(shared, f"Content-Length: {11 * 2**30}", "Expect: 100-continue"))
    answer = wire.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"100 Continue" not in answer


def test_d38_a_body_that_is_taken_is_asked_for(shared, wire):
    wire.sendall(head(shared, f"Content-Length: {len(GOOD)}", "Expect: 100-continue"))
    assert wire.recv(65536).startswith(b"HTTP/1.1 100 ")
    wire.sendall(GOOD)
    assert wire.recv(65536).startswith(b"HTTP/1.1 201 ")


def test_d36_a_client_that_hangs_up_leaves_no_dataset(shared, wire):
    before = listed(shared)
    wire.sendall(head(shared, f"Content-Length: {len(GOOD) + 100}") + GOOD)
    wire.shutdown(socket.SHUT_WR)
    wire.recv(65536)
    assert listed(shared) == before
