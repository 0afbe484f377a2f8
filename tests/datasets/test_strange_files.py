"""Files that people upload by mistake, and fields that would be left out in silence: each is told by name, with what to do."""

import io
import json
import zipfile

import pytest

from luthier.datasets.containers import Limits
from luthier.datasets.examples import BadRow, FileRemark, Parsed
from luthier.datasets.formats import records
from luthier.datasets.opening import Reading, opened

from .conftest import an_upload, chat, jsonl

OFFICE = {"xl/workbook.xml": "Excel", "word/document.xml": "Word", "META-INF/manifest.xml": "OpenDocument"}
GOOD = json.dumps(chat("a", "b"))


def read(data: str | bytes) -> list:
    return list(records(io.BytesIO(data.encode() if isinstance(data, str) else data)))


def remarks(*given: dict) -> list[str]:
    return [remark.code for each in read(jsonl(*given)) if isinstance(each, Parsed) for remark in each.remarks]


@pytest.mark.parametrize(
    ("data", "code", "word"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "type", "git lfs pull"),
        (b"ARROW1\0\0" + bytes(50), "type", "Arrow"),
        (b"Obj\x01" + bytes(50), "type", "Avro"),
        (b"SQLite format 3\0" + bytes(50), "type", "SQLite"),
        (b"{\\rtf1\\ansi hello}", "type", "RTF"),
        (f"{GOOD}\n".encode("utf-32"), "encoding", "UTF-32"),
        (b"prompt,completion\ra,b\rc,d\r", "line_ends", "tr '\\r' '\\n'"),
        (f"{GOOD}\r{GOOD}\r".encode(), "line_ends", "carriage return"),
        (json.dumps(chat("a", "b"), indent=2).encode() * 2, "json_syntax", "jq -c"),
        (f"{GOOD}\n\ufeff{GOOD}\n".encode(), "json_syntax", "byte order mark"),
        (f"{GOOD},\n{GOOD},\n".encode(), "json_syntax", "Remove the comma"),
        (json.dumps({"version": 1, "data": [chat("a", "b")]}).encode(), "missing_field", '.["data"][]'),
        (json.dumps({"not a name": [{"a": 1}]}).encode(), "missing_field", ".[...][]"),
        (json.dumps({"messages": [{"role": "human", "content": "a"}]}).encode(), "roles", "human is user"),
        ("text,label\nStraße,b\n".encode("latin-1"), "encoding", "CSV UTF-8"),
    ],
)
def test_a_file_that_is_none_says_what_it_is(data, code, word):
    bad = next(each for each in read(data) if isinstance(each, BadRow))
    assert bad.code == code
    assert word in f"{bad.message} {bad.hint}"


@pytest.mark.parametrize("name", OFFICE)
def test_a_document_is_no_archive_of_data(tmp_path, name):
    path = tmp_path / "rows.zip"
    with zipfile.ZipFile(path, "w") as document:
        for each in ("[Content_Types].xml", name, "content.xml"):
            document.writestr(each, "<a/>")
    with path.open("rb") as source:
        (bad,) = opened(source, Reading(Limits(path.stat().st_size, 2**20), tmp_path / "scratch")).records
    assert (bad.code, OFFICE[name] in bad.message, "CSV" in bad.hint) == ("type", True, True)


def test_tables_of_one_column_of_excel_and_with_bars_are_read():
    talk = '"[{""role"": ""user"", ""content"": ""a""}, {""role"": ""assistant"", ""content"": ""b""}]"'
    (chatted,) = (each for each in read(f"messages\n{talk}\n") if isinstance(each, Parsed))
    assert (chatted.line, chatted.schema_name) == (2, "chat")
    assert [each.row.completion for each in read("text\nOne.\n\nTwo.\n")] == ["One.", "Two."]
    for data, line in (("sep=;\nprompt;completion\na;b\n", 3), ("prompt|completion\na|b\n", 2)):
        remark, parsed = read(data)
        assert (remark.remark.code, parsed.row.completion, parsed.line) == ("delimiter", "b", line)
    (remark, *_) = read("Prompt , Completion\na,b\n")
    assert isinstance(remark, FileRemark)
    assert remark.remark.fix == "Write them so: prompt, completion."


