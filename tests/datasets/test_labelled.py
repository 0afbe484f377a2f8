"""Rows for classifiers: labelled texts and images, as JSON and as CSV."""

import gzip
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.datasets.formats import BadRow, Labelled, read_rows, records
from luthier.errors import DatasetRejected

from .conftest import an_upload

FOUR = [0, 128, 255, 7]


def read(data: bytes) -> list[Labelled]:
    return list(read_rows(io.BytesIO(data), Labelled))


def bad(data: bytes) -> tuple[int | None, str]:
    first = next(row for row in records(io.BytesIO(data)) if isinstance(row, BadRow))
    return first.line, first.code


@pytest.mark.parametrize(
    "data",
    [
        b"text,label\nhello,greeting\n",
        b'\xef\xbb\xbf"Text";"Label"\r\n"hello";"greeting"\r\n',
        b"label\tid\ttext\ngreeting\t1\thello\n",
        b'{"text": "hello", "label": "greeting"}\n',
        b'[{"text": "hello", "label": " greeting "}]',
    ],
)
def test_a_labelled_text_is_the_same_row_in_every_format(data):
    (row,) = read(data)
    assert (row.text, row.label, row.pixels) == ("hello", "greeting", None)


@pytest.mark.parametrize(
    "data",
    [
        b"7,0,128,255,7\n",
        b"label,pixel0,pixel1,pixel2,pixel3\n7,0,128,255,7\n",
        b"1x1,1x2,2x1,2x2,label\n0,128,255,7,7\n",
        b'{"image": [0, 128, 255, 7], "label": 7}\n',
        b'{"label": "7", "image": [0, 128, 255, 7]}\n',
    ],
)
def test_a_labelled_image_is_the_same_row_in_every_format(data):
    (row,) = read(data)
    assert (list(row.pixels or ()), row.label) == (FOUR, "7")
    assert read(json.dumps(row.canonical()).encode())[0].canonical() == row.canonical()


def test_a_header_longer_than_what_the_format_is_told_by_is_still_a_header():
    class Dripping(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, 600))

    names = ",".join(f"pixel{at}" for at in range(784))
    rows = list(read_rows(Dripping(f"label,{names}\n3{',0' * 784}\n".encode()), Labelled))
    assert [(row.label, len(row.pixels or ())) for row in rows] == [("3", 784)]


@given(
    st.lists(st.tuples(st.text(st.characters(codec="utf-8", exclude_characters="\0\r")), st.text("abc7", min_size=1)), min_size=1)
)
def test_whatever_a_text_holds_csv_gives_it_back(rows):
    def quoted(text):
        return '"' + text.replace('"', '""') + '"'

    data = "text,label\n" + "".join(f"{quoted(text)},{label}\n" for text, label in rows)
    found = [row for row in records(io.BytesIO(data.encode())) if not isinstance(row, BadRow)]
    assert [(each.row.text, each.row.label) for each in found] == [(text, label) for text, label in rows if text.strip()]


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b"text,label\na,b\nc\n", (3, "csv_syntax")),
        (b'text,label\n"a,b\n', (2, "csv_syntax")),
        (b"text,label\n" + b"a" * 200_000 + b",b\n", (2, "csv_syntax")),
        (b"text,label\na\0,b\n", (2, "nul_character")),
        (b"text,label\n\xff,b\n", (2, "encoding")),
        (b"text,label\n ,b\n", (2, "empty_content")),
        (b"text,label\na, \n", (2, "bad_value")),
        (b"7,0,nan,0,0\n", (1, "bad_value")),
        (b"7,0,inf,0,0\n", (1, "bad_value")),
        (b"7,0,256,0,0\n", (1, "bad_value")),
        (b"7,0,-1,0,0\n", (1, "bad_value")),
        (b"7,0,0,0,0,0\n", (1, "bad_value")),
        (b"7,0,0,0,0\n7,0,zero,0,0\n", (2, "bad_type")),
        (b"text,label\n" + b"a" * (1 << 21), (2, "line_too_long")),
        (b'{"image": [0, 0, 0, NaN], "label": 1}\n', (1, "json_syntax")),
        (b'{"image": [0, 0, 0, true], "label": 1}\n', (1, "bad_type")),
        (b'{"image": "0000", "label": 1}\n', (1, "bad_type")),
        (b'{"image": [], "label": 1}\n', (1, "bad_type")),
        (b'{"image": [0, 0, 0, 0], "label": 1.5}\n', (1, "bad_type")),
        (b'{"text": "a", "label": true}\n', (1, "bad_type")),
        (b'{"text": null, "label": "a"}\n', (1, "missing_field")),
        (b'{"text": "a", "label": "b\\nc"}\n', (1, "bad_value")),
        (b'{"text": "a", "label": "b"}\n{"image": [0, 0, 0, 0], "label": 1}\n', (2, "schema_mismatch")),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_with_its_line(data, where):
    assert bad(data) == where


def test_other_tables_are_no_datasets():
    assert bad(b"a,b\n1,2\n") == (2, "missing_field")


def test_an_upload_counts_its_classes_and_serves_the_method(datasets, alice):
    lines = "".join(f"{at % 3},{at},0,0,255\n" for at in range(30))
    dataset = datasets.upload(alice, an_upload(lines.encode(), file_name="digits.csv"))
    report = dataset.report
    assert (dataset.name, dataset.rows, dataset.tokens) == ("digits", 30, None)
    assert (report.format, report.schema_name, report.methods) == ("csv", "images", ("classifier",))
    assert report.labels == {"0": 10, "1": 10, "2": 10}
    assert report.counts == {}


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ("".join(f"1,{at},0,0,0\n" for at in range(12)), "one_label"),
        ("1,0,0,0,0\n2,0,0,0,0\n", None),
        ('{"image": [0, 0, 0, 0], "label": 1}\n{"image": [0, 0, 0, 0, 0, 0, 0, 0, 0], "label": 2}\n', "bad_value"),
        ("text,label\n" + "".join(f"word,{at}\n" for at in range(1001)), "too_many_labels"),
    ],
)
def test_what_only_the_whole_file_can_tell(datasets, alice, data, code):
    if code is None:
        assert datasets.upload(alice, an_upload(data.encode())).rows == 2
        return
    with pytest.raises(DatasetRejected) as refused:
        datasets.upload(alice, an_upload(data.encode()))
    assert refused.value.error_code == code


def test_a_zipped_table_says_to_unpack_it():
    assert bad(gzip.compress(b"7,0,0,0,0\n")) == (1, "encoding")
