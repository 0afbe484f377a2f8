"""How good a classifier is on rows that it has not seen, and how good always saying the same would be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.training.classifiers.data import Numbers

_LEAST = 1e-15
_MOST_SHOWN_CLASSES = 100


@dataclass(frozen=True)
class Scores:
    """loss: mean negative log-likelihood of the right class, in nats. confusion: rows by class, columns by answer, (C, C)."""

    loss: float
    accuracy: float
    macro_f1: float
    confusion: NDArray[np.int64]

    @property
    def metrics(self) -> dict[str, float]:
        return {"accuracy": round(self.accuracy, 6), "macro_f1": round(self.macro_f1, 6)}

    def per_class(self, classes: Sequence[str]) -> dict[str, dict[str, float]]:
        """Of each class: its rows, and precision, recall and F1 of the answers. What is 0 / 0 counts as 0.

        >>> scores_of(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1])).per_class(["a", "b"])["a"]
        {'rows': 1, 'precision': 0.5, 'recall': 1.0, 'f1': 0.6667}
        """
        hits, rows, answers = self.confusion.diagonal(), self.confusion.sum(1), self.confusion.sum(0)
        return {
            name: {
                "rows": int(rows[place]),
                "precision": _share(hits[place], answers[place]),
                "recall": _share(hits[place], rows[place]),
                "f1": _share(2 * hits[place], rows[place] + answers[place]),
            }
            for place, name in enumerate(classes)
        }

    def as_json(self) -> dict[str, Any]:
        return {"loss": self.loss, "metrics": self.metrics}


def _share(part: np.int64, whole: np.int64) -> float:
    return round(float(part / whole), 4) if whole else 0.0


def scores_of(probabilities_NC: NDArray[np.float64], labels_N: Numbers) -> Scores:
    """Macro-F1 is the mean over the classes that occur, in the rows or in the answers.

    >>> scores = scores_of(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1]))
    >>> scores.accuracy, round(scores.macro_f1, 4), scores.confusion.tolist()
    (0.5, 0.3333, [[1, 0], [1, 0]])
    """
    classes = probabilities_NC.shape[1]
    right = probabilities_NC[np.arange(len(labels_N)), labels_N]
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels_N, probabilities_NC.argmax(1)), 1)
    hits, occurrences = confusion.diagonal(), confusion.sum(0) + confusion.sum(1)
    occurring = occurrences > 0
    return Scores(
        loss=float(-np.log(np.maximum(right, _LEAST)).mean()),
        accuracy=float(hits.sum() / len(labels_N)),
        macro_f1=float((2 * hits[occurring] / occurrences[occurring]).mean()),
        confusion=confusion,
    )


def majority(training_N: Numbers, labels_N: Numbers, classes: int) -> Scores:
    """Of one that has seen no input, only how often each class occurs: it always answers the most frequent one."""
    share_C = np.bincount(training_N, minlength=classes) / len(training_N)
    return scores_of(np.broadcast_to(share_C, (len(labels_N), classes)), labels_N)


@dataclass(frozen=True)
class Measured:
    """What a classifier answers to rows whose class is known. Labels are places in `classes`."""

    classes: Sequence[str]
    training_N: Numbers
    """Of the training rows."""
    labels_N: Numbers
    """Of the rows that were answered."""
    answers_NC: NDArray[np.float64]
    """How likely each class is."""
    untrained_NC: NDArray[np.float64] | None = None
    """What the same model answers before it has learned, where that says something."""

    @property
    def tuned(self) -> Scores:
        return scores_of(self.answers_NC, self.labels_N)

    @property
    def usual(self) -> Scores:
        return majority(self.training_N, self.labels_N, len(self.classes))


def evaluation(measured: Measured) -> dict[str, Any]:
    """`results/evaluation.json`: the classifier against the most frequent class, on the same rows."""
    tuned, untrained_NC = measured.tuned, measured.untrained_NC
    shown = len(measured.classes) <= _MOST_SHOWN_CLASSES
    untrained = {} if untrained_NC is None else {"untrained": scores_of(untrained_NC, measured.labels_N).as_json()}
    return {
        "rows": len(measured.labels_N),
        "base": measured.usual.as_json(),
        **untrained,
        "tuned": tuned.as_json(),
        "samples": [],
        "classes": list(measured.classes),
        "per_class": tuned.per_class(measured.classes) if shown else {},
        "confusion": tuned.confusion.tolist() if shown else None,
    }
