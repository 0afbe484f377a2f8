"""Stored files that were named with their checksum: read only when they are still what they were."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from typing import Any, BinaryIO

from pydantic import BaseModel, ConfigDict, Field

from luthier.errors import ArtifactCorrupt
from luthier.jobs.directory import AttemptDirectory, CheckpointRef, Manifest, checkpoint_folder
from luthier.seams import BadName, NotStored, Storage
from luthier.values import ModelFile

_CHUNK = 1024 * 1024
_AGAIN = "Export it again, or restore the data folder from a backup."


def opened(storage: Storage, folder: str, file: ModelFile, hint: str = _AGAIN) -> BinaryIO:
    """One file at its first byte, not looked at yet; the caller closes it. Raises: ArtifactCorrupt, with `hint`."""
    try:
        return storage.open(f"{folder}/{file.name}")
    except (NotStored, BadName):  # a link that leads out of the storage is no file of this model
        raise corrupt(file, "is missing", hint) from None


def verified(storage: Storage, folder: str, file: ModelFile, hint: str = _AGAIN) -> BinaryIO:
    """One file at its first byte, after all of it was compared with its checksum; the caller closes it.

    Raises: ArtifactCorrupt, with `hint`.
    """
    with ExitStack() as opening:
        stream = opening.enter_context(opened(storage, folder, file, hint))
        if hashed(stream) != (file.sha256, file.bytes):
            raise corrupt(file, "has changed", hint)
        stream.seek(0)
        opening.pop_all()
    return stream


def hashed(stream: BinaryIO) -> tuple[str, int]:
    """sha256 and size of the rest of a stream, in constant memory."""
    digest, size = hashlib.sha256(), 0
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


class ExportManifest(BaseModel):
    """`results/export.json`, as far as the platform reads it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    files: list[ModelFile]
    checks: dict[str, Any] = Field(default_factory=dict)


def manifest(attempt: AttemptDirectory) -> ExportManifest:
    """What an export made, and what was proven of it. Raises: ArtifactCorrupt."""
    try:
        return ExportManifest.model_validate_json(attempt.storage.read(attempt.name("results", "export.json")))
    except (NotStored, ValueError):
        raise ArtifactCorrupt("The manifest of this export cannot be read.", hint=_AGAIN) from None


def saved(attempt: AttemptDirectory, ref: CheckpointRef) -> tuple[str, list[ModelFile]]:
    """The folder of a checkpoint, and the files in it that are the adapter. Raises: ArtifactCorrupt."""
    folder = attempt.name("checkpoints", checkpoint_folder(ref.step))
    try:
        manifest = Manifest.model_validate_json(attempt.storage.read(f"{folder}/COMPLETE.json"))
    except (NotStored, ValueError):
        raise ArtifactCorrupt("This checkpoint cannot be read.", hint=_AGAIN) from None
    names = sorted(name for name in manifest.files if name.startswith("adapter_"))
    return folder, [ModelFile(name=name, bytes=manifest.files[name].bytes, sha256=manifest.files[name].sha256) for name in names]


def exported(attempt: AttemptDirectory) -> list[ModelFile]:
    """The files that an export made, as its manifest has them. Raises: ArtifactCorrupt."""
    return manifest(attempt).files


def corrupt(file: ModelFile, how: str, hint: str) -> ArtifactCorrupt:
    """What is said of a stored file that is not what it was; the place of it is not named."""
    message = f"A stored file of this model ({file.bytes} bytes when it was written) {how}."
    return ArtifactCorrupt(message, hint=hint, details={"file": file.name})
