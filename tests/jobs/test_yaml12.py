"""YAML 1.2 as configs are written in it, and everything that it refuses (bad inputs J17 to J22)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.at_once import at_once

from luthier.errors import FieldInvalid, LuthierError, TooLarge
from luthier.jobs.yaml12 import MAX_DEPTH, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("2.0e-4", 2e-4),
        (".5", 0.5),
        ("1.", 1.0),
        ("-12", -12),
        ("+12", 12),
        ("0x1F", 31),
        ("0o17", 15),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("Null", None),
        ("", None),
        ("'~'", "~"),
        ('"1"', "1"),
        ("|\n  two\n  lines\n", "two\nlines\n"),
    ],
)
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    read = read_yaml(f"a: {text}".encode())["a"]
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize("text", ["no", "yes", "on", "off", "y", "012", "01.5", "1:30", "2024-01-01", "1_000", "0b1", "<<"])
def test_j21_what_only_yaml_1_1_turns_into_something_else_stays_text(text: str) -> None:
    assert read_yaml(f"a: {text}".encode()) == {"a": text}


def test_an_empty_file_and_a_file_of_comments_hold_nothing() -> None:
    assert read_yaml(b"") is None
    assert read_yaml(b"# later\n\n") is None


def test_windows_line_ends_and_a_document_marker_are_fine() -> None:
    assert read_yaml(b"---\r\na: [1, 2]\r\nb: {c: d}\r\n") == {"a": [1, 2], "b": {"c": "d"}}


_BOMB = b"a: &a [x, x, x]\n" + b"".join(b"%c: &%c [*%c, *%c, *%c]\n" % (n, n, n - 1, n - 1, n - 1) for n in range(98, 106))
REFUSED = {
    "J17 a tag that would run code": (b"!!python/object/apply:os.system ['touch canary']", "tags_forbidden", 1, 1),
    "J17 a tag inside": (b"a: !!int '3'", "tags_forbidden", 1, 4),
    "J18 an alias bomb": (_BOMB, "aliases_forbidden", 1, 4),
    "J18 an alias of nothing": (b"a: *b", "aliases_forbidden", 1, 4),
    "J19 a key twice": (b"a: 1\nb: 2\na: 3", "duplicate_key", 3, 1),
    "J19 a key twice inside": (b"t: {a: 1, a: 1}", "duplicate_key", 1, 11),
    "J20 3,000 lists": (b"[" * 3000 + b"]" * 3000, "too_deep", 1, MAX_DEPTH + 1),
    "J20 3,000 lists in block style": (b"- " * 3000, "too_deep", 1, MAX_DEPTH * 2 + 1),
    "J20 3,000 mappings": (b"{a: " * 3000, "too_deep", 1, MAX_DEPTH * 4 + 1),
    "J22 two documents": (b"a: 1\n---\nb: 2", "two_documents", 2, 1),
    "J22 a tab": (b"a:\n\t- 1", "yaml_character", 2, 1),
    "J22 a byte order mark": (b"\xef\xbb\xbfa: 1", "yaml_character", 1, 1),
    "J22 carriage returns only": (b"a: 1\rb: 2", "yaml_character", 1, 5),
    "UTF-16": ("a: 1".encode("utf-16"), "yaml_encoding", 1, 1),
    "half a character": (b"a: 1\nb: \xc3", "yaml_encoding", 2, 4),
    "NUL": (b"a: \x00", "yaml_character", 1, 4),
    "an escape sequence": (b"a: \x1b[31m", "yaml_character", 1, 4),
    "an escaped NUL": (b'a: "\\0"', "yaml_character", 1, 4),
    "a lone surrogate": (b'a: "\\uD800"', "yaml_character", 1, 4),
    "infinity": (b"a: -.inf", "number_invalid", 1, 4),
    "not a number": (b"a: .NaN", "number_invalid", 1, 4),
    "a float beyond floats": (b"a: 1e999", "number_invalid", 1, 4),
    "an integer that JSON cannot carry": (b"a: 9007199254740993", "number_invalid", 1, 4),
    "60,000 digits": (b"a: " + b"9" * 60000, "number_invalid", 1, 4),
    "a key that is a number": (b"1: a", "key_invalid", 1, 1),
    "a key that is a list": (b"? [a]\n: b", "key_invalid", 1, 3),
    "an open bracket": (b"a: [1,", "yaml_syntax", 1, 7),
    "a mapping in a scalar": (b"a: b: c", "yaml_syntax", 1, 5),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_surprises_or_attacks_is_refused_with_its_place(name: str) -> None:
    data, code, line, column = REFUSED[name]
    with at_once(), pytest.raises(FieldInvalid, match=f"line {line}, column {column}:") as refused:
        read_yaml(data)
    assert refused.value.error_code == code
    assert refused.value.details == {"line": line, "column": column}
    assert refused.value.hint


def test_a_file_beyond_the_limit_is_refused_unread() -> None:
    with pytest.raises(TooLarge, match="65537 bytes; 65536"):
        read_yaml(b"#" * 65537)
    assert read_yaml(b"#" * 65536) is None


def test_a_syntax_error_does_not_repeat_the_input() -> None:
    for data in (b"a: @secret", b"a: %secret", b"a: [secret", b"&secret", b'a: "\\secret"', b"%TAG !secret! x\n" * 2):
        with pytest.raises(FieldInvalid) as refused:
            read_yaml(data)
        assert "secret" not in str(refused.value)


def test_a_syntax_error_names_the_signs_that_it_waited_for() -> None:
    with pytest.raises(FieldInvalid, match="expected ',' or '}', but got ':'"):
        read_yaml(b"train: {epochs: 1\nlora: {rank: 16}\n")


@given(st.binary(max_size=200) | st.text(alphabet="ab:-?[]{}&*!|>'\"%#,\n 01.~", max_size=80).map(str.encode))
def test_any_bytes_give_a_value_or_a_refusal(data: bytes) -> None:
    try:
        read_yaml(data)
    except LuthierError as refused:
        assert refused.hint  # noqa: PT017  # either outcome is fine, a third is not
