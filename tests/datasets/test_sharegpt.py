import io

import pytest

from luthier.datasets.examples import BadRow
from luthier.datasets.formats import Example, read_rows

from .conftest import jsonl


def read(row: dict):
    return next(read_rows(io.BytesIO(jsonl(row)), Example))


def turns(*pairs: tuple) -> list[dict]:
    return [{"from": speaker, "value": said} for speaker, said in pairs]


def test_turns_tools_and_results_become_messages():
    call = '{"name": "find", "arguments": {"what": "soup"}}'
    row = {
        "conversations": turns(("human", "Soup?"), ("function_call", call), ("observation", "[]"), ("gpt", "None.")),
        "system": "Be brief.",
        "tools": '[{"name": "find", "parameters": {}}]',
    }
    example = read(row)
    assert [message["role"] for message in example.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert example.messages[2]["tool_calls"][0]["function"] == {"name": "find", "arguments": {"what": "soup"}}
    assert example.tools == ({"name": "find", "parameters": {}},)
    assert read(example.canonical()) == example


def test_several_calls_weights_and_turns_of_openai_are_read():
    calls = '[{"name": "a", "arguments": {}}, {"name": "b", "arguments": {}}]'
    assert len(read({"conversations": turns(("user", "x"), ("function_call", calls))}).messages[1]["tool_calls"]) == 2
    weighed = [*turns(("human", "x")), {"from": "gpt", "value": "y", "weight": 0}, *turns(("human", "z"), ("gpt", "w"))]
    assert read({"conversations": weighed}).messages[1]["weight"] == 0
    mixed = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    assert read({"conversations": mixed}).messages == read({"messages": mixed}).messages


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"conversations": "x"}, "bad_type"),
        ({"conversations": ["x"]}, "bad_type"),
        ({"conversations": turns(("robot", "x"))}, "roles"),
        ({"conversations": [{"value": "x"}]}, "missing_role"),
        ({"conversations": turns(("human", "x"), ("gpt", ""))}, "empty_content"),
        ({"conversations": turns(("human", "x"), ("gpt", None))}, "missing_field"),
        ({"conversations": turns(("human", "x"), ("function_call", "f()"))}, "tool_args"),
        ({"conversations": turns(("human", "x"), ("gpt", "y")), "tools": "{"}, "tool_args"),
        ({"conversations": turns(("human", "x"), ("gpt", "y")), "tools": '{"a": 1}'}, "bad_type"),
        ({"conversations": turns(("human", "x"))}, "no_target"),
    ],
)
def test_a_row_that_cannot_be_learned_is_refused(row, code):
    with pytest.raises(BadRow) as refusal:
        read(row)
    assert refusal.value.code == code


def test_parts_and_weights_as_llama_factory_writes_them():
    def part(said):
        return [{"type": "text", "value": said}]

    talk = [
        {"role": "user", "content": part("a"), "loss_weight": 0.0},
        {"role": "assistant", "content": part("b"), "loss_weight": 0.0},
        {"role": "user", "content": part("c"), "loss_weight": 0.0},
        {"role": "assistant", "content": part("d"), "loss_weight": 1.0},
    ]
    assert [(message["content"], message.get("weight")) for message in read({"messages": talk}).messages] == [
        ("a", None),
        ("b", 0),
        ("c", None),
        ("d", 1),
    ]
