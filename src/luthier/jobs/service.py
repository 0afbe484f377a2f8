"""Jobs: estimate, submit, watch, stop, resume."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from luthier.accounts.service import Accounts
from luthier.accounts.types import Actor, Idempotency
from luthier.bases.service import Bases
from luthier.billing.service import Billing
from luthier.database import Database
from luthier.jobs.directory import Event
from luthier.jobs.spec import RunSpec
from luthier.jobs.types import Estimate, Job, LogTail, Submitted, Transition
from luthier.seams import Clock, Storage
from luthier.values import Page

if TYPE_CHECKING:
    from luthier.datasets.service import Datasets


class Jobs:
    """What a caller can do with runs."""

    def __init__(
        self,
        database: Database,
        storage: Storage,
        services: JobServices,
        now: Clock,
        served: frozenset[str] = frozenset({"local-cpu", "local-gpu"}),
    ) -> None: ...

    def estimate(self, actor: Actor, spec: RunSpec) -> Estimate:
        """Time, memory and money of a run. Reserves nothing.

        Raises: NotFound, Gone, DatasetNotReady, ModelNotAllowed, FieldInvalid.
        """
        raise NotImplementedError

    def submit(self, actor: Actor, spec: RunSpec, idempotency: Idempotency | None = None) -> Submitted:
        """Freeze the request, hold its estimated cost, queue it, and return at once.

        Raises: NotFound, Gone, DatasetNotReady, ModelNotAllowed, FieldInvalid, ForbiddenField, WillNotFit, BudgetExceeded,
        KeyReused; nothing is left behind then.
        """
        raise NotImplementedError

    def list(self, actor: Actor, *, after: str | None = None, limit: int = 50) -> Page[Job]:
        """The tenant's jobs, newest first. Raises: CursorInvalid."""
        raise NotImplementedError

    def get(self, actor: Actor, job_id: str) -> Job:
        """One job as it stands now. Raises: NotFound, Gone."""
        raise NotImplementedError

    def logs(self, actor: Actor, job_id: str, *, tail_bytes: int = 65_536) -> LogTail:
        """The end of the latest attempt's log. Raises: NotFound, Gone."""
        raise NotImplementedError

    def events(self, actor: Actor, job_id: str, *, after: str | None = None) -> Iterator[Event]:
        """What has happened so far, in order, from after the event `<attempt>-<seq>` on. Raises: NotFound, Gone, CursorInvalid."""
        raise NotImplementedError

    def transitions(self, actor: Actor, job_id: str) -> list[Transition]:
        """Every step of the job's state machine, oldest first. Raises: NotFound, Gone."""
        raise NotImplementedError

    def stop(self, actor: Actor, job_id: str) -> Job:
        """Save and end; it can be resumed. A finished job stays as it is. Raises: NotFound, Gone."""
        raise NotImplementedError

    def cancel(self, actor: Actor, job_id: str) -> Job:
        """End for good, without saving. A finished job stays as it is. Raises: NotFound, Gone."""
        raise NotImplementedError

    def resume(self, actor: Actor, job_id: str) -> Job:
        """Queue a stopped or failed job again; it goes on from its last checkpoint. Raises: NotFound, Gone, WrongState."""
        raise NotImplementedError

    def delete(self, actor: Actor, job_id: str) -> None:
        """Remove a finished job and its directory; what it cost stays in the ledger. Raises: NotFound, Gone, WrongState."""
        raise NotImplementedError

    def reindex(self) -> int:
        """Make the rows of all job directories that have none, e.g. after the database was lost. Returns how many."""
        raise NotImplementedError


class JobServices:
    """The services that a job stands on."""

    def __init__(self, accounts: Accounts, billing: Billing, bases: Bases, datasets: Datasets) -> None:
        self.accounts = accounts
        self.billing = billing
        self.bases = bases
        self.datasets = datasets
