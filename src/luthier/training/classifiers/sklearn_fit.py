"""scikit-learn's estimators learn in one go; one that can grow (a forest) does so in parts, to tell how far it is.

There are no checkpoints: a fit that was stopped starts over, and ends in the same model, bit by bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from luthier.modeling.classifiers.types import Estimator, SklearnEntry
from luthier.training.classifiers.data import Samples
from luthier.training.failures import AttemptFailed
from luthier.training.journal import Journal
from luthier.training.watch import Watch

_PARTS = 20


def fit(entry: SklearnEntry, estimator: Estimator, training: Samples, journal: Journal, watch: Watch) -> None:
    """Learn. Raises: Stopping, Fenced, AttemptFailed (`bad_data`)."""
    sizes = list(_sizes(entry, estimator))
    journal.facts(total_steps=len(sizes))
    for step, change in enumerate(sizes, 1):
        watch.check()
        if change:
            estimator.set_params(**change)
        _fit_once(estimator, training, journal)
        journal.facts(step=step)
        journal.progress(step / len(sizes))
    if entry.grows is not None:
        estimator.set_params(**{_name(estimator, "warm_start"): False})


def _fit_once(estimator: Estimator, training: Samples, journal: Journal) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            estimator.fit(training.inputs, training.labels)
        except ValueError as error:
            raise AttemptFailed("bad_data", f"The model refused the rows: {str(error)[:200]}", "Look at the rows.") from None
    for warning in caught[:3]:
        said = str(warning.message).splitlines()[0][:200]
        journal.event("warning", f"{warning.category.__name__}: {said}", level="warning")


def _sizes(entry: SklearnEntry, estimator: Any) -> Iterator[dict[str, Any]]:
    """The parameters before each part of the fit."""
    if entry.grows is None:
        yield {}
        return
    size, warm = _name(estimator, entry.grows), _name(estimator, "warm_start")
    total = int(estimator.get_params()[size])
    parts = min(_PARTS, total)
    for part in range(1, parts + 1):
        yield {size: total * part // parts, warm: True}


def _name(estimator: Any, parameter: str) -> str:
    """A parameter's name in a pipeline, whose last step it belongs to."""
    return f"{estimator.steps[-1][0]}__{parameter}" if hasattr(estimator, "steps") else parameter
