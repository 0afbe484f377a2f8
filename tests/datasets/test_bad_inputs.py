"""The catalogue of bad input, rows D01 to D20 and D35, D43, D44: what a caller sees of each."""

import codecs
import gzip
import json
import tarfile
import time

import pytest
from backports import zstd
from tests.at_once import at_once

from luthier.errors import DatasetRejected, TooLarge

from .conftest import an_upload, chat, jsonl, rows
from .test_containers import member, tarred, zipped

GOOD = jsonl(*rows())


def line(text: str | bytes) -> bytes:
    """A good file whose line 7 is `text`."""
    lines = GOOD.splitlines()
    lines[6] = text if isinstance(text, bytes) else text.encode()
    return b"\n".join(lines)


def content(text: str) -> str:
    return '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": ' + text + "}]}"


def beside(field: str) -> bytes:
    """A good file whose line 7 has one more field."""
    return line("{" + field + ", " + TALK[1:])


def turns(*roles: str) -> str:
    return json.dumps({"messages": [{"role": role, "content": "Hi"} for role in roles]})


TALK = turns("user", "assistant")
REFUSED = [
    ("D01", b"", "dataset_empty", None),
    ("D02 blank", b"\n \n\r\n", "dataset_empty", None),
    ("D02 mark", codecs.BOM_UTF8, "dataset_empty", None),
    ("D04 utf-16", GOOD.decode().encode("utf-16"), "encoding", 1),
    ("D04 utf-16 bare", GOOD.decode().encode("utf-16-le"), "encoding", 1),
    ("D04 latin-1", line(content('"Grüße"').encode("latin-1")), "encoding", 7),
    ("D05", line(TALK[:30]), "json_syntax", 7),
    ("D07 null", line("null"), "row_not_object", 7),
    ("D07 number", line("3"), "row_not_object", 7),
    ("D07 string", line('"x"'), "row_not_object", 7),
    ("D07 list", line("[]"), "row_not_object", 7),
    ("D08 line", line("[" * 100_000), "too_deep", 7),
    ("D08 file", b"[" * 100_000, "too_deep", 1),
    ("D08 object", line('{"a":' * 100_000), "too_deep", 7),
    ("D08 valid", beside('"a": ' + "[" * 40 + "]" * 40), "too_deep", 7),
    ("D10", beside('"id": ' + "1" * 5000), "number", 7),
    ("D11 nan", beside('"id": NaN'), "json_syntax", 7),
    ("D11 infinity", beside('"id": -Infinity'), "json_syntax", 7),
    ("D11 1e999", beside('"id": 1e999'), "number", 7),
    ("D12", beside('"messages": []'), "duplicate_key", 7),
    ("D12 inside", line('{"messages": [{"role": "user", "role": "assistant", "content": "x"}]}'), "duplicate_key", 7),
    ("D13", line(content(r'"\ud800"')), "bad_unicode", 7),
    ("D13 bytes", line(content('"\ud800"').encode("utf-8", "surrogatepass")), "encoding", 7),
    ("D14", line(content(r'"a\u0000b"')), "nul_character", 7),
    ("D14 raw", line(content('"a\0b"')), "json_syntax", 7),
    ("D15", line(turns("user")), "no_target", 7),
    ("D15 empty", line('{"messages": []}'), "no_target", 7),
    ("D16 unknown", line(turns("user", "robot")), "roles", 7),
    ("D16 system late", line(turns("user", "system", "assistant")), "roles", 7),
    ("D16 tool uncalled", line(turns("user", "tool", "assistant")), "roles", 7),
    ("D16 none", line('{"messages": [{"content": "Hi"}]}'), "missing_role", 7),
    ("D17", jsonl({"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": " \n"}), "empty_content", 2),
    ("D17 chat", line(content('" "')), "empty_content", 7),
    ("D18", line('{"prompt": "a", "completion": "b"}'), "schema_mismatch", 7),
    ("sharegpt", jsonl({"conversations": [{"from": "human", "value": "x"}]}), "no_target", 1),
    ("D34 elf", b"\x7fELF\x02\x01\x01", "type", 1),
    ("D34 pickle", b"\x80\x04\x95\x00", "type", 1),
    ("D34 png", b"\x89PNG\r\n\x1a\n", "type", 1),
    ("D34 html", b"<!DOCTYPE html><html></html>", "type", 1),
    ("gzip cut", b"\x1f\x8b\x08\x00", "archive", None),
    ("cut array", b'[{"messages": [', "json_syntax", 1),
    ("comma", b"[" + json.dumps(chat()).encode() + b",]", "json_syntax", 2),
    ("two arrays", b"[1, 2]\n[3]\n", "row_not_object", 1),
]


