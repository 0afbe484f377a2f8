"""Jobs: estimate, submit, watch, stop, resume."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from luthier import ids
from luthier.accounts.types import Actor, Idempotency
from luthier.billing import rules as money
from luthier.billing.types import Hold
from luthier.database import EVERY_TENANT, Database, from_ms, page, to_ms
from luthier.errors import CursorInvalid, Gone, NotFound, WrongState
from luthier.jobs import approvals, artifacts, measures, of_models, projection, rules, store
from luthier.jobs.approvals import Approvals, Unstarted
from luthier.jobs.directory import CheckpointRef, Event, spec_file
from luthier.jobs.examining import Examiner, JobServices
from luthier.jobs.rows import job_of, projected, projection_of, row_of, spec_of
from luthier.jobs.spec import RunSpec
from luthier.jobs.types import Estimate, Job, JobState, Listed, LogTail, SavedStep, Submitted, Transition
from luthier.jobs.unchecked import Unchecked
from luthier.seams import Clock, Storage
from luthier.values import ModelFile, Page

_CURSOR = re.compile(r"([0-9]{1,9})-([0-9]{1,12})", re.ASCII)
_CHECKPOINTS = "`GET /v1/fine_tuning/jobs/<id>/checkpoints` lists those that are kept."


class Jobs:
    """What a caller can do with runs. `served` names the hardware that an executor here can reach."""

    def __init__(
        self,
        database: Database,
        storage: Storage,
        services: JobServices,
        now: Clock,
        served: frozenset[str] = frozenset({"local-cpu", "local-gpu"}),
    ) -> None:
        self._database = database
        self._storage = storage
        self._accounts = services.accounts
        self._billing = services.billing
        self._quotas = services.quotas
        self._datasets = services.datasets
        self._models = services.models
        self._examiner = Examiner(database, services, served)
        self._unstarted = Unstarted(services.billing, (services.datasets, services.models))
        self._rule = services.rule
        self._now = now
        self.unchecked = Unchecked(database, storage, services, self._examiner, self._unstarted, now)
        self.approvals = Approvals(database, storage, self._unstarted, services.rule, now)

    def estimate(self, actor: Actor, spec: RunSpec) -> Estimate:
        """Time, memory and money of a run. Reserves nothing.

        Raises: NotFound, Gone, DatasetNotReady, ModelNotReady, ModelNotAllowed, FieldInvalid, ForbiddenField.
        """
        return self._examiner.examined(actor, spec)[1]

    def submit(self, actor: Actor, spec: RunSpec, idempotency: Idempotency | None = None, *, patient: bool = False) -> Submitted:
        """Freeze the request, hold its estimated cost, queue it, and return at once. A patient job on data that is still being
        checked is not refused: it waits in `validating`, and its money is held when it is known how much.

        Raises: NotFound, Gone, DatasetNotReady, ModelNotReady, ModelNotAllowed, FieldInvalid, ForbiddenField, WillNotFit,
        BudgetExceeded, QuotaExceeded, KeyReused; nothing is left behind then.
        """
        earlier = self._earlier(actor, idempotency)
        if earlier is not None:
            return earlier
        if patient and self._examiner.waits(actor, spec):
            frozen, estimate = self._examiner.before_data(spec)
            row = self._row(actor, frozen, estimate, JobState.VALIDATING)
        else:
            frozen, estimate = self._examiner.examined(actor, spec)
            self._examiner.check(frozen, estimate)
            row = self._row(actor, frozen, estimate, self._rule.first_state(money.micro_usd(estimate.cost_usd)))
        here = projection.directory(self._storage, actor.tenant_id, row.id)
        file, job, made = spec_file(frozen.model_dump(mode="json")), job_of(row, frozen), ""
        row.spec_sha256 = hashlib.sha256(file).hexdigest()
        try:
            # Directory before row: a directory without a row is litter that `luthier doctor` sweeps,
            # a row without a directory is a job that can never run.
            projection.make(here, file, projected(row, job, estimate, 0))
            made = self._queue(actor, row, estimate.tokens, idempotency)
        except OperationalError:
            made = row.id  # perhaps: a commit whose flush failed can be there after a crash, and then needs its directory
            raise
        finally:
            if made != row.id:
                self._storage.delete(here.root)
        if made != row.id:
            return self._replayed(actor, made)
        return Submitted(job=job, estimate=estimate, replayed=False)

    def list(self, actor: Actor, *, state: JobState | None = None, after: str | None = None, limit: int = 50) -> Page[Job]:
        """The tenant's jobs, all or those in one state, newest first. Raises: CursorInvalid."""
        with self._database.read(actor.tenant_id) as session:
            rows, cursor = page(session, store.visible(state), store.JobRow, after=after, limit=limit)
            return Page(data=[job_of(row) for row in rows], next_cursor=cursor)

    def listing(self, actor: Actor) -> Iterator[Listed]:
        """All of the tenant's jobs, newest first, of one moment; in little memory, however many there are."""
        with self._database.read(actor.tenant_id) as session:
            yield from store.listing(session)

    def get(self, actor: Actor, job_id: str) -> Job:
        """One job as it stands now. Raises: NotFound, Gone."""
        with self._database.read(actor.tenant_id) as session:
            return job_of(_found(session, job_id))

    def glance(self, actor: Actor, job_id: str) -> Job | None:
        """The same in a tenth of the time, for who asks again and again: None where `get` would raise."""
        row = store.look(self._database, actor.tenant_id, job_id)
        return None if row is None else job_of(row)

    def evaluating(self, actor: Actor, model_id: str) -> list[Job]:
        """The runs of the kind evaluate that measure this model, or wait to, oldest first."""
        with self._database.read(actor.tenant_id) as session:
            found = [job_of(row) for row in store.evaluating(session, model_id)]
        return [job for job in found if job.model == model_id]

    def names(self, actor: Actor, job_ids: Iterable[str]) -> dict[str, str]:
        """What these jobs are called, also deleted ones."""
        with self._database.read(actor.tenant_id) as session:
            return store.names(session, job_ids)

    def submitted_estimate(self, actor: Actor, job_id: str) -> Estimate:
        """What was estimated when the job was submitted. Raises: NotFound, Gone."""
        with self._database.read(actor.tenant_id) as session:
            return Estimate.model_validate_json(_found(session, job_id).estimate)

    def logs(self, actor: Actor, job_id: str, *, tail_bytes: int = 65_536) -> LogTail:
        """The end of the log of the latest attempt that has one. Raises: NotFound, Gone."""
        job = self.get(actor, job_id)
        here = projection.directory(self._storage, actor.tenant_id, job.id)
        for attempt in range(job.attempt, 0, -1):
            found = projection.tail(self._storage, here.attempt(attempt).name("job.log"), tail_bytes)
            if found is not None:
                data, size = found
                return LogTail(
                    attempt=attempt, text=data.decode("utf-8", "replace"), total_bytes=size, truncated=size > len(data)
                )
        return LogTail(attempt=job.attempt, text="", total_bytes=0, truncated=False)

    def events(self, actor: Actor, job_id: str, *, after: str | None = None) -> Iterator[Event]:
        """What has happened so far, in order, from after the event `<attempt>-<seq>` on.

        Raises: NotFound, Gone, CursorInvalid.
        """
        since = _position(after)
        job = self.get(actor, job_id)
        return projection.directory(self._storage, actor.tenant_id, job.id).events(after=since)

    def checkpoints(self, actor: Actor, job_id: str) -> Sequence[CheckpointRef]:
        """The complete checkpoints that are kept, newest first. Raises: NotFound, Gone."""
        return projection.directory(self._storage, actor.tenant_id, self.get(actor, job_id).id).checkpoints()

    def saved(self, actor: Actor, tail: str, step: int) -> SavedStep:
        """What was saved at a step of the job whose id ends so. Raises: NotFound."""
        with self._database.read(actor.tenant_id) as session:
            row = store.ending_in(session, tail)
        base = None if row is None else spec_of(row).sources
        if row is None or base is None or row.kind != "train" or spec_of(row).method == "classifier":
            raise NotFound("checkpoint", hint=_CHECKPOINTS)
        here = projection.directory(self._storage, row.tenant_id, row.id)
        for ref in here.checkpoints():
            if ref.step == step:
                folder, files = artifacts.saved(here.attempt(ref.attempt), ref)
                return SavedStep(f"{row.id}-{ref.attempt}-{step}", base.base, folder, tuple(files))
        raise NotFound("checkpoint", hint=_CHECKPOINTS)

    def files(self, actor: Actor, job_id: str) -> list[ModelFile]:
        """Names, sizes and checksums of what an export made. Raises: NotFound, Gone, WrongState, ArtifactCorrupt."""
        return self._exported(actor, job_id)[1]

    def open(self, actor: Actor, job_id: str, name: str) -> tuple[ModelFile, BinaryIO]:
        """One file of an export, verified against its checksum, at its first byte.

        Raises: NotFound, Gone, WrongState, ArtifactCorrupt.
        """
        results, files = self._exported(actor, job_id)
        for file in files:
            if file.name == name:
                return file, artifacts.verified(self._storage, f"{results}/export", file)
        raise NotFound("file", hint="`GET /api/jobs/<id>/files` lists the files of an export.")

    def transitions(self, actor: Actor, job_id: str) -> Sequence[Transition]:
        """Every step of the job's state machine, oldest first. Raises: NotFound, Gone."""
        with self._database.read(actor.tenant_id) as session:
            _found(session, job_id)
            return [
                Transition(
                    attempt=row.attempt,
                    from_state=JobState(row.from_state) if row.from_state else None,
                    to_state=JobState(row.to_state),
                    at=row.at,
                    reason=row.reason,
                )
                for row in store.history(session, job_id)
            ]

    def pause(self, actor: Actor, job_id: str) -> Job:
        """Save and rest until it is resumed or cancelled. A finished job stays as it is. Raises: NotFound, Gone."""
        return self._end(actor, job_id, "pause", JobState.PAUSED)

    def stop(self, actor: Actor, job_id: str) -> Job:
        """Save and end; it can be resumed. A finished job stays as it is. Raises: NotFound, Gone."""
        return self._end(actor, job_id, "stop", JobState.STOPPED)

    def cancel(self, actor: Actor, job_id: str) -> Job:
        """End for good, without saving. A finished job stays as it is. Raises: NotFound, Gone."""
        return self._end(actor, job_id, "cancel", JobState.CANCELLED)

    def resume(self, actor: Actor, job_id: str) -> Job:
        """Queue a paused, stopped or failed job again; it goes on from its last checkpoint.

        Raises: NotFound, Gone, WrongState, DatasetNotReady, BudgetExceeded, QuotaExceeded.
        """
        with self._database.write(actor.tenant_id) as session:
            row = _found(session, job_id)
            if row.state not in (JobState.PAUSED, JobState.STOPPED, JobState.FAILED):
                raise rules.refusal("resumed", JobState(row.state), "Only a paused, stopped or failed job can be resumed.")
            self._within_limits(session, row)
            if self._quotas is not None:
                measures.check_again(self._quotas, session, row, self._now())
            self._use(session, actor, row)
            self._billing.hold(session, actor, Hold(row.id, row.hardware, self._rest_micro_usd(row)))
            fresh = {"wish": None, "crashes": 0, "owner": None, "not_before": None, "queued_at": self._now()}
            fresh |= {"error_code": None, "error_message": None, "error_hint": None, "error_param": None}
            # One that was refused before it was ever frozen is looked at anew.
            state = JobState.QUEUED if spec_of(row).sources is not None else JobState.VALIDATING
            store.move(session, row, store.Step(state, self._now(), "resumed by its owner"), **fresh)
            used = self._billing.used_ms(session, row.id)
        self._project(row, used)
        return job_of(row)

    def delete(self, actor: Actor, job_id: str) -> None:
        """Remove a finished job and its directory; what it cost stays in the ledger. Raises: NotFound, Gone, WrongState."""
        with self._database.write(actor.tenant_id) as session:
            row = _found(session, job_id)
            job = job_of(row)
            if not job.finished:
                raise rules.refusal("deleted", job.state, "Cancel it first, and wait until it has ended.")
            self._release(session, row.id)
            row.deleted_at = self._now()
        # Row before directory: what is left of the directory after a crash is litter, not a job.
        self._storage.delete(projection.job_root(actor.tenant_id, job.id))

    def reindex(self) -> int:
        """Make the rows of all job directories that have none, e.g. after the database was lost. Returns how many."""
        found = {each.job.id: each for each in projection.found(self._storage)}
        with self._database.write(EVERY_TENANT) as session:
            missing = found.keys() - store.known(session, found)
            for job_id in sorted(missing):
                each = found[job_id]
                here = projection.directory(self._storage, each.tenant_id, job_id)
                store.add(session, row_of(each, here.read_spec().decode()), "found by reindex")
        return len(missing)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _exported(self, actor: Actor, job_id: str) -> tuple[str, list[ModelFile]]:
        """The results of an export, and its files."""
        job = self.get(actor, job_id)
        if job.kind != "export":
            raise WrongState(f"A run of the kind {job.kind} has no files to download.", hint="Its model has: `model download`.")
        if job.state != JobState.SUCCEEDED:
            raise WrongState(f"An export that is {job.state} has no files.", hint=f"See `tune status --job-id {job.id}`.")
        attempt = projection.directory(self._storage, actor.tenant_id, job.id).attempt(job.attempt)
        return attempt.name("results"), artifacts.exported(attempt)

    def _row(self, actor: Actor, spec: RunSpec, estimate: Estimate, state: JobState) -> store.JobRow:
        now = from_ms(to_ms(self._now()))  # as it will be read
        return store.JobRow(
            id=ids.new(ids.JOB),
            tenant_id=actor.tenant_id,
            created_by=actor.user_id,
            name=spec.name,
            state=state,
            kind=spec.kind,
            spec=spec.model_dump_json(),
            spec_sha256="",
            estimate=estimate.model_dump_json(),
            base_model=spec.base_model,
            dataset_id=spec.dataset,
            validation_dataset_id=spec.validation_dataset,
            hardware=spec.hardware,
            attempt=0,
            step=0,
            epoch=0.0,
            total_steps=estimate.steps or None,
            cost_micro_usd=0,
            estimated_micro_usd=money.micro_usd(estimate.cost_usd),
            queued_at=now,
            created_at=now,
            updated_at=now,
        )

    def _queue(self, actor: Actor, row: store.JobRow, tokens: int, idempotency: Idempotency | None) -> str:
        """The one transaction: key, hold, job, uses. Returns the id of the job that the key stands for."""
        with self._database.write(actor.tenant_id) as session:
            if idempotency is not None:
                earlier = self._accounts.replay(session, actor, idempotency)
                if earlier is not None:
                    return earlier
                self._accounts.remember(session, actor, idempotency, row.id)
            if self._quotas is not None:
                measures.check(self._quotas, session, actor.tenant_id, tokens=tokens)
            self._billing.hold(session, actor, Hold(row.id, row.hardware, row.estimated_micro_usd, first=True))
            self._use(session, actor, row)
            store.add(session, row, "submitted")
            if row.state == JobState.AWAITING_APPROVAL:
                approvals.ask(session, row)
        return row.id

    def _use(self, session: Session, actor: Actor, row: store.JobRow) -> None:
        """What the job needs cannot be deleted until `_release`."""
        for dataset_id in filter(None, (row.dataset_id, row.validation_dataset_id)):
            self._datasets.use(session, actor, dataset_id, row.id)
        for model_id in of_models.models_of(spec_of(row)):
            self._models.use(session, actor, model_id, row.id)

    def _release(self, session: Session, job_id: str) -> None:
        self._datasets.release(session, job_id)
        self._models.release(session, job_id)

    def _earlier(self, actor: Actor, idempotency: Idempotency | None) -> Submitted | None:
        """What this key made before. Asked once more inside the transaction, where the answer is final."""
        if idempotency is None:
            return None
        earlier = self._accounts.replayed(actor, idempotency)
        return None if earlier is None else self._replayed(actor, earlier)

    def _replayed(self, actor: Actor, job_id: str) -> Submitted:
        """Raises: Gone."""
        return Submitted(job=self.get(actor, job_id), estimate=self.submitted_estimate(actor, job_id), replayed=True)

    def _end(self, actor: Actor, job_id: str, wish: rules.Wish, state: JobState) -> Job:
        with self._database.write(actor.tenant_id) as session:
            row = _found(session, job_id)
            if job_of(row).finished and not (row.state == JobState.PAUSED and wish == "cancel"):
                return job_of(row)
            # Nobody runs it, so there is nobody to ask: it ends here.
            if row.state in (JobState.QUEUED, JobState.PAUSED):
                where = "in the queue" if row.state == JobState.QUEUED else "while it was paused"
                self._unstarted.end(session, row, store.Step(state, self._now(), f"{state} {where}"))
            # A stop, too: what was stopped could be resumed without approval, or without its data having been checked.
            elif row.state in (JobState.AWAITING_APPROVAL, JobState.VALIDATING):
                self._unstarted.end(session, row, store.Step(JobState.CANCELLED, self._now(), "withdrawn by its owner"))
            else:
                store.wish(session, row, wish, self._now())
            used = self._billing.used_ms(session, row.id)
        self._project(row, used)
        return job_of(row)

    def _rest_micro_usd(self, row: store.JobRow) -> int:
        """What the rest of a job is expected to cost, at the price of now."""
        seconds = money.seconds_left(Estimate.model_validate_json(row.estimate).seconds, row.step, row.total_steps)
        return money.expected_micro_usd(self._billing.price(row.hardware).micro_usd_per_hour, seconds)

    def _within_limits(self, session: Session, row: store.JobRow) -> None:
        spec = spec_of(row)
        used = self._billing.used_ms(session, row.id)
        limits = {"max_micro_usd": spec.max_cost_micro_usd, "max_seconds": spec.limits.max_seconds}
        if rules.over_limit(row.cost_micro_usd, used, **limits) is not None:
            raise rules.refusal(
                "resumed", JobState(row.state), "It has reached its own `limits`: submit it again with higher ones."
            )

    def _project(self, row: store.JobRow, used_ms: int) -> None:
        projection.write(projection.directory(self._storage, row.tenant_id, row.id), projection_of(row, used_ms))


def _found(session: Session, job_id: str) -> store.JobRow:
    row = store.get(session, job_id) if ids.is_id(job_id, ids.JOB) else None
    if row is None:
        raise NotFound("job")
    if row.deleted_at is not None:
        raise Gone("job")
    return row


def _position(after: str | None) -> tuple[int, int] | None:
    if after is None:
        return None
    match = _CURSOR.fullmatch(after)
    if match is None:
        raise CursorInvalid
    return int(match[1]), int(match[2])
