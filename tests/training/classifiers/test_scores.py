"""Accuracy, macro-F1 and confusion, as scikit-learn computes them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss, precision_recall_fscore_support

from luthier.training.classifiers.scores import Measured, evaluation, majority, scores_of


@given(st.integers(2, 6), st.integers(1, 60), st.integers(0, 1000))
def test_scores_are_those_of_scikit_learn(classes, rows, seed):
    draw = np.random.default_rng(seed)
    probabilities = draw.dirichlet(np.ones(classes), rows)
    labels = draw.integers(0, classes, rows)
    scores, answers, every = scores_of(probabilities, labels), probabilities.argmax(1), list(range(classes))
    assert scores.accuracy == pytest.approx(accuracy_score(labels, answers))
    assert scores.macro_f1 == pytest.approx(f1_score(labels, answers, average="macro", zero_division=0))
    np.testing.assert_array_equal(scores.confusion, confusion_matrix(labels, answers, labels=every))
    assert scores.loss == pytest.approx(log_loss(labels, probabilities, labels=every))


def test_an_impossible_answer_costs_much_and_not_infinitely_much():
    assert scores_of(np.array([[1.0, 0.0]]), np.array([1])).loss == pytest.approx(-np.log(1e-15))


def test_the_majority_is_the_most_frequent_class_of_the_training_rows():
    usual = majority(np.array([0, 1, 1, 1]), np.array([0, 0, 1]), 2)
    assert usual.accuracy == pytest.approx(1 / 3)
    assert usual.loss == pytest.approx(-(2 * np.log(1 / 4) + np.log(3 / 4)) / 3)


@given(st.integers(2, 6), st.integers(1, 60), st.integers(0, 1000))
def test_each_class_is_scored_as_scikit_learn_does(classes, rows, seed):
    draw = np.random.default_rng(seed)
    probabilities, labels = draw.dirichlet(np.ones(classes), rows), draw.integers(0, classes, rows)
    names = [f"class {place}" for place in range(classes)]
    found = scores_of(probabilities, labels).per_class(names)
    wanted = precision_recall_fscore_support(labels, probabilities.argmax(1), labels=range(classes), zero_division=0)
    for place, name in enumerate(names):
        precision, recall, f1, support = (float(column[place]) for column in wanted)
        expected = {"rows": support, "precision": precision, "recall": recall, "f1": f1}
        assert found[name] == pytest.approx(expected, abs=1e-4)


def test_an_evaluation_shows_few_classes_one_by_one_and_many_as_a_whole():
    few = Measured(("a", "b"), np.array([0, 1]), np.array([0, 1]), np.array([[0.9, 0.1], [0.8, 0.2]]))
    shown = evaluation(few)
    assert (shown["classes"], shown["confusion"], shown["rows"]) == (["a", "b"], [[1, 0], [1, 0]], 2)
    assert shown["tuned"]["metrics"] == {"accuracy": 0.5, "macro_f1": pytest.approx(1 / 3, abs=1e-6)}
    assert shown["per_class"]["b"] == {"rows": 1, "precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert "untrained" not in shown
    many = Measured(tuple(map(str, range(101))), np.arange(101), np.arange(101), np.full((101, 101), 1 / 101))
    assert (evaluation(many)["confusion"], evaluation(many)["per_class"]) == (None, {})


def test_an_evaluation_holds_what_the_model_said_before_it_learned():
    before = np.array([[0.2, 0.8], [0.2, 0.8]])
    measured = Measured(("a", "b"), np.array([0, 1]), np.array([0, 1]), np.array([[0.9, 0.1], [0.1, 0.9]]), before)
    assert evaluation(measured)["untrained"]["metrics"]["accuracy"] == 0.5
