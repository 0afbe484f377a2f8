"""What a classifier is worth, told and published."""

from __future__ import annotations

from luthier.jobs.directory import AttemptDirectory
from luthier.training import export
from luthier.training.classifiers.scores import Measured, evaluation
from luthier.training.journal import Journal


def publish(attempt: AttemptDirectory, journal: Journal, measured: Measured, *, held_out: bool) -> dict[str, float]:
    """Publish the evaluation where rows were held out, and say how it compares with always giving the same answer.

    Returns the metrics, by name.
    """
    scores, usual, rows = measured.tuned, measured.usual, len(measured.labels_N)
    told = {"accuracy": scores.accuracy, "macro_f1": scores.macro_f1, "majority_accuracy": usual.accuracy, "rows": rows}
    noun = "validation" if held_out else "training"
    message = f"Accuracy on {rows} {noun} rows: {scores.accuracy:.1%}, macro-F1 {scores.macro_f1:.3f}"
    journal.event("eval", f"{message}; the most frequent class alone: {usual.accuracy:.1%}.", told)
    if scores.accuracy <= usual.accuracy:
        said = "The model is no better than always giving the most frequent class."
        journal.event("warning", f"{said} Train longer, or look at the rows.", level="warning")
    if held_out:
        export.publish_json(attempt, "evaluation.json", evaluation(measured))
    return {f"{noun}_{name}": value for name, value in scores.metrics.items()}
