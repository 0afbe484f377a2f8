"""Before anything heavy is loaded: is this a job directory, which attempt is this, and is the spec the one that was submitted?"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from luthier.errors import LuthierError, SetupError
from luthier.jobs.directory import CheckpointRef, Control, JobDirectory
from luthier.jobs.spec import RunSpec
from luthier.jobs.yaml12 import read_yaml
from luthier.seams import NotStored

_MAX_SPEC_BYTES = 1024 * 1024
_MOST_ATTEMPTS = 1_000_000_000


@dataclass(frozen=True)
class Opened:
    """A job directory that can be used."""

    job: JobDirectory
    spec_bytes: bytes
    control: Control | None
    """None in a run by hand."""
    number: int
    """Of this attempt."""

    @property
    def spec_sha256(self) -> str:
        return hashlib.sha256(self.spec_bytes).hexdigest()

    @property
    def tampered(self) -> bool:
        """Whether `run.yaml` is not the one that was submitted."""
        return self.control is not None and self.control.spec_sha256 != self.spec_sha256


def open_run(job: JobDirectory) -> Opened:
    """Look at the directory. Raises: SetupError when no trainer could use it as it is."""
    spec_bytes = _spec_bytes(job)
    try:
        control = job.control()
        known = control is None or 1 <= control.attempt <= _MOST_ATTEMPTS
    except ValidationError:
        known, control = False, None
    if not known:
        raise SetupError("control.json cannot be read.", hint="The supervisor writes it; start the job again.")
    number = control.attempt if control else max(job.attempts(), default=0) + 1
    return Opened(job, spec_bytes, control, number)


def read_spec(data: bytes) -> RunSpec:
    """The spec in these bytes. Raises: SetupError naming the first field that is wrong."""
    try:
        return RunSpec.model_validate(_parsed(data))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "run.yaml"
        raise SetupError(f"run.yaml: {where}: {first['msg']}.", hint="docs/reference has every field of a run.") from None


def resume_candidates(opened: Opened) -> list[CheckpointRef]:
    """Checkpoints to go on from, the wanted one first, then the ones before it: a file may have rotted since.

    The supervisor says where to go on. By hand a run goes on from what the attempt before left, unless that succeeded.
    """
    job = opened.job
    complete = sorted(
        (ref for number in job.attempts() if number < opened.number for ref in job.attempt(number).checkpoints()),
        key=lambda ref: (ref.step, ref.attempt),
        reverse=True,
    )
    if opened.control is None:
        before = job.attempt(opened.number - 1).status() if opened.number > 1 else None
        return [] if before is not None and before.state == "succeeded" else complete
    wanted = opened.control.resume_from
    if wanted is None:
        return []
    return [wanted, *(ref for ref in complete if (ref.step, ref.attempt) < (wanted.step, wanted.attempt))]


def _spec_bytes(job: JobDirectory) -> bytes:
    hint = "Give the address of a job directory: a folder with a file run.yaml in it."
    try:
        size = job.storage.size(job.name("run.yaml"))
        data = job.read_spec() if size is not None and size <= _MAX_SPEC_BYTES else b""
    except (NotStored, OSError, ValueError):
        raise SetupError("run.yaml is missing, or is not a plain file.", hint=hint) from None
    if size is None:
        raise SetupError("run.yaml is missing, or is not a plain file.", hint=hint)
    if size > _MAX_SPEC_BYTES:
        raise SetupError(f"run.yaml has {size} bytes; a spec has at most {_MAX_SPEC_BYTES}.", hint=hint)
    if not data.strip():
        raise SetupError("run.yaml is empty.", hint=hint)
    return data


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)  # what the platform writes
    except (ValueError, RecursionError):
        pass
    try:
        return read_yaml(data, max_bytes=_MAX_SPEC_BYTES)
    except LuthierError as error:
        raise SetupError(f"run.yaml: {error.message}", hint=error.hint) from None
