"""Similarities with values worked out by hand and against the textbook's table; the number that a text ends with."""

from __future__ import annotations

import tracemalloc
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.graders import texts
from luthier.graders.texts import last_number, longest_common, ratio, rouge_l, token_f1

SHORT = st.text(alphabet="abcé ", max_size=40)


def table_lcs(one: str, other: str) -> int:
    """The textbook's dynamic programme."""
    before = [0] * (len(other) + 1)
    for left in one:
        row = [0]
        for at, right in enumerate(other):
            row.append(before[at] + 1 if left == right else max(before[at + 1], row[-1]))
        before = row
    return before[-1]


@given(SHORT, SHORT)
def test_the_longest_common_subsequence_is_the_textbooks(one, other):
    assert longest_common(one, other) == table_lcs(one, other)


@given(st.lists(st.integers(0, 3), max_size=30), st.lists(st.integers(0, 3), max_size=30), st.integers(1, 9))
@settings(max_examples=200)
def test_blocks_carry_over_into_each_other(one, other, size):
    carries = bytearray(len(other))
    blocks = [one[start : start + size] for start in range(0, len(one), size)]
    common = sum(texts._common_of(block, other, carries) for block in blocks)
    assert common == table_lcs(one, other)


@pytest.mark.parametrize("length", [4095, 4096, 4097, 9000])
def test_texts_longer_than_a_block(length):
    assert longest_common("ab" * (length // 2), "b" * length) == length // 2
    assert longest_common("x" * length, "x" * length) == length


def test_memory_stays_small_when_every_character_differs():
    text = "".join(map(chr, range(0x10000, 0x15000)))
    tracemalloc.start()
    try:
        assert ratio(text, text) == 1.0
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("one", "other", "value"),
    [
        ("", "", 1.0),
        ("", "a", 0.0),
        ("abc", "abc", 1.0),
        ("abc", "xyz", 0.0),
        ("abcd", "bd", 2 * 2 / 6),  # bd
        ("kitten", "sitting", 2 * 4 / 13),  # ittn
        ("ABC", "abc", 0.0),
        ("aaaa", "aa", 2 * 2 / 6),
        ("naïve", "naive", 2 * 4 / 10),
    ],
)
def test_ratio_by_hand(one, other, value):
    assert ratio(one, other) == ratio(other, one) == pytest.approx(value, abs=1e-15)


@pytest.mark.parametrize(
    ("one", "other", "value"),
    [
        ("", "", 1.0),
        ("a", "", 0.0),
        ("...", "!", 1.0),  # no words on either side
        ("Paris.", "paris", 1.0),
        ("cat the", "The cat", 1.0),  # in any order
        ("the the the", "the", 2 * 1 / 4),  # precision 1/3, recall 1
        ("a a b", "a b b", 2 * 2 / 6),  # min of the counts: a 1, b 1
        ("the capital is Paris", "Paris", 2 * 1 / 5),  # precision 1/4, recall 1
    ],
)
def test_token_f1_by_hand(one, other, value):
    assert token_f1(one, other) == token_f1(other, one) == pytest.approx(value, abs=1e-15)


@pytest.mark.parametrize(
    ("one", "other", "value"),
    [
        ("", "", 1.0),
        ("a", "", 0.0),
        ("police killed the gunman", "police kill the gunman", 3 / 4),  # Lin 2004, section 3.1: S2 against S1
        ("the gunman kill police", "police killed the gunman", 2 / 4),  # S3 against S1: "the gunman"
        ("a b c d e", "e d c b a", 1 / 5),
        ("a b c", "a x b y c z", 2 * 3 / 9),
        ("The cat.", "the CAT", 1.0),
    ],
)
def test_rouge_l_by_hand(one, other, value):
    assert rouge_l(one, other) == rouge_l(other, one) == pytest.approx(value, abs=1e-15)


@given(st.text(max_size=60), st.text(max_size=60))
def test_similarities_are_shares_and_the_order_of_words_only_costs(one, other):
    for measure in (ratio, token_f1, rouge_l):
        assert 0.0 <= measure(one, other) <= 1.0
        assert measure(one, one) == 1.0
    assert rouge_l(one, other) <= token_f1(one, other) + 1e-12


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("", None),
        ("no digits: ٣, ², Ⅷ", None),
        ("42", "42"),
        ("3 + 4 = 7.", "7"),
        ("$2,125.50.", "2125.50"),
        ("1,234,567", "1234567"),
        ("1,2,3", "3"),
        ("1,2345", "2345"),
        ("-3", "-3"),
        ("5-3", "3"),  # a difference, not a sign
        ("5 - -3", "-3"),
        ("(4)-3", "3"),
        ("\u22127", "-7"),
        ("+.5", "0.5"),
        ("1.5e-3", "0.0015"),
        ("6.02E23 per mole", "6.02E23"),
        ("v1.2.", "1.2"),
        ("half is 1/2", "2"),
        ("12%", "12"),
    ],
)
def test_the_last_number(text, number):
    assert last_number(text) == (None if number is None else Decimal(number))


@pytest.mark.parametrize("text", ["1" * 65_536, "1,111" * 13_000, "1,111," * 10_000, "1." * 32_000, "-" * 65_536, "1e" * 32_000])
def test_the_last_number_of_a_hostile_text_is_found_in_no_time(text):
    assert (last_number(text) is None) == (text[0] == "-")
