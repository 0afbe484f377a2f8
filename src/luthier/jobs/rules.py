"""Decisions about jobs: which steps there are, what the end of an attempt means, what is tried again and when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from luthier.errors import WrongState
from luthier.jobs.directory import EXIT_SETUP, LAST_WORDS, WORTH_RETRYING, AttemptStatus, Failure
from luthier.jobs.types import JobState

_Q, _RUN = JobState.QUEUED, JobState.RUNNING
_ENDS = frozenset({JobState.FAILED, JobState.PAUSED, JobState.STOPPED, JobState.CANCELLED})

TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    JobState.VALIDATING: frozenset({JobState.AWAITING_APPROVAL, _Q, JobState.FAILED, JobState.CANCELLED}),
    JobState.AWAITING_APPROVAL: frozenset({_Q, JobState.CANCELLED}),
    JobState.QUEUED: frozenset({JobState.STARTING, JobState.PAUSED, JobState.STOPPED, JobState.CANCELLED}),
    JobState.STARTING: frozenset({_RUN, _Q}) | _ENDS,
    JobState.RUNNING: frozenset({JobState.SUCCEEDED, _Q}) | _ENDS,
    JobState.PAUSED: frozenset({_Q, JobState.CANCELLED}),
    JobState.STOPPED: frozenset({_Q}),
    JobState.FAILED: frozenset({_Q, JobState.VALIDATING}),
    JobState.SUCCEEDED: frozenset(),
    JobState.CANCELLED: frozenset(),
}
"""The whole state machine. `store.move` knows no other steps."""

Wish = Literal["pause", "stop", "cancel", "budget", "time", "cap"]
"""How a running job is asked to end: by its owner (the first three), by its own limits, or by a budget that is used up."""
WISHES: tuple[Wish, ...] = ("pause", "stop", "cancel", "budget", "time", "cap")

FIRST_RETRY_S = 5
LONGEST_RETRY_S = 300


def may(from_state: JobState, to_state: JobState) -> bool:
    """Whether the state machine has this step."""
    return to_state in TRANSITIONS[from_state]


def refusal(verb: str, state: JobState, hint: str) -> WrongState:
    """What to say about a step that there is not."""
    return WrongState(f"A job that is {state} cannot be {verb}.", hint=hint)


def retry_delay_s(crashes: int) -> int:
    """Seconds until the next start after this many crashes.

    >>> [retry_delay_s(crashes) for crashes in (1, 2, 3, 20)]
    [5, 10, 20, 300]
    """
    return min(LONGEST_RETRY_S, FIRST_RETRY_S * 2 ** (crashes - 1))


@dataclass(frozen=True)
class Outcome:
    """What the end of an attempt means for its job."""

    state: JobState
    reason: str
    failure: Failure | None = None
    crashed: bool = False
    delay_s: int = 0


@dataclass(frozen=True)
class Attempt:
    """How an attempt ended: its last status, its exit status (None where nobody saw it), and what was asked of it."""

    status: AttemptStatus | None
    exit_status: int | None
    wish: Wish | None
    crashes: int
    max_attempts: int
    shared: bool = False
    """Whether other jobs trained in the same process."""


def outcome(attempt: Attempt) -> Outcome:
    """The next state of a job whose trainer is gone.

    A cancelled job is cancelled whatever the trainer said; one that succeeded before it saw a stop has succeeded.
    """
    word = attempt.status.state if attempt.status and attempt.status.state in LAST_WORDS else None
    if attempt.wish == "cancel":
        return Outcome(JobState.CANCELLED, "cancelled by its owner")
    if word == "succeeded":
        return Outcome(JobState.SUCCEEDED, "trained")
    if word == "failed" and attempt.status and attempt.status.failure:
        return _failed(attempt.status.failure, attempt)
    if attempt.wish is not None:
        return _ended_as_asked(attempt.wish, attempt.status)
    if word == "stopped":
        return Outcome(JobState.STOPPED, "stopped")
    if word == "preempted":
        return Outcome(JobState.QUEUED, "preempted")
    if attempt.exit_status == EXIT_SETUP:
        return Outcome(JobState.FAILED, "unusable directory", _UNUSABLE)
    return _failed(_silent(attempt), attempt)


def verdict(checks: Mapping[str, Any] | None) -> Failure | None:
    """What is wrong with a result that its trainer calls a success: None for nothing. Checks are `results/checks.json`."""
    if checks is None:
        return _failure("storage", "The results hold no checks.", "It is tried again from the last checkpoint.")
    if checks.get("finite") is not True:
        return _failure("diverged", "The adapter holds numbers that are not finite.", "Lower `train.learning_rate`.")
    # A classifier's checks say `answers_differ` instead: one that always says the same is worth a warning on its card.
    if checks.get("changes_logits") is not True and "answers_differ" not in checks:
        hint = "Raise `train.learning_rate` or train for more steps."
        return _failure("no_effect", "The adapter changes nothing: the tuned model answers like its base.", hint)
    endings = checks.get("endings") or {}
    if endings.get("tuned") is False and endings.get("base") is True:
        hint = "Lower `train.learning_rate` or `train.epochs`, and see that every answer is whole (`train.max_seq_len`)."
        return _failure("never_stops", "The base ends its answers, the tuned model does not.", hint)
    if checks.get("loads_again") is not True:
        return _failure("storage", "The saved adapter could not be loaded again.", "It is tried again from the last checkpoint.")
    return None


def export_verdict(manifest: Mapping[str, Any] | None) -> Failure | None:
    """What is wrong with an export that its trainer calls a success: None for nothing. It is `results/export.json`."""
    checks = (manifest or {}).get("checks") or {}
    if not (manifest or {}).get("files") or not (checks.get("loads_again") is True and checks.get("same_answers") is True):
        return _failure("storage", "The results hold no export that was checked.", "It is begun again.")
    return None


def over_limit(micro_usd: int, ms: int, *, max_micro_usd: int | None, max_seconds: int | None) -> Wish | None:
    """Which of a job's own limits it has reached."""
    if max_micro_usd is not None and micro_usd >= max_micro_usd and micro_usd > 0:
        return "budget"
    if max_seconds is not None and ms >= max_seconds * 1000:
        return "time"
    return None


