"""Stored files that were named with their checksum: read only when they are still what they were."""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack
from typing import BinaryIO

from pydantic import TypeAdapter

from luthier.errors import ArtifactCorrupt
from luthier.jobs.directory import AttemptDirectory, CheckpointRef, Manifest, checkpoint_folder
from luthier.seams import NotStored, Storage
from luthier.values import ModelFile

_CHUNK = 1024 * 1024
_AGAIN = "Export it again, or restore the data folder from a backup."
_FILES = TypeAdapter(list[ModelFile])


def verified(storage: Storage, folder: str, file: ModelFile, hint: str = _AGAIN) -> BinaryIO:
    """One file at its first byte, after all of it was compared with its checksum; the caller closes it.

    Raises: ArtifactCorrupt, with `hint`.
    """
    with ExitStack() as opening:
        try:
            stream = opening.enter_context(storage.open(f"{folder}/{file.name}"))
        except NotStored:
            raise _corrupt(file, "is missing", hint) from None
        if hashed(stream) != (file.sha256, file.bytes):
            raise _corrupt(file, "has changed", hint)
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


def exported(attempt: AttemptDirectory) -> list[ModelFile]:
    """The files that an export made, as its manifest has them. Raises: ArtifactCorrupt."""
    try:
        found = json.loads(attempt.storage.read(attempt.name("results", "export.json")))
        return _FILES.validate_python(found["files"])
    except (NotStored, ValueError, KeyError, TypeError):
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


def _corrupt(file: ModelFile, how: str, hint: str) -> ArtifactCorrupt:
    message = f"A stored file of this model ({file.bytes} bytes when it was written) {how}."
    return ArtifactCorrupt(message, hint=hint, details={"file": file.name})
