"""Checkpoints: written aside, published file by file, counted only once the manifest that names every byte is there.

What is in one: the adapter in PEFT's format, the optimiser's moments, and `trainer_state.json`. No random state: the
random numbers of a step are a function of (seed, step). No pickle: reading one can run no code.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError

from luthier.errors import StorageFull
from luthier.jobs.directory import AttemptDirectory, CheckpointRef, JobDirectory, Manifest, ManifestFile, checkpoint_folder
from luthier.seams import NotStored
from luthier.training.failures import AttemptFailed

_MANIFEST = "COMPLETE.json"
_DISK_SAID = re.compile(r"os error (\d+)")
_READ_BYTES = 1024 * 1024
_MOST_WORDS = 200


class Checkpoints:
    """The checkpoints of one attempt, and a way to read those of the attempts before."""

    def __init__(self, attempt: AttemptDirectory, workspace: Path) -> None:
        self._attempt = attempt
        self._workspace = workspace
        self._own: dict[int, CheckpointRef] = {}

    def save(self, step: int, fill: Callable[[Path], None]) -> CheckpointRef:
        """Publish what `fill` writes into an empty folder. Once per step: a second call gives the first one's answer."""
        if step in self._own:
            return self._own[step]
        try:
            ref = self._publish(step, fill)
        except (OSError, StorageFull):
            # A part of a checkpoint is of no use to anybody, and the last word needs room.
            with suppress(OSError):
                self._remove(step)
            raise
        self._own[step] = ref
        return ref

    def _publish(self, step: int, fill: Callable[[Path], None]) -> CheckpointRef:
        # A folder of its own each time: publishing may link files, and a linked file must never be written again.
        folder = Path(tempfile.mkdtemp(prefix="checkpoint-", dir=self._workspace))
        try:
            with _disk_errors_as_such():
                fill(folder)
            facts: dict[str, ManifestFile] = {}
            for path in sorted(folder.iterdir()):
                facts[path.name] = ManifestFile(bytes=path.stat().st_size, sha256=sha256_of(path))
                self._attempt.storage.put_file(self._name(step, path.name), path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        manifest = Manifest(step=step, files=facts).model_dump_json().encode()
        self._attempt.storage.write(self._name(step, _MANIFEST), manifest)
        return CheckpointRef(attempt=self._attempt.number, step=step, sha256=hashlib.sha256(manifest).hexdigest())

    def keep_only(self, steps: set[int]) -> None:
        """Remove this attempt's other checkpoints. Those of earlier attempts are not ours to remove."""
        for step in sorted(set(self._own) - steps):
            self._remove(step)
            del self._own[step]

    def _remove(self, step: int) -> None:
        # The manifest first: half a removal must not look like a checkpoint.
        self._attempt.storage.delete(self._name(step, _MANIFEST))
        self._attempt.storage.delete(self._attempt.name("checkpoints", checkpoint_folder(step)))

    def _name(self, step: int, file: str) -> str:
        return self._attempt.name("checkpoints", checkpoint_folder(step), file)


@contextmanager
def _disk_errors_as_such() -> Generator[None]:
    """safetensors tells what the disk said only in words; whoever reads errors here reads numbers."""
    try:
        yield
    except SafetensorError as error:
        number = _DISK_SAID.search(str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def fetch_checkpoint(job: JobDirectory, ref: CheckpointRef, target: Path) -> bool:
    """Copy a checkpoint into the folder `target`, if every byte is what its manifest says; False (and nothing there) if not."""
    folder = job.attempt(ref.attempt).name("checkpoints", checkpoint_folder(ref.step))
    try:
        data = job.storage.read(f"{folder}/{_MANIFEST}")
        if hashlib.sha256(data).hexdigest() != ref.sha256:
            return False
        manifest = Manifest.model_validate_json(data)
        target.mkdir(parents=True)
        for name, facts in manifest.files.items():
            job.storage.fetch_file(f"{folder}/{name}", target / name)
            if sha256_of(target / name) != facts.sha256:
                break
        else:
            return True
    except (NotStored, ValidationError, ValueError):
        pass
    shutil.rmtree(target, ignore_errors=True)
    return False


@contextmanager
def used(ref: CheckpointRef) -> Generator[None]:
    """While what a checkpoint holds is taken over. Raises: AttemptFailed for bytes that verify and make no sense all the same."""
    try:
        yield
    except ValueError as error:
        raise AttemptFailed(
            "storage",
            f"The checkpoint of step {ref.step} cannot be used: {str(error)[:_MOST_WORDS]}.",
            "Resume with the version of luthier that wrote it, or submit the run again: it begins anew.",
        ) from error


def first_whole(job: JobDirectory, candidates: list[CheckpointRef], target: Path) -> CheckpointRef | None:
    """The first of these checkpoints that verifies byte by byte, fetched into `target`."""
    return next((ref for ref in candidates if fetch_checkpoint(job, ref, target)), None)


def sha256_of(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
