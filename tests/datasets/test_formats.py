import io
import json
import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from luthier.datasets.examples import Parsed
from luthier.datasets.formats import BadRow, Example, read_rows, records
from luthier.datasets.strict_json import dump, parse

from .conftest import chat, jsonl, rows


def read(data: bytes) -> list:
    return list(read_rows(io.BytesIO(data), Example))


def first_bad(data: bytes) -> BadRow:
    with pytest.raises(BadRow) as refusal:
        read(data)
    return refusal.value


def warnings(*rows: dict) -> list[str]:
    return [remark.code for record in records(io.BytesIO(jsonl(*rows))) for remark in record.remarks]


def test_every_kind_of_row_becomes_an_example():
    assert read(jsonl({"prompt": "1 + 1 =", "completion": " 2"}))[0].completion == " 2"
    assert read(jsonl(chat("a", "b")))[0].messages[1]["content"] == "b"
    alpaca = {"instruction": "Add.", "input": None, "output": "2", "system": "Be brief.", "history": [["a", "b"]]}
    assert [message["content"] for message in read(jsonl(alpaca))[0].messages] == ["Be brief.", "a", "b", "Add.", "2"]
    lists = {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}
    assert read(jsonl(lists))[0].messages == read(jsonl(chat("a", "b")))[0].messages


def test_only_the_completion_of_a_conversation_in_two_lists_is_learned():
    shown = [*chat("a", "b")["messages"], {"role": "user", "content": "c"}]
    example = read(jsonl({"prompt": shown, "completion": [{"role": "assistant", "content": "d"}]}))[0]
    assert [message.get("weight") for message in example.messages] == [None, 0, None, None]


def test_messages_come_in_one_form():
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"b": 1, "a": 2}'}}
    row = {
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}], "name": None},
            {"role": "user", "content": "Hi", "refusal": None},
            {"role": "assistant", "content": None, "tool_calls": [call], "function_call": None, "audio": None},
            {"role": "tool", "content": "3", "tool_call_id": "c1"},
            {"role": "assistant", "content": "3", "tool_calls": None, "weight": 1},
        ],
        "tools": [{"type": "function", "function": {"name": "find", "parameters": {}}}],
        "metadata": {"ignored": True},
    }
    example = read(jsonl(row))[0]
    assert example.messages[0] == {"role": "system", "content": "Be brief."}
    assert example.messages[2]["content"] == ""
    assert example.messages[2]["tool_calls"][0]["function"]["arguments"] == {"b": 1, "a": 2}
    assert read(dump(example.canonical())) == [example]


DEEP = '{"a": ' + "[" * 30 + "]" * 30 + "}"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"role": "assistant", "content": 3}, "bad_type"),
        ({"role": "assistant", "content": None}, "missing_field"),
        ({"role": "assistant"}, "missing_field"),
        ({"role": "assistant", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}, "bad_value"),
        ({"role": "assistant", "content": ["text"]}, "bad_type"),
        ({"role": "assistant", "content": [{"type": "text", "text": 1}]}, "bad_type"),
        ({"role": "assistant", "content": "x", "weight": 0.5}, "bad_value"),
        ({"role": "assistant", "content": "x", "weight": 0}, "no_target"),
        ({"role": "assistant", "content": "x", "name": 1}, "bad_type"),
        ({"role": "assistant", "content": "x", "function_call": {"name": "f"}}, "bad_value"),
        ({"role": "assistant", "tool_calls": "f()"}, "bad_type"),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "bad_type"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}, "tool_args"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": [1]}}]}, "tool_args"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"a": "\\u0000"}'}}]}, "tool_args"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"a": 1, "a": 2}'}}]}, "tool_args"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": DEEP}}]}, "too_deep"),
        ({"role": "user", "content": "x", "tool_calls": [{"function": {"name": "f"}}]}, "bad_value"),
        ({"role": ["assistant"], "content": "x"}, "roles"),
        (None, "bad_type"),
    ],
)
def test_a_message_that_cannot_be_learned_is_refused(message, code):
    assert first_bad(jsonl({"messages": [{"role": "user", "content": "Hi"}, message]})).code == code


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": "a", "answer": "b"}, "--map prompt=question,completion=answer`.*grpo.*--map prompt=question`"),
        ({"body": "a", "Category": "b"}, "--map text=body,label=Category`"),
        ({"a": 1}, "lacks `messages`.*--map prompt"),
    ],
)
def test_rows_that_cannot_be_read_are_refused_by_name(row, words):
    bad = first_bad(jsonl(row))
    assert bad.code == "missing_field"
    with pytest.raises(BadRow, match=words):
        raise bad


def test_a_row_may_weigh_more_or_less_than_others():
    alpaca = {"instruction": "Add.", "output": "2"}
    lists = {"prompt": chat()["messages"][:1], "completion": chat()["messages"][1:]}
    for row in (chat(), alpaca, lists, {"prompt": "a", "completion": "b"}):
        example = read(jsonl({**row, "weight": 0.25}))[0]
        assert example.weight == 0.25
        assert read(dump(example.canonical())) == [example]
        assert read(jsonl(row))[0].weight == read(jsonl({**row, "weight": None}))[0].weight == 1
        assert "weight" not in read(jsonl({**row, "weight": 1}))[0].canonical()


@pytest.mark.parametrize("weight", [-1, 1001, "1", True, [1]])
def test_a_weight_that_is_none_is_refused(weight):
    assert first_bad(jsonl({"prompt": "a", "completion": "b", "weight": weight})).code == "bad_value"