def failed(failure: Failure, attempt: Attempt) -> Outcome:
    """A failure, tried again where it may pass by itself and was not tried too often."""
    return _failed(failure, attempt)


def _failed(failure: Failure, attempt: Attempt) -> Outcome:
    crashes = attempt.crashes + 1
    # Memory that did not hold a gang may well hold one of them; each further attempt is in a smaller one.
    crowded = attempt.shared and failure.code == "out_of_memory"
    if failure.code not in WORTH_RETRYING and not crowded:
        return Outcome(JobState.FAILED, failure.code, failure)
    if attempt.wish is not None:  # it was to end anyway
        return _ended_as_asked(attempt.wish, attempt.status)
    if crashes < attempt.max_attempts:
        return Outcome(JobState.QUEUED, failure.code, crashed=True, delay_s=retry_delay_s(crashes))
    message = f"{failure.message} That was start number {crashes}, the last one that is tried."
    return Outcome(JobState.FAILED, failure.code, failure.model_copy(update={"message": message}), crashed=True)


def _ended_as_asked(wish: Wish, status: AttemptStatus | None) -> Outcome:
    if wish == "cancel":
        return Outcome(JobState.CANCELLED, "cancelled by its owner")
    if wish == "pause":
        return Outcome(JobState.PAUSED, "paused by its owner")
    if wish == "stop":
        return Outcome(JobState.STOPPED, "stopped by its owner")
    step = status.last_checkpoint_step if status else None
    saved = " before this attempt saved a checkpoint" if step is None else f"; its last checkpoint is of step {step}"
    if wish == "cap":
        message = f"A budget that binds this job was used up{saved}."
        return Outcome(JobState.STOPPED, "a budget is used up", _failure("budget", message, _CAPPED_HINT))
    limit = "limits.max_cost_usd" if wish == "budget" else "limits.max_seconds"
    message = f"The job reached its own `{limit}`{saved}."
    return Outcome(JobState.FAILED, wish, _failure("budget", message, "Submit it again with a higher limit or fewer epochs."))


def _silent(attempt: Attempt) -> Failure:
    status = attempt.exit_status
    how = "without a trace" if status is None else f"by signal {-status}" if status < 0 else f"with exit status {status}"
    hint = "Its log has the last lines. Signal 9 is often the machine running out of memory: lower `train.batch_size`."
    return _failure("crashed", f"The trainer ended {how}, without a last word.", hint)


def _failure(code: Any, message: str, hint: str) -> Failure:
    return Failure(code=code, message=message, hint=hint)


_CAPPED_HINT = "`tune budget` shows which, or its key has a spend cap. Once there is more, `tune resume` goes on."
_UNUSABLE = _failure("spec_tampered", "The job directory cannot be used as it is.", "Submit the job again.")