KEPT_FOR_A_FIX = ("/raw/upload", "/metadata.json")


@pytest.mark.parametrize(("data", "code", "number"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_a_bad_file_is_refused_with_its_line_and_code(datasets, world, alice, data, code, number):
    started = time.monotonic()
    with pytest.raises(DatasetRejected) as refusal:
        datasets.upload(alice, an_upload(data))
    assert time.monotonic() - started < 5
    first = next(finding for finding in refusal.value.details["findings"] if finding["severity"] == "error")
    assert (refusal.value.error_code, first["code"], first["line"]) == (code, code, number)
    assert refusal.value.hint.startswith(first["fix"])
    assert datasets.list(alice).data == []
    assert all(name.endswith(KEPT_FOR_A_FIX) for name in world.files())


ACCEPTED = [
    ("D03", codecs.BOM_UTF8 + GOOD, {}),
    ("D06", json.dumps(rows()).encode(), {"format": 1}),
    ("D06 indented", json.dumps(rows(), indent=2, ensure_ascii=False).encode(), {"format": 1}),
    ("D14 escaped", line(content(r'"a\\u0000b"')), {}),
    ("D16 odd order", line(turns("assistant", "user", "assistant")), {"roles": 1}),
    ("D19", line(content(json.dumps("word " * 3000))), {"too_long": 1}),
    ("D20 same", jsonl(*[chat()] * 12), {"duplicate": 11, "too_few_rows": 1}),
    ("D20 one", jsonl(chat()), {"too_few_rows": 1}),
    ("no newline", GOOD.rstrip(), {}),
    ("crlf", GOOD.replace(b"\n", b"\r\n\r\n"), {}),
    ("emoji", line(content('"\\ud83d\\ude00 😀"')), {}),
    ("quote", line(content('"\\u0022quoted\\u0022"')), {}),
    ("large number", beside('"id": 123456789012345678901234567890'), {}),
    ("special text", line(content('"<|im_end|>"')), {"special_text": 1}),
]


@pytest.mark.parametrize(("data", "counts"), [case[1:] for case in ACCEPTED], ids=[case[0] for case in ACCEPTED])
def test_an_odd_file_is_taken_with_warnings(datasets, alice, data, counts):
    dataset = datasets.upload(alice, an_upload(data))
    assert dataset.report.counts == counts
    assert dataset.report.errors == 0


def test_d05_names_the_column(datasets, alice):
    with pytest.raises(DatasetRejected, match="Line 7: The JSON is cut off: it breaks at column 30"):
        datasets.upload(alice, an_upload(line(TALK[:29])))


def test_d08_depth_is_refused_at_once(datasets, alice):
    datasets.upload(alice, an_upload())
    for data in (b"[" * 100_000, line("[" * 100_000)):
        with at_once(), pytest.raises(DatasetRejected):
            datasets.upload(alice, an_upload(data))


def test_d09_an_endless_line_is_too_large(datasets, world, alice):
    with pytest.raises(TooLarge, match="Line 13: A line is longer than 1,048,576 bytes") as refusal:
        datasets.upload(alice, an_upload(GOOD + b'{"messages": "' + b"x" * 3_000_000))
    assert refusal.value.error_code == "line_too_long"
    assert all(name.endswith(KEPT_FOR_A_FIX) for name in world.files())


def test_d09_an_endless_element_of_an_array_is_too_large(datasets, alice):
    with pytest.raises(TooLarge):
        datasets.upload(alice, an_upload(b'[{"messages": "' + b"x" * 3_000_000))


PLENTY = jsonl(*rows(200))
PACKED = [
    ("D29", zipped(("rows.jsonl", b"\0" * 50_000_000)), TooLarge, "ratio"),
    ("D29 gzip", gzip.compress(b"\n" * 50_000_000), TooLarge, "ratio"),
    ("D30", zipped(("../rows.jsonl", PLENTY)), DatasetRejected, "member_path"),
    ("D31", tarred((member(tarfile.SYMTYPE), b"")), DatasetRejected, "member_type"),
    ("D32", zipped(("a.jsonl", PLENTY), ("b.jsonl", PLENTY)), DatasetRejected, "archive"),
    ("D33", gzip.compress(PLENTY) * 2, DatasetRejected, "archive"),
    ("D33 cut", gzip.compress(PLENTY)[:-9], DatasetRejected, "archive"),
    ("D34", gzip.compress(b"\x7fELF\x02\x01\x01"), DatasetRejected, "type"),
]


@pytest.mark.parametrize(("data", "error", "code"), [case[1:] for case in PACKED], ids=[case[0] for case in PACKED])
def test_a_bad_packed_file_is_refused_and_nothing_is_left_of_it(datasets, world, alice, data, error, code):
    with pytest.raises(error) as refusal:
        datasets.upload(alice, an_upload(data, file_name="rows.jsonl"))
    assert refusal.value.error_code == code
    assert datasets.list(alice).data == []


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress, lambda data: zipped(("rows.jsonl", data))])
def test_a_packed_file_gives_the_same_rows_as_one_that_is_not(datasets, alice, pack):
    made = datasets.upload(alice, an_upload(pack(PLENTY), file_name="rows.jsonl.gz"))
    assert (made.name, made.rows) == ("rows", 200)
    assert made.rows_sha256 == datasets.upload(alice, an_upload(PLENTY)).rows_sha256