def test_what_is_odd_is_remarked():
    tool = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '"{}"'}}]}
    assert warnings({"messages": [{"role": "user", "content": " "}, tool]}) == ["empty_content", "tool_args", "tool_unknown"]
    assert warnings({"messages": [*chat()["messages"], {"role": "user", "content": "Thanks"}]}) == ["last_not_assistant"]
    assert warnings({"messages": [{"role": "user", "content": "Hi", "weight": 1}, chat()["messages"][1]]}) == ["bad_value"]
    assert warnings({"messages": [{"role": "user", "content": "Hi"}, *chat()["messages"]]}) == ["roles"]
    assert warnings({"prompt": "", "completion": "x"}) == ["empty_content"]
    assert warnings(chat(weight=0)) == ["zero_weight"]
    assert warnings(chat()) == []


def test_large_integers_keep_every_digit():
    number = 10**300 + 1
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": [_call({"n": number})]}]}
    example = read(jsonl(row))[0]
    assert read(dump(example.canonical())) == [example]
    assert example.messages[1]["tool_calls"][0]["function"]["arguments"] == {"n": number}


def _call(arguments: dict) -> dict:
    return {"function": {"name": "f", "arguments": arguments}}


class Trickle(io.BytesIO):
    """A stream that gives a few bytes at a time."""

    def __init__(self, data: bytes, size: int) -> None:
        super().__init__(data)
        self.size = size

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(self.size, size if size and size > 0 else self.size))


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_way_the_bytes_come_in_changes_nothing(size):
    plenty = [chat('"[{,\\\\' * 5 + str(number), "}]é\U0001f642\n") for number in range(120)]
    expected = read(jsonl(*plenty))
    for data in (jsonl(*plenty), json.dumps(plenty).encode(), json.dumps(plenty, indent=1, ensure_ascii=False).encode()):
        found = read_rows(Trickle(data, size), Example)
        assert [example.messages for example in found] == [example.messages for example in expected]


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
ROLE = st.sampled_from(["system", "user", "assistant", "tool", "developer", "robot", None, 1])
MESSAGE = st.fixed_dictionaries(
    {"role": ROLE, "content": st.text(max_size=20) | JSON},
    optional={"tool_calls": JSON | st.just([{"function": {"name": "f", "arguments": "{}"}}]), "weight": JSON, "name": JSON},
)
MESSAGES = st.lists(
    MESSAGE
    | st.just({"role": "user", "content": "a"})
    | st.sampled_from("bc").map(lambda said: {"role": "assistant", "content": said}),
    max_size=4,
)
ROW = st.one_of(
    st.fixed_dictionaries({"messages": st.lists(MESSAGE | JSON, max_size=5) | JSON}, optional={"tools": JSON}),
    st.fixed_dictionaries({"prompt": st.text() | JSON, "completion": st.text() | JSON}),
    st.fixed_dictionaries(
        {"chosen": st.text() | MESSAGES, "rejected": st.text() | MESSAGES}, optional={"prompt": st.text() | JSON}
    ),
    st.fixed_dictionaries({"prompt": st.text() | MESSAGES}, optional={"item": JSON, "answer": JSON, "tools": JSON}),
    st.fixed_dictionaries({"prompt": st.text() | MESSAGES, "completion": st.text() | MESSAGES, "label": st.booleans() | JSON}),
    st.fixed_dictionaries(
        {
            "input": st.fixed_dictionaries({"messages": MESSAGES}),
            "preferred_output": MESSAGES | JSON,
            "non_preferred_output": MESSAGES,
        }
    ),
    st.fixed_dictionaries({"instruction": JSON, "output": JSON}, optional={"input": JSON, "history": JSON, "system": JSON}),
    JSON,
)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A plausible file with a few bytes overwritten, cut out or put in."""
    written = draw(st.lists(ROW, max_size=5))
    as_array = draw(st.booleans())
    data = bytearray(json.dumps(written).encode() if as_array else jsonl(*written))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 4))] = draw(
            st.binary(max_size=4) | st.sampled_from([b'"', b"\\u0000", b"[", b"}", b","])
        )
    return bytes(data)


@settings(max_examples=400, deadline=2000)
@given(files() | st.binary(max_size=200))
def test_no_file_breaks_the_reader(data):
    seen = list(records(io.BytesIO(data)))
    for record in seen:
        if isinstance(record, Parsed):
            again = list(records(io.BytesIO(dump(record.row.canonical()))))
            assert isinstance(again[0], Parsed)
            assert again[0].row.canonical() == record.row.canonical()
        elif isinstance(record, BadRow):
            assert record.message
            assert record.hint
    assert not any(isinstance(record, BadRow) and record.fatal for record in seen[:-1])


@settings(max_examples=300, deadline=2000)
@given(JSON)
@example(-(2**63) - 1)
def test_what_json_wrote_is_read_as_it_was(value):
    assert parse(1, json.dumps(value).encode()) == value


MEMORY = """
import resource, sys
from luthier.datasets.formats import records
class Endless:
    left = int(sys.argv[1])
    def read(self, size):
        size = min(size, self.left); self.left -= size
        return sys.argv[2].encode() * (size // len(sys.argv[2]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count = sum(1 for record in records(Endless()))
print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize(("unit", "least"), [("x", 1), ("null\n", 500_000)])
def test_memory_stays_flat_whatever_the_size(unit, least):
    size = "2000000000" if unit == "x" else "4000000"
    done = subprocess.run([sys.executable, "-c", MEMORY, size, unit], capture_output=True, text=True, timeout=120, check=True)
    count, grown = map(int, done.stdout.split())
    assert count >= least
    assert grown < 30 * 1024 * (1 if sys.platform != "darwin" else 1024)


def test_reading_stops_at_the_first_bad_row_with_its_line():
    stream = read_rows(io.BytesIO(jsonl(*rows(3)) + b"{}\n" + jsonl(*rows(3))), Example)
    with pytest.raises(BadRow, match="Line 4: The row lacks"):
        list(stream)
