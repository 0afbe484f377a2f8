"""Rows D21 to D24 of the catalogue of bad input, and how a table is told from other files."""

import io

import pytest

from luthier.datasets.examples import BadRow, FileRemark, Parsed
from luthier.datasets.formats import records
from luthier.datasets.lines import format_of
from luthier.datasets.tables import table_of

from .conftest import an_upload

TEXTS = "text,label\n" + "".join(f"Word {n}.,{'ab'[n % 2]}\n" for n in range(12))


def read(data: str | bytes) -> list:
    return list(records(io.BytesIO(data.encode() if isinstance(data, str) else data)))


def bad(data: str | bytes) -> list[tuple[int | None, str]]:
    return [(each.line, each.code) for each in read(data) if isinstance(each, BadRow)]


def canonical(data: str) -> list[dict]:
    return [each.row.canonical() for each in read(data) if isinstance(each, Parsed)]


def remarks(data: str) -> list[str]:
    return [each.remark.code for each in read(data) if isinstance(each, FileRemark)]


def test_every_kind_of_row_that_is_flat_can_be_a_table():
    assert canonical("prompt,completion,weight\n1+1,2,0.5\n3+3,6,\n")[0] == {"prompt": "1+1", "completion": "2", "weight": 0.5}
    assert canonical("instruction,input,output\nAdd.,,2\n")[0]["messages"][0]["content"] == "Add."
    assert canonical("prompt,chosen,rejected\na,b,c\n") == [{"prompt": "a", "chosen": "b", "rejected": "c"}]
    assert canonical("prompt,completion,label\na,b,TRUE\na,c,false\n")[1]["label"] is False
    assert canonical("prompt,answer\na,2\n") == [{"prompt": "a", "item": {"answer": "2"}}]
    talk = '"[{""role"": ""user"", ""content"": ""a""}, {""role"": ""assistant"", ""content"": ""b""}]"'
    assert canonical(f"id,messages\n1,{talk}\n")[0]["messages"][1]["content"] == "b"
    assert canonical(",text\n0,a\n1,b\n") == [{"prompt": "", "completion": "a"}, {"prompt": "", "completion": "b"}]


def test_a_row_of_many_lines_is_told_by_its_first():
    assert bad('text,label\n"a\nb\nc",x\n"d\ne"\nf,y\n') == [(5, "csv_syntax")]
    assert len(canonical('text,label\n"a\nb\nc",x\nd,y\n')) == 2


def test_d21_a_cell_that_is_too_long():
    assert bad(f"text,label\n{'a' * 131_073},b\n")[0][1] == "csv_syntax"


@pytest.mark.parametrize(("line", "where"), [('"open,a\n', 14), ("a,b,c\n", 14), ("a\n", 14), ("a\0b,c\n", 14)])
def test_d22_rows_that_are_no_csv(line, where):
    assert bad(TEXTS + line)[0][0] == where


def test_d23_a_formula_is_a_text():
    assert canonical("text,label\n=cmd|'/c calc'!A0,a\n@SUM(1),b\n")[0]["text"] == "=cmd|'/c calc'!A0"


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_d24_other_separators_are_read_and_remarked(datasets, alice, delimiter):
    report = datasets.upload(alice, an_upload(TEXTS.replace(",", delimiter).encode())).report
    assert (report.format, report.usable_rows, report.counts) == ("csv", 12, {"delimiter": 1})


def test_d24_a_table_without_a_header_is_refused():
    assert bad(TEXTS.partition("\n")[2]) == [(1, "header")]
    assert bad("text,label,label\na,b,c\n") == [(1, "duplicate_column")]


def test_names_of_columns_are_read_loosely_and_remarked():
    assert remarks(" Text ,LABEL\na,b\n") == ["column_name"]
    assert canonical(" Text ,LABEL\na,b\n") == [{"text": "a", "label": "b"}]
    assert remarks(TEXTS) == []


def test_empty_cells_are_told():
    assert [line for line, _ in bad("text,label\n,a\nb,\n  ,c\nd,e\n")] == [2, 3, 4]


def test_other_encodings_are_refused_with_their_line():
    assert bad("text,label\na,b\nGrüße,c\n".encode("latin-1")) == [(3, "encoding")]
    assert bad(TEXTS.encode("utf-16")) == [(1, "encoding")]


PROSE = "Luthiers make instruments, and mend them.\nThey work with wood.\n\nAnd glue; varnish, too.\n"


def test_plain_text_is_read_line_by_line_and_remarked():
    assert [each["completion"] for each in canonical(PROSE)] == [line for line in PROSE.splitlines() if line]
    assert remarks(PROSE) == ["plain_text"]
    assert bad(PROSE.encode() + "é".encode("latin-1") * 5000)[-1][1] == "encoding"


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b'{"a": 1}\n', "jsonl"),
        (b"null\n", "jsonl"),
        (b"prose\n{'a': None}\n", "jsonl"),
        (b"\0\1\2", "jsonl"),
        (b"\xff\xfe prose", "jsonl"),
        (b" [1]", "json"),
        (b"a;b\n1;2\n", "csv"),
        (b"One, two.\nThree.\n", "text"),
    ],
)
def test_the_format_is_told_by_how_a_file_starts(head, name):
    assert format_of(head) == name


def test_a_table_is_told_by_known_columns_or_by_equal_rows():
    assert table_of(b"text\tlabel\n").delimiter == "\t"
    assert table_of(b"a;b,c\nd;e\nf;g,h\ni;j\n").delimiter == ";"
    assert table_of(b"One, two\nand three, four, five.\nSix.\n") is None
    assert table_of(b"q,kind\n", {"text": "q", "label": "kind"}).header
