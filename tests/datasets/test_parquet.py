"""Rows D25 to D28 of the catalogue of bad input, and what is read of Parquet."""

import gzip
import io
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pytest
from pyarrow import parquet

from luthier.datasets import rules
from luthier.errors import DatasetRejected, TooLarge

from .conftest import an_upload, jsonl, rows


def written(columns: dict | pa.Table, **more) -> bytes:
    file = io.BytesIO()
    parquet.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), file, **more)
    return file.getvalue()


def stored(world, dataset) -> bytes:
    return world.storage.read(f"users/{dataset.tenant_id}/data/{dataset.id}/processed/rows.jsonl")


def refused(datasets, alice, data: bytes, error: type = DatasetRejected) -> dict:
    with pytest.raises(error) as refusal:
        datasets.upload(alice, an_upload(data))
    return refusal.value.details


PLENTY = rows(300)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_conversations_are_read_as_they_would_be_from_json(world, datasets, alice, pack):
    data = written({"messages": [row["messages"] for row in PLENTY]}, row_group_size=70)
    made = datasets.upload(alice, an_upload(pack(data)))
    assert (made.report.format, made.rows, made.report.counts) == ("parquet", 300, {})
    assert made.report.containers == (() if pack is bytes else ("gzip",))
    assert made.rows_sha256 == datasets.upload(alice, an_upload(jsonl(*PLENTY))).rows_sha256


def test_fields_that_arrow_fills_with_null_are_gone(world, datasets, alice):
    call = [{"type": "function", "function": {"name": "f", "arguments": {"a": 1, "b": None}}}]
    talk = [
        {"role": "user", "content": "x", "tool_calls": None},
        {"role": "assistant", "content": None, "tool_calls": call},
    ]
    other = [{"role": "user", "content": "y"}, {"role": "assistant", "content": "z", "tool_calls": None}]
    made = datasets.upload(alice, an_upload(written({"messages": [talk, other], "tools": [[{"name": "f"}], None]})))
    assert b'"arguments":{"a":1}' in stored(world, made)
    assert stored(world, made).count(b"null") == 0


def test_numbers_dates_and_maps_are_written_as_json_would_have_them(world, datasets, alice):
    columns = {
        "prompt": ["1 + 1?"],
        "answer": [2.0],
        "day": [datetime(2026, 11, 21, tzinfo=UTC)],
        "price": [Decimal("1.50")],
        "missing": [float("nan")],
        "pairs": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
        "__index_level_0__": [7],
    }
    made = datasets.upload(alice, an_upload(written(columns)))
    item = b'"item":{"answer":2.0,"day":"2026-11-21 00:00:00+00:00","price":"1.50","missing":null,"pairs":{"a":1}}'
    assert item in stored(world, made)


def test_texts_with_labels_and_a_mapping(datasets, alice):
    data = written({"sentence": [f"line {n}" for n in range(12)], "topic": pa.array(["a", "b"] * 6).dictionary_encode()})
    assert "--map text=sentence,label=topic" in refused(datasets, alice, data)["findings"][0]["fix"]
    made = datasets.upload(alice, an_upload(data, mapping="text=sentence,label=topic"))
    assert made.report.labels == {"a": 6, "b": 6}


def test_d25_a_damaged_file_is_refused_and_counts_no_rows(datasets, alice):
    good = written({"messages": [row["messages"] for row in PLENTY]}, compression="none")
    middle = good[: len(good) // 2] + b"\xff" * 400 + good[len(good) // 2 + 400 :]
    for data in (good[:-8], b"XXXX" + good[4:], b"PAR1", good[:100] + good[-100:], middle, b"PAR1" + b"\0" * 100 + b"PARE"):
        details = refused(datasets, alice, data)
        assert (details["findings"][-1]["code"], details["findings"][-1]["line"]) == ("parquet", None)


def test_a_file_without_rows_is_empty(datasets, alice):
    details = refused(datasets, alice, written({"text": pa.array([], pa.string())}))
    assert (details["rows"], list(details["counts"])) == (0, ["dataset_empty"])


def test_d26_an_extension_type_is_read_as_what_it_stores(datasets, alice):
    columns = {"text": [f"line {n}" for n in range(12)], "points": pa.array([[1, 2]] * 12, pa.list_(pa.int8()))}
    shape = pa.fixed_shape_tensor(pa.int8(), (2,))
    columns["points"] = pa.ExtensionArray.from_storage(shape, pa.array([[1, 2]] * 12, shape.storage_type))
    assert datasets.upload(alice, an_upload(written(columns))).rows == 12


def test_d27_more_rows_than_are_taken_are_refused_before_they_are_read(datasets, alice):
    data = written({"text": pa.array([None] * (rules.MAX_ROWS + 1), pa.string())})
    assert refused(datasets, alice, data, TooLarge)["counts"] == {"too_many_rows": 1}


def test_d27_a_dictionary_that_unfolds_without_end(datasets, alice):
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 30_000, pa.int32()), ["x" * 1_000_000])
    data = written(pa.table({"text": text}))
    assert len(data) < 100_000
    with pytest.raises((DatasetRejected, TooLarge)):
        datasets.upload(alice, an_upload(data))
    assert datasets.upload(alice, an_upload()).rows == 12


def test_d28_columns_of_bytes(datasets, alice):
    details = refused(datasets, alice, written({"text": pa.array([b"\xff\xfe"] * 12), "label": ["a", "b"] * 6}))
    assert (details["rows"], details["counts"], details["findings"][0]["line"]) == (12, {"columns": 12}, 1)
