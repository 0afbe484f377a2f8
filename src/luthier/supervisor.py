"""tick(): claim, watch, stop, settle, register.

A tick touches the database, control files and status files, and never waits for a trainer. It may be cut off between any
two lines: each step either is one transaction or can be repeated, and whoever takes the job over repeats it.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luthier.billing.types import Segment
from luthier.errors import LuthierError, StorageFull, Unavailable
from luthier.jobs import projection, rules
from luthier.jobs.directory import Control, Failure, TokenFolder
from luthier.jobs.metering import Meter, ProcessTime
from luthier.jobs.pace import Clocks, Pace
from luthier.jobs.presence import Presence
from luthier.jobs.processes import processes_of
from luthier.jobs.queue import Ending, Fenced, Held, JobQueue, Report, Seen
from luthier.jobs.reaping import Stillness
from luthier.jobs.resuming import newest_whole
from luthier.jobs.rules import Outcome
from luthier.jobs.sharing import Sharing
from luthier.jobs.spec import SHORT_KINDS
from luthier.jobs.types import JobState, Line
from luthier.jobs.watching import Process, Watched
from luthier.registry.types import Finished, Registered, Registrar
from luthier.seams import Executor, Launch, NotStored, Storage

_LOG = logging.getLogger("luthier.supervisor")

_ORPHAN_S = 15.0
_DRAIN_S = 60.0
_SURPRISED_S = 60.0
_SURPRISE = Failure(
    code="crashed",
    message="The run is done, but the platform met an error of its own while it made the model.",
    hint="The supervisor's log has it. With that mended, `tune resume` goes on from the last checkpoint.",
)
_AGAIN_AFTER_S = 5.0
_MACHINE_DELAY_S = 20
_PAUSE_S = 0.1
_NOT_STARTED = (LuthierError, OSError, NotStored, ValueError)


@dataclass(frozen=True)
class Parts:
    """What a supervisor works with."""

    queue: JobQueue
    storage: Storage
    registry: Registrar
    executor: Executor
    presence: Presence
    bases_url: str
    free_bytes: Callable[[], Mapping[str, int]] = dict[str, int]
    """Memory that is free now, by hardware, as far as it can be measured here."""
    tokens: Callable[[str], TokenFolder | None] = lambda _: None
    """Where the trainers of a tenant keep tokenised rows."""


class Supervisor:
    """Moves jobs along. Any number of them may work on one database; each runs what it claimed."""

    def __init__(self, parts: Parts, pace: Pace, clocks: Clocks) -> None:
        self._queue = parts.queue
        self._storage = parts.storage
        self._registry = parts.registry
        self._executor = parts.executor
        self._presence = parts.presence
        self._bases_url = parts.bases_url
        self._free_bytes = parts.free_bytes
        self._tokens = parts.tokens
        self._pace = pace
        self._clocks = clocks
        self._watched: dict[str, Watched] = {}
        self._stillness = Stillness(pace.reap_after_s, 2 * pace.reap_every_s)
        self._reaped_at = self._claim_at = float("-inf")
        self._gathers = False
        self._orphans: dict[str, float] = {}

    @property
    def running(self) -> list[str]:
        """Ids of the jobs that it runs now."""
        return list(self._watched)

    @property
    def pause_s(self) -> float:
        """Until the next tick. Shorter while the next job of a sweep is awaited: most come alone, and wait for nothing."""
        return min(self._pace.tick_s, self._pace.gather_s / 3) if self._gathers else self._pace.tick_s

    def run(self, stop: threading.Event) -> None:
        """Tick until `stop` is set, then `close`."""
        try:
            while not stop.is_set():
                self.tick()
                stop.wait(self.pause_s)
        finally:
            self.close()

    def tick(self) -> None:
        """Look at everything once. Whatever goes wrong with one job is logged, and tried again; the others go on."""
        self._safely("reading wishes", self._read_wishes)
        for watched in list(self._watched.values()):
            self._safely(watched.job_id, self._follow, watched)
        self._safely("reporting", self._report)
        if self._clocks.monotonic() - self._reaped_at >= self._pace.reap_every_s:
            self._safely("reaping", self._reap)
            self._safely("expiring", self._queue.expire)
        self._gathers = False
        while self._spare_slots() > 0 and self._safely("claiming", self._start_next, Line(self._pace.hardware)):
            pass
        if not any(_is_short(watched) for watched in self._watched.values()):
            self._safely("claiming", self._start_next, Line(self._pace.hardware, short=True))
        self._safely("keeping trainers ready", self._executor.tend)

    def close(self) -> None:
        """Tell all trainers to save, wait for them up to 60 s, and put their jobs back into the queue."""
        for watched in self._watched.values():
            if not watched.ended:
                self._terminate(watched.process)
        until = self._clocks.monotonic() + _DRAIN_S
        while self._watched and self._clocks.monotonic() < until:
            for watched in list(self._watched.values()):
                self._safely(watched.job_id, self._follow, watched)
            self._safely("reporting", self._report)
            if self._watched:
                self._clocks.pause(_PAUSE_S)
        for watched in list(self._watched.values()):
            self._safely(watched.job_id, self._give_back, watched)
        self._executor.close()
        self._presence.close()

    # -- one job ---------------------------------------------------------------------------------------------------

    def _start_next(self, line: Line) -> bool:
        """Claim the next job and those that go with it, and start their trainer; False where there is none, or where this
        machine cannot start one now."""
        if self._clocks.monotonic() < self._claim_at:
            return False
        claimed = self._queue.claim(self._presence.owner, line, self._sharing())
        if claimed is None:
            self._gathers = True
            return False
        process = Process(ProcessTime(self._clocks.monotonic(), self._pace.reap_after_s))
        watched = [self._begun(held, process) for held in claimed]
        ready = [each for each in watched if self._told_to_run(each, claimed)]
        if not ready:
            return False
        try:
            process.handle = self._executor.start(self._launch(ready))
        except _NOT_STARTED as error:
            for each in ready:
                self._safely(each.job_id, self._not_started, each, error)
            return False
        for each in ready:
            each.shared = len(ready) > 1
        self._watched |= {each.job_id: each for each in ready}
        self._queue.launched([each.held.fence for each in ready], process.handle)
        for each in ready:
            self._queue.project(each.job_id)
        return True

    def _sharing(self) -> Sharing:
        return Sharing(
            most=self._pace.gang_size,
            across_tenants=self._pace.gang_across_tenants,
            max_attempts=self._pace.max_attempts,
            spare_slots=self._spare_slots() - 1,
            free_bytes=self._free_bytes() if self._pace.gang_size > 1 else {},
            gather_s=self._pace.gather_s,
        )

    def _spare_slots(self) -> int:
        """Trainers that it may start now, beside short work."""
        busy = {id(watched.process) for watched in self._watched.values() if not _is_short(watched)}
        return self._pace.slots - len(busy)

    def _begun(self, held: Held, process: Process) -> Watched:
        here = projection.directory(self._storage, held.tenant_id, held.fence.job_id)
        first = Segment(held.tenant_id, held.fence.job_id, held.fence.attempt, 0, held.hardware, self._clocks.now(), 0)
        meter = Meter(first)
        if process.time is not None:
            process.time.join(meter)
        return Watched(held, here, process, meter, held.wish, beat_at=self._clocks.monotonic())

    def _told_to_run(self, watched: Watched, claimed: Sequence[Held]) -> bool:
        """Write its `control.json`. A directory that cannot be used is the end of that job alone."""
        held = watched.held
        # Nobody learns from it that another tenant trains.
        mates = [each.fence.job_id for each in claimed if each.tenant_id == held.tenant_id]
        members = tuple(mates) if len(mates) > 1 else ()
        tokens = self._tokens(held.tenant_id)
        control = Control(attempt=held.fence.attempt, spec_sha256=held.spec_sha256, members=members, tokens=tokens)
        try:
            resume_from = newest_whole(watched.here)
            watched.here.write_control(control.model_copy(update={"resume_from": resume_from}))
        except _NOT_STARTED as error:
            self._safely(watched.job_id, self._not_started, watched, error)
            return False
        return True

    def _not_started(self, watched: Watched, error: Exception) -> None:
        _LOG.warning("job %s could not be started: %s", watched.job_id, type(error).__name__)
        self._claim_at = self._clocks.monotonic() + _AGAIN_AFTER_S
        if isinstance(error, (StorageFull, Unavailable)):
            # The machine's fault: it costs the job nothing but time, and others have their turn meanwhile.
            outcome = Outcome(JobState.QUEUED, "could not be started", delay_s=_MACHINE_DELAY_S)
        else:
            failure = Failure(code="storage", message="The job could not be started.", hint="Submit it again.")
            outcome = rules.failed(failure, self._attempt(watched))
        self._stop_billing(watched)
        self._finish(watched, outcome)

    def _launch(self, members: Sequence[Watched]) -> Launch:
        first, more = members[0], len(members) - 1
        attempt = first.held.fence.attempt
        label = f"{first.job_id}-{attempt}+{more}" if more else f"{first.job_id}-{attempt}"
        # A traceback may quote data: no tenant reads that of another one. Each job of a gang keeps a log of its own.
        shared = any(each.held.tenant_id != first.held.tenant_id for each in members)
        log_path = f"trainers/{label}.log" if shared else first.here.attempt(attempt).name("job.log")
        urls = tuple(each.here.url for each in members)
        processes = processes_of([each.held.spec for each in members], self._pace.gpus)
        return Launch(job_urls=urls, log_path=log_path, bases_url=self._bases_url, label=label, processes=processes)

    def _follow(self, watched: Watched) -> None:
        """See whether the trainer still runs and what it says, and tell it what is wanted."""
        now_s = self._clocks.monotonic()
        if now_s < watched.not_before:
            return
        if not watched.ended:
            process = watched.process
            # The exit before the status: a status read before the exit could miss the last word.
            exit_status = self._executor.poll(process.handle) if process.handle else None
            watched.look()
            if process.time is not None:
                process.time.advance(now_s)
            if exit_status is None and process.handle is not None and not self._leaves(watched, process.handle):
                return
            watched.ended, watched.exit_status = True, exit_status
            self._stop_billing(watched)
        # If it fails (the disk is full, the database does not answer) nothing is lost: it is done again, a little later.
        watched.not_before = now_s + _AGAIN_AFTER_S
        self._end(watched)

    def _leaves(self, watched: Watched, handle: str) -> bool:
        """Pass a wish on: in `control.json`, then by signal, then by force. True for a job that leaves a process in which
        others go on: it has said its last word, or it did not hear for long."""
        alone = watched.is_alone(self._watched.values())
        if watched.said_last_word and not alone:
            return True
        now_s = self._clocks.monotonic()
        action = watched.asking.next(watched.wish, last_word=watched.said_last_word, alone=alone, now_s=now_s)
        if action == "ask":
            self._want_stop(watched, watched.held.fence.attempt)
        elif action == "terminate":
            self._terminate(watched.process)
        elif action == "kill":
            self._executor.kill(handle)
        elif action == "release":
            # Fenced by the number of an attempt to come: what it still writes counts for nothing.
            self._want_stop(watched, watched.held.fence.attempt + 1)
        return action == "release"

    def _want_stop(self, watched: Watched, attempt: int) -> None:
        watched.here.write_control(Control(attempt=attempt, want="stop", spec_sha256=watched.held.spec_sha256))

    def _terminate(self, process: Process) -> None:
        if process.handle is not None and process.once():
            self._executor.terminate(process.handle)

    def _stop_billing(self, watched: Watched) -> None:
        time = watched.process.time
        if time is None:
            return
        time.leave(watched.job_id, self._clocks.now())
        if time.members == 0 and watched.process.handle is not None:
            _LOG.info("trainer %s worked for %d ms", watched.process.handle, time.total_ms)

    def _end(self, watched: Watched) -> None:
        """From the end of the trainer to the next state of the job."""
        attempt = self._attempt(watched)
        if watched.surprised_at is not None and self._clocks.monotonic() - watched.surprised_at > _SURPRISED_S:
            self._finish(watched, rules.failed(_SURPRISE, attempt))
            return
        outcome = rules.outcome(attempt)
        model_id = None
        if outcome.state == JobState.SUCCEEDED:
            model_id, failure = self._made(watched)
            if failure is not None:
                outcome = rules.failed(failure, attempt)
        self._finish(watched, outcome, model_id)

    def _made(self, watched: Watched) -> tuple[str | None, Failure | None]:
        """The id of the model that came out, if one was to come out; or why the job has failed after all."""
        match watched.held.spec.kind:
            case "train":
                failure = rules.verdict(self._results(watched, "checks.json"))
                return (None, failure) if failure is not None else self._register(watched, self._registry.register)
            case "evaluate":
                return None, self._register(watched, self._registry.attach)[1]
            case "export":
                return None, rules.export_verdict(self._results(watched, "export.json"))
            case "fit_test":
                return None, None

    def _register(self, watched: Watched, how: Callable[[Finished], Registered]) -> tuple[str | None, Failure | None]:
        """Money, then the model. Each is done once however often this is called, so a crash in between harms nothing."""
        held = watched.held
        self._queue.settle(held.fence, watched.segments)
        finished = Finished(
            tenant_id=held.tenant_id,
            created_by=held.created_by,
            job_id=held.fence.job_id,
            spec=held.spec,
            results=watched.here.attempt(held.fence.attempt).name("results"),
        )
        try:
            return how(finished).id, None
        except (Unavailable, StorageFull):
            raise
        except LuthierError as error:
            hint = "It is tried again from the last checkpoint."
            return None, Failure(code="storage", message=error.message, hint=hint)

    def _finish(self, watched: Watched, outcome: Outcome, model_id: str | None = None) -> None:
        held = watched.held
        ending = Ending(
            outcome=outcome,
            segments=watched.segments,
            model_id=model_id,
            status=watched.status,
            speed=self._speed(watched) if model_id else None,
            took=watched.took if outcome.state == JobState.SUCCEEDED else None,
        )
        self._queue.finish(held.fence, ending)
        self._watched.pop(held.fence.job_id, None)
        _LOG.info("job %s attempt %d: %s (%s)", held.fence.job_id, held.fence.attempt, outcome.state, outcome.reason)
        self._queue.project(held.fence.job_id)

    def _give_back(self, watched: Watched) -> None:
        """A trainer that did not save in time: its last checkpoint is what counts."""
        if watched.process.handle is not None:
            self._executor.kill(watched.process.handle)
        self._stop_billing(watched)
        preempted = Outcome(JobState.QUEUED, "preempted; its trainer did not save in time")
        self._finish(watched, preempted if watched.wish is None else rules.outcome(self._attempt(watched)))

    def _attempt(self, watched: Watched) -> rules.Attempt:
        return rules.Attempt(
            status=watched.status,
            exit_status=watched.exit_status,
            wish=watched.wish,
            crashes=watched.held.crashes,
            max_attempts=self._pace.max_attempts,
            shared=watched.shared,
        )

    def _results(self, watched: Watched, name: str) -> dict[str, Any] | None:
        try:
            found = json.loads(self._storage.read(watched.here.attempt(watched.held.fence.attempt).name("results", name)))
        except (NotStored, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def _speed(self, watched: Watched) -> tuple[float, float] | None:
        """For the next estimate. A resumed run says nothing about how long a run takes in one piece, a shared one about how
        long it takes alone."""
        metrics = self._results(watched, "metrics.json") or {}
        rate, tokens = metrics.get("tokens_per_second"), metrics.get("tokens_seen")
        seconds = watched.alone_s
        if seconds is None or not (rate and tokens):
            return None
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

    def _drop(self, watched: Watched) -> None:
        """Fenced: whatever its trainer still writes counts for nothing, so it ends now."""
        self._watched.pop(watched.job_id, None)
        _LOG.warning("job %s attempt %d was taken over", watched.job_id, watched.held.fence.attempt)
        self._stop_billing(watched)
        handle = watched.process.handle
        # Others of its gang that are still ours go on: the next attempt's `control.json` fences this one in their process.
        if handle is not None and not watched.mates(self._watched.values()):
            self._executor.kill(handle)

    def _report(self) -> None:
        """Beats that are due, and progress that is new, in one transaction."""
        now_s = self._clocks.monotonic()
        reports: list[Report] = []
        beating: set[str] = set()
        for job_id, watched in self._watched.items():
            time = watched.process.time
            due = now_s - watched.beat_at >= self._pace.heartbeat_s
            if due and time is not None:
                time.divide(self._clocks.now())
            if due or watched.status != watched.reported:
                reports.append(Report(watched.held.fence, watched.segments if due else (), watched.status))
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

    def _beaten(self, watched: Watched, report: Report, micro_usd: int) -> None:
        watched.beat_at = self._clocks.monotonic()
        spec, fence, ms = watched.held.spec, watched.held.fence, watched.held.used_ms
        if watched.meter is not None:
            watched.meter.sent(report.segments)
            ms += watched.meter.elapsed_ms
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
        handles = {each.handle for each in dead}
        self._orphans = {handle: since for handle, since in self._orphans.items() if handle in handles}
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
            if seen.handle not in self._orphans:  # once a process, however many jobs it trains
                self._orphans[seen.handle] = now_s
                self._executor.terminate(seen.handle)
            if now_s - self._orphans[seen.handle] < _ORPHAN_S:
                return
            self._executor.kill(seen.handle)
        held = self._queue.adopt(seen.beat, self._presence.owner)
        if held is None:
            return
        here = projection.directory(self._storage, held.tenant_id, held.fence.job_id)
        watched = Watched(held, here, Process(None), None, held.wish, beat_at=now_s)
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
            if not expected and (surprised := self._watched.get(what)) is not None and surprised.surprised_at is None:
                surprised.surprised_at = self._clocks.monotonic()
            _LOG.warning("%s: %s", what, type(error).__name__, exc_info=None if expected else error)
        return None


def _is_short(watched: Watched) -> bool:
    return watched.held.spec.kind in SHORT_KINDS
