"""Rows that are rendered in groups, while others are tokenised, are the rows that are rendered one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import luthier
from luthier.datasets import learning
from luthier.datasets.examples import BadRow, Example, Pair, Rated
from luthier.datasets.rendering import Renderer

TINY = Path(luthier.__file__).parent / "bases" / "tiny"
texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30).filter(str.strip)


@pytest.fixture(scope="module")
def renderer():
    return Renderer.load(TINY)


def chat(asked: str, answered: str) -> Example:
    return Example(messages=({"role": "user", "content": asked}, {"role": "assistant", "content": answered}))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(texts, texts), max_size=12), st.integers(2, 40))
def test_groups_change_nothing(renderer, said, most):
    examples = [chat(*pair) for pair in said] + [Example(prompt="1+1=", completion="2")]
    alone = [renderer.render(example, most) for example in examples]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "_CHARACTERS_TOGETHER", 20)
        found = [lesson.parts[0] for lesson in learning.of_examples(examples, renderer, most)]
        pairs = list(learning.of_pairs([Pair(example, example) for example in examples], renderer, most))
        rated = list(learning.of_rated([Rated(example, label=True) for example in examples], renderer, most))
    assert found == alone
    assert [(lesson.parts[0], lesson.parts[1]) for lesson in pairs] == [(each, each) for each in alone]
    assert [lesson.parts[0] for lesson in rated] == alone


def test_a_bad_row_is_told_after_the_rows_of_the_groups_before_its_own(renderer, monkeypatch):
    def rows():
        yield from [chat("a", "b")] * 3
        raise BadRow(4, "broken", "It is broken.", "Mend it.")

    monkeypatch.setattr(learning, "_ROWS_TOGETHER", 1)
    seen = []
    with pytest.raises(BadRow):
        seen.extend(learning.of_examples(rows(), renderer, None))
    lessons = learning.of_examples(rows(), renderer, None)
    assert [next(lessons).parts[0], next(lessons).parts[0]] == [renderer.render(chat("a", "b"))] * 2


def test_whoever_stops_listening_leaves_no_thread_behind(renderer):
    import threading

    before = threading.active_count()
    lessons = learning.of_examples((chat(str(number), "x") for number in range(5000)), renderer, None)
    next(lessons)
    lessons.close()
    del lessons
    assert threading.active_count() == before