def test_a_table_for_people_stays_a_text():
    assert next(each.row.completion for each in read("a | b\n--|--\n1 | 2\n") if isinstance(each, Parsed)) == "a | b"


def test_a_system_message_beside_the_messages_is_learned_with_them():
    (each,) = read(jsonl({"system": "Be brief.", **chat("a", "b")}))
    assert [message["content"] for message in each.row.messages] == ["Be brief.", "a", "b"]
    parts = {
        "system": [{"text": "Be brief."}],
        "messages": [{"role": "user", "content": [{"text": "a"}]}, chat("a", "b")["messages"][1]],
    }
    assert read(jsonl(parts))[0].row.messages == each.row.messages
    twice = {"system": "Be brief.", "messages": [{"role": "system", "content": "Be kind."}, *chat("a", "b")["messages"]]}
    assert remarks(twice) == ["bad_value"]
    asked = {"system": "Be brief.", "messages": chat("a", "b")["messages"][:1], "answer": "b"}
    assert read(jsonl(asked))[0].row.messages[0]["content"] == "Be brief."


def test_what_is_not_read_is_counted_in_the_report(datasets, alice):
    rows = [{"prompt": f"{n}?", "completion": f"{n}.", "topic": "sums", "note": None, "source": "here"} for n in range(12)]
    rows[0]["system"] = "Be brief."
    report = datasets.upload(alice, an_upload(jsonl(*rows))).report
    assert report.unread_fields == {"topic": 12, "system": 1}
    assert report.counts == {"unread_field": 1}
    thought = [
        {"messages": [*chat(f"{n}?", "a")["messages"][:1], {"role": "assistant", "content": f"{n}", "thinking": "Hm."}]}
        for n in range(12)
    ]
    assert datasets.upload(alice, an_upload(jsonl(*thought))).report.unread_fields == {"messages.thinking": 12}
    prompts = [{"prompt": f"{n}?", "answer": "b", "level": 1} for n in range(12)]
    assert datasets.upload(alice, an_upload(jsonl(*prompts))).report.unread_fields == {}


def test_texts_that_have_a_label_by_another_name_are_told(datasets, alice):
    rows = [{"text": f"Word {n}.", "category": "ab"[n % 2]} for n in range(12)]
    (finding,) = datasets.upload(alice, an_upload(jsonl(*rows))).report.findings
    assert (finding.code, "--map label=category" in finding.fix) == ("unread_field", True)


def called(*after: dict, **call: str) -> dict:
    made = {"type": "function", "function": {"name": "find", "arguments": "{}"}, **call}
    asked = [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": [made]}]
    return {"messages": [*asked, *after], "tools": [{"type": "function", "function": {"name": "find"}}]}


def test_results_belong_to_calls():
    answer, result = {"role": "assistant", "content": "b"}, {"role": "tool", "content": "3"}
    assert remarks(called(result, answer, id="c1"), called({**result, "tool_call_id": "c1"}, answer, id="c1")) == []
    assert remarks(called({**result, "tool_call_id": "c2"}, answer)) == []
    assert remarks(called({**result, "tool_call_id": "c2"}, answer, id="c1")) == ["tool_result"]
    assert remarks(called(answer, id="c1")) == ["tool_result"]


@pytest.mark.parametrize("schema", [{"type": "banana"}, 5, True, {"$ref": "http://169.254.169.254/"}])
def test_what_is_no_schema_is_told_and_never_fetched(datasets, alice, schema):
    row = called({"role": "tool", "content": "3"}, {"role": "assistant", "content": "b"})
    row["tools"][0]["function"]["parameters"] = schema
    report = datasets.upload(alice, an_upload(jsonl(row, *(chat(f"{n}?", "b") for n in range(12))))).report
    assert report.counts == {"tool_schema": 1}


def test_the_word_for_an_empty_cell_is_remarked():
    assert remarks({"prompt": "a", "completion": "nan"}, {"prompt": "b", "completion": "None"}) == ["empty_word"]
