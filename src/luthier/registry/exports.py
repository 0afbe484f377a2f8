"""What models were exported as, and the files of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from luthier.accounts.types import Actor
from luthier.database import Database
from luthier.errors import ArtifactCorrupt, NotExported
from luthier.jobs import artifacts, projection
from luthier.jobs.rows import exports_of
from luthier.jobs.types import Job
from luthier.registry.bundles import Download
from luthier.registry.files import ModelFiles
from luthier.registry.service import Registry
from luthier.registry.types import Model
from luthier.seams import Storage
from luthier.values import Frozen, ModelFile

Format = Literal["adapter", "merged", "gguf", "gguf-adapter"]
GGUF: tuple[Format, ...] = ("gguf", "gguf-adapter")
_MOST = 50


class Exported(Frozen):
    """A finished export of one model version, and what was proven of it."""

    job_id: str
    format: str
    precision: str = Field(description="How the matrices are stored.")
    bytes: int = Field(description="Of all its files.")
    files: tuple[ModelFile, ...]
    checks: dict[str, Any] = Field(description="What its replay measured, against what its format may lose.")
    created_at: datetime


@dataclass(frozen=True)
class Found:
    """An export of a model, and where its files are stored."""

    tenant_id: str
    model: Model
    exported: Exported
    folder: str


class Exports:
    """Exports of each tenant's models."""

    def __init__(self, database: Database, storage: Storage, files: ModelFiles, registry: Registry) -> None:
        self._database = database
        self._storage = storage
        self._files = files
        self._registry = registry

    def list(self, actor: Actor, ref: str) -> list[Exported]:
        """The newest fifty of a version, newest first; those whose manifest is gone are left out.

        Raises: NotFound, Gone, ModelNotReady.
        """
        return [found.exported for found in self._all(actor, ref)]

    def newest(self, actor: Actor, ref: str, form: Format, precision: str | None = None) -> Found:
        """The newest of this format, and of this precision where one is given.

        Raises: NotFound, Gone, ModelNotReady; NotExported where there is none.
        """
        for found in self._all(actor, ref):
            if found.exported.format == form and precision in {None, found.exported.precision}:
                return found
        stored = f" as {precision}" if precision else ""
        asked = f" --precision {precision}" if precision else ""
        raise NotExported(
            f"This version was not exported in the format {form}{stored} yet.",
            hint=f"Make it first: `model export <model> --format {form}{asked}`.",
        )

    def download(self, actor: Actor, ref: str, form: Format | None, precision: str | None = None) -> Download:
        """Without a format the version's own files as one tar; else those of its newest such export, a GGUF as it is.

        All of it is verified and open before this returns. Raises: NotFound, Gone, ModelNotReady, NotExported, ArtifactCorrupt.
        """
        if form is None or (form == "adapter" and precision is None):
            return self._registry.archive(actor, ref)
        found = self.newest(actor, ref, form, precision)
        if form in GGUF:
            return self.gguf(found)
        return self._files.archive(found.folder, f"{found.model.id}-{form}", found.exported.files)

    def gguf(self, found: Found) -> Download:
        """The GGUF of an export, under a name that says what it is. Raises: ArtifactCorrupt."""
        return self._files.single(found.folder, f"{name_of(found)}.gguf", gguf_of(found.exported))

    def _all(self, actor: Actor, ref: str) -> Iterator[Found]:
        model = self._registry.resolve(actor, ref)
        with self._database.read(actor.tenant_id) as session:
            jobs = exports_of(session, model.id, _MOST)
        for job in jobs:
            attempt = projection.directory(self._storage, actor.tenant_id, job.id).attempt(job.attempt)
            try:
                exported = _exported(job, artifacts.manifest(attempt))
                yield Found(actor.tenant_id, model, exported, attempt.name("results", "export"))
            except ArtifactCorrupt:
                continue


def gguf_of(exported: Exported) -> ModelFile:
    """The one file that counts. Raises: ArtifactCorrupt where the manifest names none."""
    for file in exported.files:
        if file.name.endswith(".gguf"):
            return file
    raise ArtifactCorrupt("The manifest of this export names no GGUF file.", hint="Export it again.")


def name_of(found: Found) -> str:
    """What the file of an export is called by those who take it away."""
    kind = "-adapter" if found.exported.format == "gguf-adapter" else ""
    return f"{found.model.name}-v{found.model.version}{kind}-{found.exported.precision}"


def _exported(job: Job, manifest: artifacts.ExportManifest) -> Exported:
    wanted = job.spec.export
    return Exported(
        job_id=job.id,
        format=wanted.format if wanted else "",
        precision=str(manifest.checks.get("precision") or (wanted.precision if wanted else "")),
        bytes=sum(file.bytes for file in manifest.files),
        files=tuple(manifest.files),
        checks=manifest.checks,
        created_at=job.created_at,
    )
