"""How good a classifier is on rows that it has not seen, and how good always saying the same would be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.training.classifiers.data import Numbers, Samples

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

    def as_json(self) -> dict[str, Any]:
        return {"loss": self.loss, "metrics": self.metrics}


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


def majority(training: Samples, labels_N: Numbers) -> Scores:
    """Of one that has seen no input, only how often each class occurs: it always answers the most frequent one."""
    share_C = np.bincount(training.labels, minlength=len(training.classes)) / len(training)
    return scores_of(np.broadcast_to(share_C, (len(labels_N), len(share_C))), labels_N)


def evaluation(training: Samples, validation: Samples, probabilities_NC: NDArray[np.float64]) -> dict[str, Any]:
    """`results/evaluation.json`: the classifier against the most frequent class, on the same rows."""
    tuned = scores_of(probabilities_NC, validation.labels)
    shown = len(validation.classes) <= _MOST_SHOWN_CLASSES
    return {
        "rows": len(validation),
        "base": majority(training, validation.labels).as_json(),
        "tuned": tuned.as_json(),
        "samples": [],
        "classes": list(validation.classes),
        "confusion": tuned.confusion.tolist() if shown else None,
    }
