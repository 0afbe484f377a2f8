"""One attempt from the first word to the last, whatever its kind."""

from __future__ import annotations

import shutil
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

from luthier.errors import LuthierError, StorageFull
from luthier.jobs.directory import EXIT_FENCED, AttemptState, Failure
from luthier.jobs.spec import RunSpec
from luthier.seams import BadName
from luthier.training.failures import AttemptFailed, Fenced, Stopping, failure_of
from luthier.training.gang import Work
from luthier.training.run import Run
from luthier.training.tuning import finish_adapter, train_on_base

EXIT_NO_LAST_WORD = 1
_DONE = {
    "train": "Done: the adapter is finite, changes the answers, and loads again.",
    "classifier": "Done: the model is finite, and loads again to the same answers.",
    "fit_test": "Done: measured, and nothing was trained.",
    "evaluate": "Done: measured; the model's card has the numbers.",
    "export": "Done: the files are whole, load again, and answer as the model does.",
}
"""By kind, and whether it is a classifier."""


def run_attempt(run: Run, work: Callable[[Run], Work[None]] | None = None) -> Work[int]:
    """Do the work and leave the last word. Returns the exit status of the attempt."""
    try:
        yield from (work or _work_of(run.spec))(run)
        run.watch.close()
        run.journal.state("succeeded", _DONE["classifier" if run.spec.method == "classifier" else run.spec.kind])
    except Fenced:
        return EXIT_FENCED
    except Stopping as stopping:
        return _last_word(run, stopping.wish, f"Saved and {stopping.wish} at step {run.journal.status.step}.")
    except Exception as error:  # noqa: BLE001  # the edge of the process: whatever happened, its owner is told
        failure = failure_of(error)
        if not isinstance(error, (AttemptFailed, LuthierError)):
            sys.stderr.write(_where(error))
        return _last_word(run, "failed", f"{failure.message} {failure.hint}", failure)
    return 0


def _work_of(spec: RunSpec) -> Callable[[Run], Work[None]]:
    if spec.kind == "fit_test":
        from luthier.training.fit_test import measure_fit

        return measure_fit
    if spec.kind == "evaluate":
        from luthier.training.evaluating import evaluate_model

        return evaluate_model
    if spec.kind == "export":
        from luthier.training.exporting import export_model

        return export_model
    if spec.method != "classifier":
        return partial(train_on_base, finish=finish_adapter)
    if spec.has_base:
        from luthier.training.classifiers.texts import finish

        return partial(train_on_base, finish=finish)
    from luthier.training.classifiers.work import classify

    return classify


def _where(error: Exception) -> str:
    """For job.log: what went wrong and where, without the machine's paths."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"  {Path(frame.filename).name}:{frame.lineno} in {frame.name}" for frame in frames]
    return "\n".join([*lines, f"{type(error).__name__}: {str(error)[:500]}", ""])


def _last_word(run: Run, state: AttemptState, message: str, failure: Failure | None = None) -> int:
    run.watch.close()
    if failure is not None and failure.code == "storage":
        shutil.rmtree(run.workspace, ignore_errors=True)  # on a full disk this is the room for what follows
    try:
        run.journal.state(state, message, failure)
    except Fenced:
        return EXIT_FENCED
    except (OSError, StorageFull, BadName):
        return EXIT_NO_LAST_WORD
    return 0
