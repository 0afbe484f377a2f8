"""The top-level `status.json` of a job directory: a projection of the row, with the seed's fields.

Nothing in the platform decides by it; `luthier reindex` makes rows of it after the database was lost.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field, ValidationError

from luthier.jobs.directory import JobDirectory, Record
from luthier.jobs.types import FINISHED, Estimate, Job
from luthier.seams import NotStored, Storage

_LOG_BYTES = 1024 * 1024


class GpuMetrics(Record):
    """The seed's names: what an hour costs is looked up by the first, what was used is the second."""

    gpu_type: str
    current_duration_seconds: float


class Projection(Record):
    """`status.json`."""

    tenant_id: str
    spec_sha256: str
    job: Job
    estimate: Estimate
    status: str = Field(description="The seed's name of the job's state.")
    progress: float | None = Field(default=None, description="0 to 1.")
    gpu_metrics: GpuMetrics
    current_attempt: str | None = Field(default=None, description="Folder of the latest attempt, below the job directory.")


def job_root(tenant_id: str, job_id: str) -> str:
    """The storage name of a job directory."""
    return f"users/{tenant_id}/jobs/{job_id}"


def directory(storage: Storage, tenant_id: str, job_id: str) -> JobDirectory:
    return JobDirectory(storage, job_root(tenant_id, job_id))


def write(here: JobDirectory, projection: Projection) -> None:
    here.storage.write(here.name("status.json"), _file(projection))


def make(here: JobDirectory, spec: bytes, projection: Projection) -> None:
    """The directory of a new job, in one go."""
    here.make(spec, _file(projection))


def _file(projection: Projection) -> bytes:
    return projection.model_dump_json(indent=2).encode()


def publish(here: JobDirectory, job: Job) -> None:
    """Copy what people look for to the top of the directory, once the job has ended: `config.yml` and `job.log`."""
    if job.state not in FINISHED or job.attempt == 0:
        return
    attempt = here.attempt(job.attempt)
    for source, target in ((attempt.name("results", "config.yaml"), "config.yml"), (attempt.name("job.log"), "job.log")):
        data = tail(here.storage, source, _LOG_BYTES)
        if data is not None:
            here.storage.write(here.name(target), data[0])


def tail(storage: Storage, name: str, most: int) -> tuple[bytes, int] | None:
    """The last bytes of a file and its size, or None where there is none."""
    try:
        with storage.open(name) as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - most))
            return file.read(most), size
    except NotStored:
        return None


def found(storage: Storage) -> Iterator[Projection]:
    """Every projection in the storage that can be read."""
    for name in storage.names("users"):
        parts = name.split("/")
        if len(parts) == 5 and parts[2] == "jobs" and parts[4] == "status.json":
            try:
                yield Projection.model_validate_json(storage.read(name))
            except (ValidationError, NotStored):
                continue
