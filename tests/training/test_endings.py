"""Whether a tuned model stops, on a model whose next token depends on the last one alone."""

from __future__ import annotations

import pytest
import torch
from tests.training.conftest import END, VOCAB, BigramEngine

from luthier.jobs.rules import verdict
from luthier.training.batches import Row, Rows
from luthier.training.checks import Checks
from luthier.training.endings import Endings, see_endings, taught_by
from luthier.training.failures import AttemptFailed

STOPS = frozenset({END})


def an_engine(*, base_stops: bool, tuned_stops: bool) -> BigramEngine:
    """Each token is followed by the end, or by itself for ever."""
    engine = BigramEngine()
    engine.base_VV = _follows(stops=base_stops)
    tuned_VV = _follows(stops=tuned_stops)
    engine.a_VR = torch.nn.Parameter(tuned_VV - engine.base_VV)
    engine.b_RV = torch.nn.Parameter(torch.eye(VOCAB))
    return engine


def _follows(*, stops: bool) -> torch.Tensor:
    table_VV = 9 * torch.eye(VOCAB)
    if stops:
        table_VV[:, END] = 20
    return table_VV


def some(*rows: Row) -> Rows:
    found = Rows()
    for row in rows:
        found.append(row)
    return found


ROWS = [Row([5, 6, 7, END], [1, 2]), Row([5, 8, END], [1]), Row([9, 9, 9, 9, END], [2, 3])]


def seen(engine, rows=None, longest=3):
    return see_endings(engine, rows or some(*ROWS), longest, STOPS)


def test_a_model_that_ends_its_answers_needs_no_look_at_its_base():
    assert seen(an_engine(base_stops=True, tuned_stops=True)) == Endings(3, 35, tuned=True, base=None)


@pytest.mark.parametrize("base_stops", [True, False])
def test_a_model_that_never_stops_is_held_against_its_base(base_stops):
    engine = an_engine(base_stops=base_stops, tuned_stops=False)
    assert seen(engine) == Endings(3, 35, tuned=False, base=base_stops)
    assert engine.on  # the adapter is on again


def test_rows_that_teach_no_end_are_asked_nothing():
    cut, question = Row([5, 6, 7], [1]), Row([5, 6], [])
    assert seen(an_engine(base_stops=True, tuned_stops=False), some(cut, question)) is None


def test_answers_longer_than_anybody_waits_for_prove_nothing():
    engine = an_engine(base_stops=True, tuned_stops=False)
    assert seen(engine, longest=4000) == Endings(3, 512, tuned=None, base=None)
    assert seen(an_engine(base_stops=True, tuned_stops=True), longest=4000) == Endings(3, 512, tuned=True, base=None)


def test_questions_with_short_answers_are_asked_and_few_of_them():
    rows = some(*[Row([5] * 9 + [END], range(length, 9)) for length in (1, 2, 3, 4, 5, 6, 7)])
    engine = an_engine(base_stops=True, tuned_stops=True)
    asked = []
    generate = engine.generate
    engine.generate = lambda prompts, sampling: asked.extend(prompts) or generate(prompts, sampling)
    see_endings(engine, rows, 9, STOPS)
    assert [len(prompt) for prompt in asked] == [8, 7, 6, 5]


def test_the_first_answer_of_a_conversation_is_asked_for():
    talk = Row([5, 6, 7, END, 5, 8, END], [1, 2, 5])
    taught = taught_by(talk, STOPS)
    assert taught is not None
    assert (list(taught.prompt), taught.tokens) == ([5, 6], 2)


def checks_with(endings: Endings | None) -> Checks:
    return Checks(
        finite=True, changes_logits=True, max_logit_change=1.0, loads_again=True, same_after_reload=True, endings=endings
    )


def test_a_job_fails_only_where_the_base_did_stop():
    unlearned = checks_with(Endings(4, 40, tuned=False, base=True))
    with pytest.raises(AttemptFailed, match="none of 4 ended within 40 tokens") as caught:
        unlearned.require()
    assert caught.value.failure.code == "never_stops"
    found = verdict(unlearned.as_json())
    assert found is not None
    assert found.code == "never_stops"
    for endings in (
        None,
        Endings(4, 40, tuned=True, base=None),
        Endings(4, 40, tuned=False, base=False),
        Endings(4, 512, tuned=None, base=None),
    ):
        checks_with(endings).require()
        assert verdict(checks_with(endings).as_json()) is None
