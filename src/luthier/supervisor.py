"""tick(): claim, watch, stop, settle, register.

A tick touches the database, control files and status files, and never waits for a trainer. It may be cut off between any
two lines: each step either is one transaction or can be repeated, and whoever takes the job over repeats it.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from luthier.billing.types import Segment
from luthier.errors import LuthierError, StorageFull, Unavailable
from luthier.jobs import projection, rules
from luthier.jobs.asking import Asking
from luthier.jobs.directory import LAST_WORDS, AttemptStatus, Control, Failure, JobDirectory
from luthier.jobs.metering import Meter
from luthier.jobs.pace import Clocks, Pace
from luthier.jobs.presence import Presence
from luthier.jobs.queue import Ending, Fenced, Held, JobQueue, Report, Seen
from luthier.jobs.reaping import Stillness
from luthier.jobs.resuming import newest_whole
from luthier.jobs.rules import Outcome, Wish
from luthier.jobs.types import JobState
from luthier.registry.types import Finished
from luthier.seams import Executor, Launch, NotStored, Storage

_LOG = logging.getLogger("luthier.supervisor")

_ORPHAN_S = 15.0
_DRAIN_S = 60.0
_AGAIN_AFTER_S = 5.0
_MACHINE_DELAY_S = 20
_PAUSE_S = 0.1


class Registered(Protocol):
    """A model as far as a supervisor cares."""

    @property
    def id(self) -> str: ...


class Registrar(Protocol):
    """Makes the model of a finished job visible, once a job, however often it is asked."""

    def register(self, finished: Finished) -> Registered: ...


@dataclass(frozen=True)
class Parts:
    """What a supervisor works with."""

    queue: JobQueue
    storage: Storage
    registry: Registrar
    executor: Executor
    presence: Presence
    bases_url: str


@dataclass
class _Watched:
    """A job that this supervisor runs, and what it knows about it."""

    held: Held
    here: JobDirectory
    handle: str | None
    meter: Meter | None
    wish: Wish | None
    status: AttemptStatus | None = None
    reported: AttemptStatus | None = None
    beat_at: float = float("-inf")
    asking: Asking = field(default_factory=Asking)
    exit_status: int | None = None
    ended: bool = False
    not_before: float = float("-inf")


class Supervisor:
    """Moves jobs along. Any number of them may work on one database; each runs what it claimed."""

    def __init__(self, parts: Parts, pace: Pace, clocks: Clocks) -> None:
        self._queue = parts.queue
        self._storage = parts.storage
        self._registry = parts.registry
        self._executor = parts.executor
        self._presence = parts.presence
        self._bases_url = parts.bases_url
        self._pace = pace
        self._clocks = clocks
        self._watched: dict[str, _Watched] = {}
        self._stillness = Stillness(pace.reap_after_s, 2 * pace.reap_every_s)
        self._reaped_at = self._claim_at = float("-inf")
        self._orphans: dict[str, float] = {}

    @property
    def running(self) -> list[str]:
        """Ids of the jobs that it runs now."""
        return list(self._watched)

    def run(self, stop: threading.Event) -> None:
        """Tick until `stop` is set, then `close`."""
        try:
            while not stop.is_set():
                self.tick()
                stop.wait(self._pace.tick_s)
        finally:
            self.close()

    def tick(self) -> None:
        """Look at everything once. Whatever goes wrong with one job is logged, and tried again; the others go on."""
        self._safely("reading wishes", self._read_wishes)
        for watched in list(self._watched.values()):
            self._safely(watched.held.fence.job_id, self._follow, watched)
        self._safely("reporting", self._report)
        if self._clocks.monotonic() - self._reaped_at >= self._pace.reap_every_s:
            self._safely("reaping", self._reap)
        while len(self._watched) < self._pace.slots and self._safely("claiming", self._start_next):
            pass

    def close(self) -> None:
        """Tell all trainers to save, wait for them up to 60 s, and put their jobs back into the queue."""
        for watched in self._watched.values():
            if watched.handle is not None and not watched.ended and watched.asking.once():
                self._executor.terminate(watched.handle)
        until = self._clocks.monotonic() + _DRAIN_S
        while self._watched and self._clocks.monotonic() < until:
            for watched in list(self._watched.values()):
                self._safely(watched.held.fence.job_id, self._follow, watched)
            self._safely("reporting", self._report)
            if self._watched:
                self._clocks.pause(_PAUSE_S)
        for watched in list(self._watched.values()):
            self._safely(watched.held.fence.job_id, self._give_back, watched)
        self._executor.close()
        self._presence.close()

    # -- one job ---------------------------------------------------------------------------------------------------

    def _start_next(self) -> bool:
        """Claim and start one job; False where there is none, or where this machine cannot start one now."""
        if self._clocks.monotonic() < self._claim_at:
            return False
        held = self._queue.claim(self._presence.owner, self._pace.hardware)
        if held is None:
            return False
        here = projection.directory(self._storage, held.tenant_id, held.fence.job_id)
        first = Segment(held.tenant_id, held.fence.job_id, held.fence.attempt, 0, held.hardware, self._clocks.now(), 0)
        meter = Meter(first, self._clocks.monotonic(), self._pace.reap_after_s)
        watched = _Watched(held, here, None, meter, held.wish, beat_at=self._clocks.monotonic())
        try:
            here.write_control(Control(attempt=held.fence.attempt, resume_from=newest_whole(here), spec_sha256=held.spec_sha256))
            watched.handle = self._executor.start(self._launch(held, here))
        except (LuthierError, OSError, NotStored, ValueError) as error:
            _LOG.warning("job %s could not be started: %s", held.fence.job_id, type(error).__name__)
            self._claim_at = self._clocks.monotonic() + _AGAIN_AFTER_S
            self._finish(watched, self._not_started(watched, error))
            return False
        self._watched[held.fence.job_id] = watched
        self._queue.launched(held.fence, watched.handle)
        self._queue.project(held.fence.job_id)
        return True

    def _not_started(self, watched: _Watched, error: Exception) -> Outcome:
        if isinstance(error, (StorageFull, Unavailable)):
            # The machine's fault: it costs the job nothing but time, and others have their turn meanwhile.
            return Outcome(JobState.QUEUED, "could not be started", delay_s=_MACHINE_DELAY_S)
        failure = Failure(code="storage", message="The job could not be started.", hint="Submit it again.")
        return rules.failed(failure, self._attempt(watched))

    def _launch(self, held: Held, here: JobDirectory) -> Launch:
        job_id, attempt = held.fence.job_id, held.fence.attempt
        return Launch(
            job_urls=(here.url,),
            log_path=here.attempt(attempt).name("job.log"),
            bases_url=self._bases_url,
            label=f"{job_id}-{attempt}",
        )

    def _follow(self, watched: _Watched) -> None:
        """See whether the trainer still runs and what it says, and tell it what is wanted."""
        now_s = self._clocks.monotonic()
        if now_s < watched.not_before:
            return
        if not watched.ended:
            # The exit before the status: a status read before the exit could miss the last word.
            exit_status = self._executor.poll(watched.handle) if watched.handle else None
            watched.status = watched.here.attempt(watched.held.fence.attempt).status() or watched.status
            if watched.meter is not None:
                watched.meter.advance(self._clocks.now(), now_s)
            if exit_status is None and watched.handle is not None:
                self._tell(watched, watched.handle)
                return
            watched.ended, watched.exit_status = True, exit_status
        # If it fails (the disk is full, the database does not answer) nothing is lost: it is done again, a little later.
        watched.not_before = now_s + _AGAIN_AFTER_S
        self._end(watched)

    def _tell(self, watched: _Watched, handle: str) -> None:
        """Pass a wish on: in `control.json`, then by signal, then by force."""
        last_word = watched.status is not None and watched.status.state in LAST_WORDS
        action = watched.asking.next(watched.wish, last_word=last_word, now_s=self._clocks.monotonic())
        if action == "ask":
            held = watched.held
            watched.here.write_control(Control(attempt=held.fence.attempt, want="stop", spec_sha256=held.spec_sha256))
        elif action == "terminate":
            self._executor.terminate(handle)
        elif action == "kill":
            self._executor.kill(handle)

    def _end(self, watched: _Watched) -> None:
        """From the end of the trainer to the next state of the job."""
        attempt = self._attempt(watched)
        outcome = rules.outcome(attempt)
        model_id = None
        if outcome.state == JobState.SUCCEEDED:
            failure = rules.verdict(self._results(watched, "checks.json"))
            if failure is None:
                model_id, failure = self._register(watched)
            if failure is not None:
                outcome = rules.failed(failure, attempt)
        self._finish(watched, outcome, model_id)

    def _register(self, watched: _Watched) -> tuple[str | None, Failure | None]:
        """Money, then the model. Each is done once however often this is called, so a crash in between harms nothing."""
        held = watched.held
        self._queue.settle(held.fence, self._segments(watched))
        finished = Finished(
            tenant_id=held.tenant_id,
            created_by=held.created_by,
            job_id=held.fence.job_id,
            spec=held.spec,
            results=watched.here.attempt(held.fence.attempt).name("results"),
        )
        try:
            return self._registry.register(finished).id, None
        except (Unavailable, StorageFull):
            raise
        except LuthierError as error:
            hint = "It is tried again from the last checkpoint."
            return None, Failure(code="storage", message=error.message, hint=hint)

    def _finish(self, watched: _Watched, outcome: Outcome, model_id: str | None = None) -> None:
        held = watched.held
        ending = Ending(
            outcome=outcome,
            segments=self._segments(watched),
            model_id=model_id,
            status=watched.status,
            speed=self._speed(watched) if model_id else None,
        )
        self._queue.finish(held.fence, ending)
        self._watched.pop(held.fence.job_id, None)
        _LOG.info("job %s attempt %d: %s (%s)", held.fence.job_id, held.fence.attempt, outcome.state, outcome.reason)
        self._queue.project(held.fence.job_id)

    def _give_back(self, watched: _Watched) -> None:
        """A trainer that did not save in time: its last checkpoint is what counts."""
        if watched.handle is not None:
            self._executor.kill(watched.handle)
        preempted = Outcome(JobState.QUEUED, "preempted; its trainer did not save in time")
        self._finish(watched, preempted if watched.wish is None else rules.outcome(self._attempt(watched)))

    def _attempt(self, watched: _Watched) -> rules.Attempt:
        return rules.Attempt(
            status=watched.status,
            exit_status=watched.exit_status,
            wish=watched.wish,
            crashes=watched.held.crashes,
            max_attempts=self._pace.max_attempts,
        )

    def _segments(self, watched: _Watched) -> tuple[Segment, ...]:
        return () if watched.meter is None else watched.meter.segments

    def _results(self, watched: _Watched, name: str) -> dict[str, Any] | None:
        try:
            found = json.loads(self._storage.read(watched.here.attempt(watched.held.fence.attempt).name("results", name)))
        except (NotStored, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def _speed(self, watched: _Watched) -> tuple[float, float] | None:
        """For the next estimate. A resumed run says nothing about how long a run takes in one piece."""
        metrics = self._results(watched, "metrics.json") or {}
        rate, tokens = metrics.get("tokens_per_second"), metrics.get("tokens_seen")
        if watched.held.fence.attempt > 1 or watched.meter is None or not (rate and tokens):
            return None
        seconds = watched.meter.total_ms / 1000
        return float(rate), max(0.0, seconds - float(tokens) / float(rate))

    # -- all jobs --------------------------------------------------------------------------------------------------

    def _read_wishes(self) -> None:
        """What their owners want; a job that somebody else runs by now is let go of."""
        if not self._watched:
            return
        wishes = self._queue.wishes(watched.held.fence for watched in self._watched.values())
        for job_id, watched in list(self._watched.items()):
            if job_id in wishes:
                watched.wish = wishes[job_id]
            else:
                self._drop(watched)

    def _drop(self, watched: _Watched) -> None:
        """Fenced: whatever its trainer still writes counts for nothing, so it ends now."""
        self._watched.pop(watched.held.fence.job_id, None)
        _LOG.warning("job %s attempt %d was taken over", watched.held.fence.job_id, watched.held.fence.attempt)
        if watched.handle is not None:
            self._executor.kill(watched.handle)

    def _report(self) -> None:
        """Beats that are due, and progress that is new, in one transaction."""
        now_s = self._clocks.monotonic()
        reports: list[Report] = []
        beating: set[str] = set()
        for job_id, watched in self._watched.items():
            due = now_s - watched.beat_at >= self._pace.heartbeat_s
            if due or watched.status != watched.reported:
                reports.append(Report(watched.held.fence, self._segments(watched) if due else (), watched.status))
            if due:
                beating.add(job_id)
        charges = self._queue.report(reports) if reports else {}
        for report in reports:
            watched = self._watched[report.fence.job_id]
            if report.fence.job_id not in charges:
                self._drop(watched)
                continue
            watched.reported = report.status
            if report.fence.job_id in beating:
                self._beaten(watched, report, charges[report.fence.job_id])

    def _beaten(self, watched: _Watched, report: Report, micro_usd: int) -> None:
        watched.beat_at = self._clocks.monotonic()
        spec, fence, ms = watched.held.spec, watched.held.fence, watched.held.used_ms
        if watched.meter is not None:
            watched.meter.sent(report.segments)
            ms += watched.meter.total_ms
        limit = rules.over_limit(micro_usd, ms, max_micro_usd=spec.max_cost_micro_usd, max_seconds=spec.limits.max_seconds)
        if limit is not None and watched.wish is None:
            self._queue.want(fence, limit)
            watched.wish = limit
        self._queue.project(fence.job_id)

    def _reap(self) -> None:
        """Take over jobs whose supervisor is gone: at once where its lock is free, else when its heartbeat stands still."""
        now_s = self._reaped_at = self._clocks.monotonic()
        seen = self._queue.running()
        others = [each for each in seen if not self._runs(each)]
        still = self._stillness.look([each.beat for each in others], now_s)
        dead = [each for each in others if each.beat.job_id in still or self._is_gone(each.beat.owner)]
        self._orphans = {each.beat.job_id: self._orphans.get(each.beat.job_id, now_s) for each in dead}
        for each in dead:
            self._safely(each.beat.job_id, self._take_over, each, now_s)

    def _runs(self, seen: Seen) -> bool:
        watched = self._watched.get(seen.beat.job_id)
        return watched is not None and watched.held.fence.attempt == seen.beat.attempt and seen.beat.owner == self._presence.owner

    def _is_gone(self, owner: str) -> bool:
        # A job that bears our own name and that we do not run: its claim was cut off before its trainer was started.
        return owner == self._presence.owner or self._presence.alive(owner) is False

    def _take_over(self, seen: Seen, now_s: float) -> None:
        """Let the orphaned trainer save, then read its last word as if it had been ours."""
        if seen.handle is not None and self._executor.poll(seen.handle) is None:
            waited_s = now_s - self._orphans[seen.beat.job_id]
            if waited_s == 0:  # the first look; a second SIGTERM would cut the saving short
                self._executor.terminate(seen.handle)
            if waited_s < _ORPHAN_S:
                return
            self._executor.kill(seen.handle)
        held = self._queue.adopt(seen.beat, self._presence.owner)
        if held is None:
            return
        here = projection.directory(self._storage, held.tenant_id, held.fence.job_id)
        watched = _Watched(held, here, None, None, held.wish, beat_at=now_s)
        self._watched[held.fence.job_id] = watched
        self._follow(watched)

    def _safely(self, what: str, action: Callable[..., Any], *arguments: Any) -> Any:
        """Call it; an error is logged and answered with None."""
        try:
            return action(*arguments)
        except Fenced:
            fenced = self._watched.get(what)
            if fenced is not None:
                self._drop(fenced)
        except Exception as error:  # noqa: BLE001  # the edge of the process: one job's surprise must not stop the others
            expected = isinstance(error, (LuthierError, OSError))
            _LOG.warning("%s: %s", what, type(error).__name__, exc_info=None if expected else error)
        return None
