import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.datasets.examples import BadRow, Parsed
from luthier.datasets.formats import records
from luthier.datasets.mapping import MAX_MAPPED, mapped, parse_mapping, proposed, written
from luthier.errors import FieldInvalid

from .conftest import an_upload, jsonl


def row(given: dict, mapping: str) -> dict:
    found = next(iter(records(io.BytesIO(jsonl(given)), parse_mapping(mapping))))
    if isinstance(found, BadRow):
        raise found
    assert isinstance(found, Parsed)
    return found.row.canonical()


def test_fields_are_renamed_and_others_stay():
    assert row({"q": "1 + 1?", "a": 2, "id": 7}, "prompt=q,completion=a") == {"prompt": "1 + 1?", "completion": "2"}
    assert row({"q": "1 + 1?", "answer": "2"}, "prompt=q") == {"prompt": "1 + 1?", "item": {"answer": "2"}}
    assert row({"body": "b", "kind": 3}, "text=body,label=kind") == {"text": "b", "label": "3"}
    assert row({"Context": "c", "Ask": None, "a": "b"}, "prompt=Context+Ask,completion=a") == {"prompt": "c\n", "completion": "b"}
    assert row({"a": "x", "b": "y"}, "prompt=b,completion=a") == {"prompt": "y", "completion": "x"}
    assert row({"talk": [{"role": "assistant", "content": "b"}]}, "messages=talk")["messages"][0]["content"] == "b"


def test_a_row_without_the_field_is_refused():
    with pytest.raises(BadRow, match="lacks the field that `prompt` is mapped from"):
        row({"a": "b"}, "prompt=q,completion=a")
    with pytest.raises(BadRow, match="joined from is not a text"):
        row({"q": ["x"], "r": "y", "a": "b"}, "prompt=q+r,completion=a")


WRONG = ["", "prompt", "=a", "prompt=", "prompt=a,prompt=b", "pro mpt=a", "prompt=a=b"]


@pytest.mark.parametrize("text", [*WRONG, ",".join(f"a{n}=b" for n in range(MAX_MAPPED + 1))])
def test_a_mapping_that_is_none_is_refused(datasets, alice, text):
    with pytest.raises(FieldInvalid):
        datasets.upload(alice, an_upload(mapping=text))


NAMES = st.text("abcxyz", min_size=1, max_size=6)


@given(st.dictionaries(NAMES, NAMES, min_size=1, max_size=5), st.dictionaries(NAMES, st.integers() | st.text(), max_size=6))
def test_a_mapping_is_read_as_it_is_written_and_loses_no_target(mapping, fields):
    assert parse_mapping(written(mapping)) == mapping
    try:
        found = mapped(mapping, 1, fields)
    except BadRow:
        assert not set(mapping.values()) <= fields.keys()
    else:
        assert all(found[target] == fields[source] for target, source in mapping.items())


@pytest.mark.parametrize(
    ("columns", "mapping"),
    [
        (["question", "answer"], "prompt=question,completion=answer"),
        (["text", "category"], "label=category"),
        (["Review", "Sentiment"], "text=Review,label=Sentiment"),
        (["query", "better", "worse"], "prompt=query,chosen=better,rejected=worse"),
        (["conversation", "id"], "messages=conversation"),
        (["document"], "text=document"),
    ],
)
def test_a_clear_fit_is_proposed(columns, mapping):
    assert proposed(columns) == parse_mapping(mapping)


@pytest.mark.parametrize("columns", [["a", "b"], ["answer"], ["question", "query", "answer"], []])
def test_an_unclear_one_is_not(columns):
    assert proposed(columns) is None


def test_a_mapped_dataset_is_stored_mapped_and_says_so(world, datasets, alice):
    data = "Question;Category\n" + "".join(f'"Line {n}\nof two?";c{n % 2}\n' for n in range(12))
    made = datasets.upload(alice, an_upload(data.encode(), mapping="text=Question,label=Category"))
    assert made.report.mapping == {"text": "Question", "label": "Category"}
    assert (made.report.schema_name, made.rows, made.report.labels) == ("labelled", 12, {"c0": 6, "c1": 6})
    assert made.report.counts == {"delimiter": 1}
    stored = world.storage.read(f"users/team_a/data/{made.id}/processed/rows.jsonl").splitlines()
    assert stored[0] == b'{"text":"Line 0\\nof two?","label":"c0"}'


def test_a_large_file_keeps_its_mapping_until_it_is_checked(world, alice):
    small = world.start(inline_upload_bytes=10)
    made = small.upload(alice, an_upload(jsonl(*({"q": f"{n}?", "a": "b"} for n in range(12))), mapping="prompt=q,completion=a"))
    small.settle(60)
    assert small.get(alice, made.id).report.mapping == {"prompt": "q", "completion": "a"}
    small.close()
