"""Graders that ask a model: which answer it finds likeliest, without a model."""

import json
import math

import pytest
from pydantic import TypeAdapter, ValidationError

from luthier.graders import Grader, grade
from luthier.graders.templates import Ungradable
from luthier.graders.types import judges_of

GRADER = TypeAdapter(Grader)
ASKED = [
    {"role": "developer", "content": "You judge."},
    {"role": "user", "content": "Is {{ sample.output_text }} what {{ item.answer }} means?"},
]
LABEL = {"type": "label_model", "model": "b", "input": ASKED, "labels": ["yes", "no"], "passing_labels": ["yes"]}
SCORE = {"type": "score_model", "model": "b", "input": ASKED, "range": [0, 10]}


def read(**grader):
    return GRADER.validate_json(json.dumps(grader))


def judge_who_likes(liked):
    """A judge that finds these answers nine times as likely as others, and notes what it was asked."""
    asked, models = [], []

    def judge(model, messages, answers):
        asked.append(messages)
        models.append(model)
        return [math.log(0.9 if answer in liked else 0.1) for answer in answers]

    judge.asked, judge.models = asked, models
    return judge


def test_an_answer_passes_where_the_judge_finds_a_passing_label_likeliest():
    judge = judge_who_likes({"yes"})
    assert grade(read(**LABEL), "four", {"answer": "4"}, judge).value == 1.0
    assert judge.models == ["b"]
    assert judge.asked[0] == [
        {"role": "system", "content": "You judge."},
        {"role": "user", "content": "Is four what 4 means?"},
    ]
    assert grade(read(**LABEL), "four", {"answer": "4"}, judge_who_likes({"no"})).value == 0.0


def test_a_score_is_the_mean_of_what_the_judge_finds_likely():
    assert grade(read(**SCORE), "x", {"answer": "4"}, lambda model, _, answers: [0.0] * len(answers)).value == 5.0
    sure = grade(read(**SCORE), "x", {"answer": "4"}, lambda model, _, answers: [0.0 if a == "7" else -99.0 for a in answers])
    assert sure.value == pytest.approx(7.0)


def test_a_judge_counts_among_other_graders():
    parts = {"judge": LABEL, "same": {"type": "string_check", "reference": "{{ item.answer }}"}}
    both = read(type="multi", graders=parts, calculate_output="0.5 * judge + 0.5 * same")
    assert grade(both, "4", {"answer": "4"}, judge_who_likes({"yes"})).parts == {"judge": 1.0, "same": 1.0}
    assert [each.model for each in judges_of(both)] == ["b"]
    assert both.item_names == {"answer"}


def test_without_a_judge_it_scores_0_and_says_why():
    score = grade(read(**LABEL), "x", {"answer": "4"})
    assert (score.value, "none is here" in score.error) == (0.0, True)

    def cannot(model, messages, answers):
        raise Ungradable("the judge cannot be asked so")

    assert grade(read(**LABEL), "x", {"answer": "4"}, cannot).error == "the judge cannot be asked so."


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({**LABEL, "labels": ["yes"]}, "labels"),
        ({**LABEL, "labels": ["yes", "yes"]}, "twice"),
        ({**LABEL, "passing_labels": ["maybe"]}, "maybe"),
        ({**LABEL, "passing_labels": ["yes", "no"]}, "every label passes"),
        ({**LABEL, "input": []}, "input"),
        ({**LABEL, "input": [{"role": "assistant", "content": "x"}]}, "user"),
        ({**LABEL, "input": [{"role": "user", "content": "{{ sample.secret }}"}]}, "sample"),
        ({**SCORE, "range": [1, 1]}, "range"),
        ({**SCORE, "range": [0, 1e9]}, "range"),
        ({**SCORE, "model": ""}, "model"),
    ],
)
def test_what_no_judge_can_do_is_refused(wrong, said):
    with pytest.raises(ValidationError, match=said):
        read(**wrong)
