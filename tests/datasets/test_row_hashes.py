"""Rows that are there twice, contradict each other, or are in two files: exact, and held against plain sets."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.datasets import row_hashes
from luthier.datasets.examples import Example, Labelled, Pair, Rated, Row
from luthier.datasets.row_hashes import Difference, Repeats, Spill, overlap
from luthier.datasets.strict_json import dump


def ask(prompt: str, answer: str) -> Row:
    return Example(messages=({"role": "user", "content": prompt}, {"role": "assistant", "content": answer}))


def written(path: Path, rows: list[Row], at_once: int = 1000) -> Path:
    """A sorted file of rows on lines 1, 2, 3, ..."""
    spill = Spill(path.parent, at_once)
    for line, row in enumerate(rows, 1):
        spill.add(row_hashes.hashes(row, dump(row.canonical()) + b"\n", line))
    spill.close(path)
    return path


def repeats(tmp_path: Path, rows: list[Row]) -> tuple[list, list]:
    found = Repeats(20)
    found.look(written(tmp_path / "hashes", rows))
    return list(found.duplicates), list(found.conflicts)


def test_equal_rows_and_contradictions_are_told_by_line(tmp_path):
    rows = [ask("a", "1"), ask("b", "1"), ask("a", "1"), ask("a", "2"), ask("c", "1")]
    duplicates, conflicts = repeats(tmp_path, rows)
    assert duplicates == [(3, 1)]
    assert [line for line, _ in conflicts] in ([4], [3])


PROMPT = ({"role": "user", "content": "1 + 1?"},)


def told(answer: str) -> Example:
    return Example(messages=(*PROMPT, {"role": "assistant", "content": answer}))


CONTRADICTIONS = {
    "texts": (Example(prompt="1 + 1 =", completion="2"), Example(prompt="1 + 1 =", completion="3")),
    "labels": (Labelled("a", text="hello"), Labelled("b", text="hello")),
    "images": (Labelled("a", pixels=(0, 0, 1, 1)), Labelled("b", pixels=(0, 0, 1, 1))),
    "pairs": (Pair(told("2"), told("3")), Pair(told("3"), told("2"))),
    "ratings": (Rated(told("2"), label=True), Rated(told("2"), label=False)),
}


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_a_contradiction_is_found_in_each_kind_of_rows(tmp_path, kind):
    assert repeats(tmp_path, list(CONTRADICTIONS[kind])) == ([], [(2, 1)])


@pytest.mark.parametrize(
    "rows",
    [
        [Pair(told("2"), told("3")), Pair(told("2"), told("4"))],
        [Rated(told("2"), label=True), Rated(told("3"), label=False)],
        [Example(prompt="", completion="one text"), Example(prompt="", completion="another")],
        [Example(messages=({"role": "system", "content": "Be brief."}, {"role": "assistant", "content": text})) for text in "ab"],
        [told('x","completion":"{"role":"assistant"'), Example(messages=(*PROMPT, *told("y").messages))],
    ],
    ids=["pairs", "ratings", "no prompt", "only a system prompt", "another conversation"],
)
def test_what_is_no_contradiction_is_not_told(tmp_path, rows):
    assert repeats(tmp_path, rows) == ([], [])


TEXTS = st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("xyz")), max_size=30)


@given(rows=TEXTS, other=TEXTS)
def test_runs_on_disk_and_plain_sets_agree(tmp_path_factory, rows, other):
    folder = tmp_path_factory.mktemp("runs")
    mine = written(folder / "mine", [ask(*row) for row in rows], 4)
    theirs = written(folder / "theirs", [ask(*row) for row in other], 4)
    found = Repeats(1000)
    found.look(mine)
    assert {line for line, _ in found.duplicates} == {n for n, row in enumerate(rows, 1) if row in rows[: n - 1]}
    assert found.conflicts.count == len(set(rows)) - len({prompt for prompt, _ in rows})
    assert sorted(found.again) == [line for line, _ in found.duplicates]

    shared = overlap(mine, theirs, 1000)
    assert [line for line, _ in shared.rows] == [n for n, row in enumerate(rows, 1) if row in other]
    asked = {prompt for prompt, _ in other}
    assert [line for line, _ in shared.prompts] == [n for n, row in enumerate(rows, 1) if row not in other and row[0] in asked]
    assert all(other[at - 1] == rows[line - 1] for line, at in shared.rows)

    difference = Difference(1000)
    difference.look(theirs, mine)
    assert difference.same + difference.changed.count + difference.added.count == len(rows)
    assert difference.same + difference.changed.count + difference.dropped.count == len(other)
    for new, old in difference.changed:
        assert rows[new - 1][0] == other[old - 1][0]
    assert not {rows[n - 1][0] for n, _ in difference.added} & {other[n - 1][0] for n, _ in difference.dropped}


def test_only_the_first_lines_are_kept_and_all_are_counted(tmp_path):
    found = Repeats(3)
    found.look(written(tmp_path / "hashes", [ask("a", "1")] * 50))
    assert (found.duplicates.count, list(found.duplicates)) == (49, [(2, 1), (3, 1), (4, 1)])