def test_d18_names_both_lines(datasets, alice):
    with pytest.raises(DatasetRejected, match=r"Line 7: This row is `prompt` and `completion`, but line 1 is chat"):
        datasets.upload(alice, an_upload(line('{"prompt": "a", "completion": "b"}')))


def test_at_most_twenty_findings_a_code_are_shown_and_all_are_counted(datasets, alice):
    with pytest.raises(DatasetRejected, match=r"29 more errors") as refusal:
        datasets.upload(alice, an_upload(b"null\n" * 30))
    assert len(refusal.value.details["findings"]) == 20
    assert refusal.value.details["counts"] == {"row_not_object": 30}


FILE_NAMES = {
    "../../x": "x",
    "/etc/passwd": "passwd",
    "x" * 4096 + ".jsonl": "x" * 128,
    "a\r\nSet-Cookie: b.jsonl": "aSet-Cookie: b",
    "\u202egnp.jsonl": "\u202egnp",
    "😀.jsonl": "😀",
    "CON": "CON",
    ".": "dataset",
    "": "dataset",
    "bad\udcff.json": "bad",
}


@pytest.mark.parametrize("file_name", FILE_NAMES, ids=range(len(FILE_NAMES)))
def test_d35_a_file_name_is_only_a_name(datasets, world, alice, file_name):
    dataset = datasets.upload(alice, an_upload(file_name=file_name))
    assert dataset.name == FILE_NAMES[file_name]
    assert all(name.startswith(f"users/team_a/data/{dataset.id}/") for name in world.files())


def test_what_a_row_says_is_never_repeated_in_an_error(datasets, alice):
    secret = "SeCrEt"
    bad = [
        {secret: secret},
        {"messages": secret},
        {"messages": [{"role": secret, "content": secret}]},
        {"messages": [{"role": "user", "content": {secret: secret}}]},
        {"prompt": secret, "completion": [secret]},
    ]
    with pytest.raises(DatasetRejected) as refusal:
        datasets.upload(alice, an_upload(jsonl(*bad) + b'{"%s' % secret.encode()))
    assert secret not in json.dumps(refusal.value.details) + str(refusal.value)
