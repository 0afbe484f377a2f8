"""From which checkpoint a job goes on."""

from __future__ import annotations

import hashlib

from luthier.jobs.directory import CheckpointRef, JobDirectory, Manifest, checkpoint_folder
from luthier.seams import NotStored, Storage

_CHUNK = 1024 * 1024


def newest_whole(here: JobDirectory) -> CheckpointRef | None:
    """The complete checkpoint with the highest step whose every byte is what its manifest says.

    `JobDirectory.newest_checkpoint` trusts sizes; this reads the files, from the newest one down to the first that is whole.
    """
    found = [ref for number in here.attempts() for ref in here.attempt(number).checkpoints()]
    newest_first = sorted(found, key=lambda ref: (ref.step, ref.attempt), reverse=True)
    return next((ref for ref in newest_first if _is_whole(here, ref)), None)


def _is_whole(here: JobDirectory, ref: CheckpointRef) -> bool:
    folder = here.attempt(ref.attempt).name("checkpoints", checkpoint_folder(ref.step))
    try:
        data = here.storage.read(f"{folder}/COMPLETE.json")
        if hashlib.sha256(data).hexdigest() != ref.sha256:
            return False
        files = Manifest.model_validate_json(data).files
        return all(_sha256(here.storage, f"{folder}/{name}") == facts.sha256 for name, facts in files.items())
    except NotStored:
        return False


def _sha256(storage: Storage, name: str) -> str:
    digest = hashlib.sha256()
    with storage.open(name) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
