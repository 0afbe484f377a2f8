"""Jobs on data that is still being checked: they wait in `validating`, and hold no money, until it is known what they take.

Nobody tells this part that a check is done: rounds look. A round may be cut off anywhere and be repeated, by several servers.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from luthier.accounts.deeds import by_system
from luthier.accounts.types import Actor
from luthier.billing import rules as money
from luthier.billing.types import Hold
from luthier.database import EVERY_TENANT, Database
from luthier.datasets.refusals import rejection
from luthier.errors import LuthierError, StorageFull, Unavailable
from luthier.jobs import approvals, measures, projection, store
from luthier.jobs.approvals import Unstarted
from luthier.jobs.examining import Examiner, JobServices
from luthier.jobs.rows import projection_of, spec_of
from luthier.jobs.spec import RunSpec
from luthier.jobs.types import Estimate, JobState
from luthier.seams import Clock, Storage

_LOG = logging.getLogger("luthier.jobs")


@dataclass(frozen=True)
class Unchecked:
    """Takes jobs whose data was checked to where they would have begun with it."""

    database: Database
    storage: Storage
    services: JobServices
    examiner: Examiner
    unstarted: Unstarted
    now: Clock

    def round(self) -> None:
        """Look once at all that wait. What goes wrong with one is logged, and tried again; the others go on."""
        with self.database.read(EVERY_TENANT) as session:
            waiting = [
                (row.id, row.tenant_id, row.created_by, spec_of(row)) for row in store.in_state(session, JobState.VALIDATING)
            ]
        for job_id, tenant_id, created_by, spec in waiting:
            try:
                self._look(job_id, tenant_id, created_by, spec)
            except (Unavailable, StorageFull) as error:
                _LOG.warning("%s waits on: %s", job_id, error)

    @by_system("jobs.admit")
    def _look(self, job_id: str, tenant_id: str, created_by: str, spec: RunSpec) -> None:
        actor = self._submitter(job_id, tenant_id, created_by)
        try:
            if self.examiner.waits(actor, spec):
                return
            self._check_accepted(actor, spec)
            frozen, estimate = self.examiner.examined(actor, spec)
            self.examiner.check(frozen, estimate)
            self._admit(actor, job_id, frozen, estimate)
        except (Unavailable, StorageFull):
            raise
        except LuthierError as error:
            self._refuse(tenant_id, job_id, error)

    def _submitter(self, job_id: str, tenant_id: str, created_by: str) -> Actor:
        with self.database.read(tenant_id) as session:
            return self.services.accounts.keys.acting(tenant_id, created_by, self.services.billing.key_of(session, job_id))

    def _check_accepted(self, actor: Actor, spec: RunSpec) -> None:
        """Raises: the first finding of the first file that was refused, with `param`."""
        for param, dataset_id in (("dataset", spec.dataset), ("validation_dataset", spec.validation_dataset)):
            dataset = self.services.datasets.get(actor, dataset_id) if dataset_id else None
            if dataset is not None and dataset.state == "rejected" and dataset.report is not None:
                error = rejection(dataset.report)
                error.param = param
                raise error

    def _admit(self, actor: Actor, job_id: str, frozen: RunSpec, estimate: Estimate) -> None:
        """Hold its money and let it stand in line, or before an admin, in one transaction. Raises: as `Jobs.submit`."""
        here = projection.directory(self.storage, actor.tenant_id, job_id)
        # As at a submit: a row that names a spec finds it.
        spec_sha256 = here.write_spec(frozen.model_dump(mode="json"))
        expected = money.micro_usd(estimate.cost_usd)
        with self.database.write(actor.tenant_id) as session:
            row = store.get(session, job_id)
            if row is None or row.state != JobState.VALIDATING:
                return
            if self.services.quotas is not None:
                measures.check_tokens(self.services.quotas, session, actor.tenant_id, estimate.tokens)
            self.services.billing.hold(session, actor, Hold(row.id, row.hardware, expected))
            values = {"spec": frozen.model_dump_json(), "spec_sha256": spec_sha256, "estimate": estimate.model_dump_json()}
            sizes = {"total_steps": estimate.steps or None, "estimated_micro_usd": expected, "queued_at": self.now()}
            step = store.Step(self.services.rule.first_state(expected), self.now(), "its data was checked")
            store.move(session, row, step, **values, **sizes)
            if row.state == JobState.AWAITING_APPROVAL:
                approvals.ask(session, row)
        projection.write(here, projection_of(row, 0))

    def _refuse(self, tenant_id: str, job_id: str, error: LuthierError) -> None:
        with self.database.write(tenant_id) as session:
            row = store.get(session, job_id)
            if row is None or row.state != JobState.VALIDATING:
                return
            told = {"error_code": error.error_code, "error_message": error.message, "error_hint": error.hint or ""}
            step = store.Step(JobState.FAILED, self.now(), "refused once its data was checked")
            self.unstarted.end(session, row, step, **told, error_param=error.param)
        projection.write(projection.directory(self.storage, tenant_id, job_id), projection_of(row, 0))
