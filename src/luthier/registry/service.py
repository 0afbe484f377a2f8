"""The model registry: versions, cards, stages, files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from sqlalchemy.orm import Session

from luthier.accounts.types import Actor
from luthier.bases.service import Bases
from luthier.database import Database
from luthier.registry.types import Archive, Finished, Model, ModelFile, Stage
from luthier.seams import Clock, Storage
from luthier.values import Page


class Registry:
    """Model versions of each tenant. `cache` is a local folder for weights that an engine loads."""

    def __init__(self, database: Database, storage: Storage, bases: Bases, cache: Path, now: Clock) -> None: ...

    def register(self, finished: Finished) -> Model:
        """Make the model of a finished job visible, once: a second call for the same job returns the same model.

        Raises: ArtifactCorrupt where the results hold no complete adapter.
        """
        raise NotImplementedError

    def list(self, actor: Actor, *, name: str | None = None, after: str | None = None, limit: int = 50) -> Page[Model]:
        """The tenant's models, newest first. Raises: CursorInvalid."""
        raise NotImplementedError

    def get(self, actor: Actor, model_id: str) -> Model:
        """One version. Raises: NotFound, Gone."""
        raise NotImplementedError

    def resolve(self, actor: Actor, ref: str) -> Model:
        """The version that an id, a name (its Production) or `name@3` stands for. Raises: NotFound, Gone."""
        raise NotImplementedError

    def delete(self, actor: Actor, ref: str) -> None:
        """Remove a version and its files. Raises: NotFound, Gone, InUse (Production, or something uses it)."""
        raise NotImplementedError

    def transition(self, actor: Actor, ref: str, stage: Stage) -> Model:
        """Move a version to a stage; to Production archives the one before, in one transaction.

        Raises: NotFound, Gone, EvaluationNeeded (with the numbers) where it was not shown to be at least as good as its base.
        """
        raise NotImplementedError

    def files(self, actor: Actor, ref: str) -> list[ModelFile]:
        """Names, sizes and checksums of a model's files. Raises: NotFound, Gone."""
        raise NotImplementedError

    def open(self, actor: Actor, ref: str, name: str) -> tuple[ModelFile, BinaryIO]:
        """One file, verified against its checksum, at its first byte. Raises: NotFound, Gone, ArtifactCorrupt."""
        raise NotImplementedError

    def archive(self, actor: Actor, ref: str) -> Archive:
        """All files as one tar, verified before its first byte. Raises: NotFound, Gone, ArtifactCorrupt."""
        raise NotImplementedError

    def weights(self, model: Model) -> Path:
        """A local folder with the model's verified files, for an engine. Raises: ArtifactCorrupt."""
        raise NotImplementedError

    def use(self, session: Session, model_id: str, by: str) -> None:
        """Note, in the caller's transaction, that `by` needs this version: it cannot be deleted until `release`."""
        raise NotImplementedError

    def release(self, session: Session, by: str) -> None:
        """Forget what `by` needed."""
        raise NotImplementedError

    def reindex(self, report: Callable[[str], None]) -> int:
        """Make the rows of all models whose folders are there and whose rows are not. Returns how many."""
        raise NotImplementedError
