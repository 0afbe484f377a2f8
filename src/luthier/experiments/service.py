"""Runs as a tracker has them, told from what the platform itself knows: this never waits for the tracker."""

from __future__ import annotations

import json
from typing import Any

from luthier import ids
from luthier.accounts.types import Actor
from luthier.database import Database
from luthier.errors import NotFound
from luthier.experiments import mirror_store, rules
from luthier.experiments.types import MirroredRun, VersionFacts, Versions
from luthier.jobs import projection
from luthier.jobs.rows import standing_job
from luthier.jobs.types import Job
from luthier.seams import NotStored, Storage, TrackedRun

_MOST_BYTES = 2 * 1024 * 1024
"""Of a file of a job's results; what is larger is no summary, and is not copied."""


class Experiments:
    """Jobs as runs."""

    def __init__(self, database: Database, storage: Storage, versions: Versions) -> None:
        self._database = database
        self._storage = storage
        self._versions = versions

    def run(self, actor: Actor, ref: str) -> MirroredRun:
        """A run by MLflow's id, or by the job's. Raises: NotFound."""
        with self._database.read(actor.tenant_id) as session:
            row = mirror_store.by_run(session, ref)
            job_id = ref if row is None else row.job_id
            row = row or (mirror_store.by_job(session, ref) if ids.is_id(ref, ids.JOB) else None)
            job = standing_job(session, job_id)
        if job is None:
            raise NotFound("run", hint="A run has the id that MLflow gave to it, or that of its job: `GET /api/jobs`.")
        run, made = self.tracked(actor.tenant_id, job)
        return MirroredRun(
            run_id=row.run_id if row else None,
            experiment=run.experiment,
            job_id=job.id,
            name=run.name,
            status=run.status,
            params=dict(run.params),
            metrics={name: value for name, value, _ in run.metrics},
            tags=dict(run.tags),
            artifacts=tuple(sorted(run.artifacts)),
            model=f"{made.name}@{made.number}" if made is not None and not made.deleted else None,
            started_at=run.started_at,
            ended_at=run.ended_at,
            mirrored_at=row.mirrored_at if row else None,
            error=row.error if row else None,
        )

    def tracked(self, tenant_id: str, job: Job) -> tuple[TrackedRun, VersionFacts | None]:
        """A job as a tracker is told of it, and the version that came out, deleted or not."""
        made = self._versions.facts(tenant_id, job.id)
        results = self._results(tenant_id, job)
        return rules.run_of(tenant_id, job, results, _numbers(results.get("metrics.json")), made), made

    def _results(self, tenant_id: str, job: Job) -> dict[str, str]:
        if job.attempt == 0:
            return {}
        here = projection.directory(self._storage, tenant_id, job.id).attempt(job.attempt)
        found: dict[str, str] = {}
        for name in rules.RESULTS:
            stored = here.name("results", name)
            try:
                if (self._storage.size(stored) or _MOST_BYTES) < _MOST_BYTES:
                    found[name] = self._storage.read(stored).decode("utf-8", "replace")
            except NotStored:
                continue
        return found


def _numbers(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
