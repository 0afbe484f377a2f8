"""Accuracy, macro-F1 and confusion, as scikit-learn computes them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss

from luthier.training.classifiers.data import Samples
from luthier.training.classifiers.scores import evaluation, majority, scores_of


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
    training = Samples(["x"] * 4, np.array([0, 1, 1, 1]), ("a", "b"))
    usual = majority(training, np.array([0, 0, 1]))
    assert usual.accuracy == pytest.approx(1 / 3)
    assert usual.loss == pytest.approx(-(2 * np.log(1 / 4) + np.log(3 / 4)) / 3)


def test_an_evaluation_shows_the_confusion_of_few_classes_only():
    few = Samples(["x", "y"], np.array([0, 1]), ("a", "b"))
    shown = evaluation(few, few, np.array([[0.9, 0.1], [0.8, 0.2]]))
    assert (shown["classes"], shown["confusion"], shown["rows"]) == (["a", "b"], [[1, 0], [1, 0]], 2)
    assert shown["tuned"]["metrics"] == {"accuracy": 0.5, "macro_f1": pytest.approx(1 / 3, abs=1e-6)}
    many = Samples(["x"] * 101, np.arange(101), tuple(map(str, range(101))))
    assert evaluation(many, many, np.full((101, 101), 1 / 101))["confusion"] is None
