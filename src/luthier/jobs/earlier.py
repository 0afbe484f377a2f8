"""What earlier jobs tell of the next one. Rows of other tenants are read where a tenant has too few of its own; medians alone
leave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from luthier.accounts.types import Actor
from luthier.database import EVERY_TENANT, Database
from luthier.jobs import calibration, store
from luthier.jobs.calibration import Correction, Past
from luthier.jobs.estimation import Measured
from luthier.jobs.rows import spec_of
from luthier.jobs.spec import RunSpec
from luthier.jobs.types import Estimate, FitTest, JobState

_START_S = 15.0


class EarlierJobs:
    """Reads them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def measured(self, actor: Actor, base_model: str, hardware: str) -> Measured | None:
        """How fast the tenant's own jobs were."""
        found = store.measured(self._database, actor.tenant_id, base_model, hardware)
        if not found:
            return None
        return Measured(
            jobs=len(found), tokens_per_second=median(rate for rate, _ in found), overhead_s=median(over for _, over in found)
        )

    def correction(self, actor: Actor, spec: RunSpec, base_model: str) -> Correction:
        """By what the formulas were off for jobs of this kind: the tenant's own, or everybody's where those are too few."""
        own = self._past(actor.tenant_id, spec, base_model)
        past = own if len(own) >= calibration.LEAST_JOBS else self._past(EVERY_TENANT, spec, base_model)
        return calibration.correction_of(past)

    def fit_test(self, actor: Actor, spec: RunSpec, base_model: str) -> FitTest | None:
        """The latest one of this very run."""
        if spec.kind != "train":
            return None
        asked = spec.model_copy(update={"base_model": base_model})
        for row in store.calibrating(self._database, actor.tenant_id, base_model, spec.hardware, "fit_test"):
            if calibration.same_run(asked, spec_of(row)):
                fits = row.state == JobState.SUCCEEDED
                return FitTest(
                    job_id=row.id,
                    fits=fits,
                    memory_bytes=row.peak_memory_bytes if fits else None,
                    tokens_per_second=row.tokens_per_second,
                )
        return None

    def made_by(self, actor: Actor, job_id: str) -> RunSpec | None:
        """The run that made a model, also where its job was deleted since."""
        with self._database.read(actor.tenant_id) as session:
            row = store.get(session, job_id)
            return None if row is None else spec_of(row)

    def _past(self, tenant_id: str, spec: RunSpec, base_model: str) -> Sequence[Past]:
        rows = store.calibrating(self._database, tenant_id, base_model, spec.hardware, spec.kind)
        return list(_finished(rows, spec.method))


def speed_of(test: FitTest | None) -> Measured | None:
    """What a fit test says of how fast its run will be."""
    if test is None or not test.tokens_per_second:
        return None
    return Measured(jobs=1, tokens_per_second=test.tokens_per_second, overhead_s=_START_S, fit_test=True)


def _finished(rows: Sequence[store.JobRow], method: str) -> Iterator[Past]:
    for row in rows:
        if row.state == JobState.SUCCEEDED and spec_of(row).method == method:
            estimate = Estimate.model_validate_json(row.estimate)
            if estimate.measured is not None:
                yield Past(estimate, estimate.measured)
