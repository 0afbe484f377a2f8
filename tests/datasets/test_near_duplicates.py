"""Near duplicates against a plain comparison of all rows with all."""

import random
from array import array

import pytest

from luthier.datasets.examples import Example
from luthier.datasets.keeping import Keepsakes, Kept
from luthier.datasets.near_duplicates import NearDuplicates, pairs_of
from luthier.datasets.strict_json import dump

from .conftest import an_upload, chat, jsonl, rows

WORDS = [f"{a}{b}" for a in ("par", "cel", "lo", "st", "ne", "ver", "tru", "ck") for b in ("ing", "ed", "s", "er", "est", "ly")]


def looked(tmp_path, texts: list[str], most_rows: int = 200_000) -> NearDuplicates:
    with Kept(tmp_path / "rows", tmp_path) as kept:
        stored = [dump(Example(prompt="Say it.", completion=text).canonical()) + b"\n" for text in texts]
        lines = array("Q", range(1, len(texts) + 1))
        kept.add(Keepsakes(b"", b"".join(stored), lines, array("Q", map(len, stored))))
        kept.close()
    found = NearDuplicates(most_rows, 1000)
    found.look(tmp_path / "rows", tmp_path / "index", len(texts))
    return found


def changed(chance: random.Random, text: str, words: int) -> str:
    parts = text.split()
    for at in chance.sample(range(len(parts)), words):
        parts[at] = chance.choice(WORDS)
    return " ".join(parts)


def test_nearly_all_rows_that_share_most_of_their_words_are_found_and_no_others(tmp_path):
    chance = random.Random(3)
    texts = [" ".join(chance.choices(WORDS, k=chance.randint(40, 120))) for _ in range(300)]
    texts += [changed(chance, text, chance.randint(1, 3)) for text in texts[:100]]
    stored = [pairs_of(dump(Example(prompt="Say it.", completion=text).canonical()) + b"\n") for text in texts]
    really = {
        line
        for line, pairs in enumerate(stored, 1)
        if any(len(pairs & before) >= 0.8 * len(pairs | before) for before in stored[: line - 1])
    }
    found = {line for line, _ in looked(tmp_path, texts).found}
    assert found <= really
    assert len(found) >= 0.95 * len(really) > 50


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("The parcel is on its way and will be with you by the end of this week.", None, False),
        ("The parcel is on its way and will be with you by the end of this week.", "THE", True),
        ("Short one.", "Short two.", False),
        ("荷物は発送されました。今週末までにお届けします。しばらくお待ちください。" * 2, "。", True),
    ],
    ids=["the same", "capitals", "short", "without spaces"],
)
def test_what_counts_as_nearly_the_same(tmp_path, one, other, alike):
    second = one if other is None else one.replace("The", other) if other == "THE" else one + other if alike else other
    assert bool(looked(tmp_path, [one, second]).found.count) == alike


def test_of_many_rows_each_nth_is_compared(tmp_path):
    text = " ".join(WORDS)
    found = looked(tmp_path, [f"{number} {text}" for number in range(10)], most_rows=4)
    assert (found.looked_at, found.of, list(found.found)) == (4, 10, [(4, 1), (7, 1), (10, 1)])


def test_the_report_tells_them_by_line(datasets, alice):
    text = " ".join(WORDS)
    report = datasets.upload(alice, an_upload(jsonl(*rows(), chat("a?", text), chat("a?", text + " indeed.")))).report
    assert (report.near_duplicates, report.compared_rows) == (1, 14)
    told = [(each.line, each.message) for each in report.findings if each.code == "near_duplicate"]
    assert told == [(14, "The row is nearly the same as line 13.")]
