"""The model registry: versions, cards, stages, files."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import BinaryIO

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from luthier.accounts.deeds import by_system
from luthier.accounts.types import Actor
from luthier.bases.service import Bases
from luthier.bases.types import Base
from luthier.database import EVERY_TENANT, Database, from_ms, to_ms
from luthier.errors import DatabaseBusy, ModelNotAllowed, NotFound, StorageFull, Unavailable
from luthier.experiments.types import VersionFacts
from luthier.notifications import outbox
from luthier.registry import index_store, rules, store
from luthier.registry.bundles import Download
from luthier.registry.cards import Results, card_of, config_of, record_of, tracker_tags, with_record
from luthier.registry.catalogue import Catalogue
from luthier.registry.files import ModelFiles, root_of
from luthier.registry.finding import meant, standing
from luthier.registry.gate_rules import GateRule
from luthier.registry.gates import Gates
from luthier.registry.rows import files_of, listed, model_of, row_of, stored_of
from luthier.registry.stages import Stages
from luthier.registry.types import Finished, Listed, Model, Stage, StoredModel
from luthier.seams import Clock
from luthier.values import BaseSource, ModelFile, ModelSource, Page

_LOG = logging.getLogger("luthier.registry")
_TRIES = 5


class Registry:
    """Model versions of each tenant."""

    def __init__(  # noqa: PLR0913  # the services that it stands on, and its one rule
        self,
        database: Database,
        files: ModelFiles,
        bases: Bases,
        catalogue: Catalogue,
        now: Clock,
        *,
        gate: GateRule | None = None,
    ) -> None:
        self._database = database
        self._files = files
        self.copies = files.copies
        self._catalogue = catalogue
        self._bases = bases
        # Whole milliseconds, as the database keeps them: a model reads the same before and after it was stored.
        self._now: Clock = lambda: from_ms(to_ms(now()))
        self.gates = Gates(database, gate or GateRule())
        self._stages = Stages(database, files, self.gates, self._now)

    @by_system("models.register")
    def register(self, finished: Finished) -> Model:
        """Make the model of a finished job visible, once: a second call for the same job returns the same model.

        Raises: ArtifactCorrupt where the results hold no complete adapter.
        """
        earlier = self._of_job(finished)
        if earlier is not None:
            return earlier
        results = self._results(finished)
        # Folder before row: a folder without a row is litter that `luthier doctor` names; the row makes it a model.
        for _ in range(_TRIES):
            stored = self._described(finished, results)
            self._files.write(stored, config_of(finished.spec))
            try:
                with self._database.write(finished.tenant_id) as session:
                    session.add(row_of(stored))
            except IntegrityError:  # somebody registered it meanwhile, or took the number
                earlier = self._of_job(finished)
                if earlier is not None:
                    return earlier
                continue
            self._made_findable(stored)
            return model_of(row_of(stored))
        raise DatabaseBusy

    @by_system("models.attach")
    def attach(self, finished: Finished) -> Model:
        """Put what a run of the kind evaluate measured on the card of its model, once a job. What training measured stays.

        Raises: ArtifactCorrupt where the results hold no evaluation; NotFound, Gone for a model that is not there any more.
        """
        found = self._files.results(finished.results, "evaluation.json")
        with self._database.write(finished.tenant_id) as session:
            row = standing(store.by_id(session, finished.spec.model or ""))
            before = model_of(row).card
            card = with_record(before, record_of(finished, found, self._now()))
            if card is not before:
                row.card, row.updated_at = card.model_dump_json(), self._now()
        self._files.write(stored_of(row), {})
        return model_of(row)

    def list(
        self,
        actor: Actor,
        *,
        name: str | None = None,
        stage: Stage | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Page[Model]:
        """The tenant's models, newest first. Raises: CursorInvalid."""
        with self._database.read(actor.tenant_id) as session:
            rows, cursor = store.standing(session, name=name, stage=stage, after=after, limit=limit)
            return Page(data=[listed(row) for row in rows], next_cursor=cursor)

    def listing(self, actor: Actor) -> Iterator[Listed]:
        """All of the tenant's versions, newest first, of one moment; in little memory, however many there are."""
        with self._database.read(actor.tenant_id) as session:
            yield from store.listing(session)

    def get(self, actor: Actor, model_id: str) -> Model:
        """One version, by its id alone. Raises: NotFound, Gone."""
        with self._database.read(actor.tenant_id) as session:
            return model_of(standing(store.by_id(session, model_id)))

    def resolve(self, actor: Actor, ref: str) -> Model:
        """The version that an id, a name (its Production) or `name@3` stands for. Raises: NotFound, Gone, ModelNotReady."""
        with self._database.read(actor.tenant_id) as session:
            return model_of(meant(session, ref))

    def in_production(self, actor: Actor, name: str) -> Model | None:
        """The version of a name that is in Production."""
        with self._database.read(actor.tenant_id) as session:
            row = store.in_production(session, name)
            return None if row is None else model_of(row)

    def production_id(self, tenant_id: str, name: str) -> str | None:
        """The id of that version alone, fast enough to be asked for each prediction. Raises: DatabaseBusy."""
        return store.production_id(self._database, tenant_id, name)

    def pinned(self, actor: Actor, ref: str) -> ModelSource:
        """A version as a run takes it: where its files lie, each pinned by its content, and its base.

        Raises: NotFound, Gone, ModelNotReady, ModelNotAllowed.
        """
        with self._database.read(actor.tenant_id) as session:
            row = meant(session, ref)
        model = model_of(row)
        return ModelSource(
            id=model.id,
            name=f"{model.name}@{model.version}",
            job_id=model.job_id,
            method=model.card.lineage.method,
            base=self._base_of(model),
            url=self._files.url(root_of(row.tenant_id, row.id)),
            files=tuple(files_of(row)),
        )

    def delete(self, actor: Actor, ref: str) -> None:
        """Remove a version and its files; an engine that holds it idle lets go of it, and of no other.

        Raises: NotFound, Gone, ModelNotReady, InUse (it is in Production, a job or a deploy uses it, or it answers somebody now).
        """
        with ExitStack() as held:
            with self._database.write(actor.tenant_id) as session:
                row = meant(session, ref)
                rules.check_deletable(row.number, row.stage, store.users_of(session, row.id))
                # From here on nobody begins to answer with it.
                rules.check_idle(row.number, alone=held.enter_context(self.copies.alone(row.id)))
                row.deleted_at = row.updated_at = now = self._now()
                index_store.forget(session, row.id)
                news = {"model_id": row.id, "name": row.name, "version": str(row.number), "by": actor.user_id}
                outbox.publish(session, row.tenant_id, "model.deleted", news, at=now)
            # Row before files: what is left of them after a crash is litter, not a model.
            self._files.remove(row.tenant_id, row.id)

    def transition(self, actor: Actor, ref: str, stage: Stage) -> Model:
        """Move a version to a stage; to Production archives the one before, in one transaction.

        Raises: NotFound, Gone, ModelNotReady; to Production EvaluationNeeded (with the numbers) for what was not shown to be at
        least as good as its base and as today's Production, ApprovalNeeded where a second person must ask for it, too.
        """
        return self._stages.move(actor, ref, stage)

    def rollback(self, actor: Actor, name: str) -> Model:
        """Put back into Production the version that was there before. It passed the gate then, and needs nobody's word now.

        Raises: NotFound, WrongState where there is none.
        """
        return self._stages.back(actor, name)

    def files(self, actor: Actor, ref: str) -> list[ModelFile]:
        """Names, sizes and checksums of a model's files. Raises: NotFound, Gone, ModelNotReady."""
        with self._database.read(actor.tenant_id) as session:
            return files_of(meant(session, ref))

    def open(self, actor: Actor, ref: str, name: str) -> tuple[ModelFile, BinaryIO]:
        """One file, verified against its checksum, at its first byte. Raises: NotFound, Gone, ModelNotReady, ArtifactCorrupt."""
        with self._database.read(actor.tenant_id) as session:
            row = meant(session, ref)
        for file in files_of(row):
            if file.name == name:
                return file, self._files.opened(root_of(row.tenant_id, row.id), file)
        raise NotFound("file", hint="`GET /api/models/<id>/files` lists the files of a model.")

    def archive(self, actor: Actor, ref: str) -> Download:
        """All files as one tar, verified before its first byte. Raises: NotFound, Gone, ModelNotReady, ArtifactCorrupt."""
        with self._database.read(actor.tenant_id) as session:
            row = meant(session, ref)
        return self._files.archive(f"{root_of(row.tenant_id, row.id)}/weights", row.id, files_of(row))

    def weights(self, actor: Actor, model: Model) -> Path:
        """A local folder with the model's verified files, for an engine. Raises: NotFound, Gone, ArtifactCorrupt."""
        with self._database.read(actor.tenant_id) as session:
            row = standing(store.by_id(session, model.id))
        return self._files.local(root_of(row.tenant_id, row.id), row.id, files_of(row))

    def use(self, session: Session, actor: Actor, model_id: str, by: str) -> None:
        """Note, in the caller's transaction, that `by` needs this version: it cannot be deleted until `release`."""
        row = standing(store.by_id(session, model_id))
        if not store.is_used(session, row.id, by):
            session.add(store.ModelUseRow(tenant_id=actor.tenant_id, model_id=row.id, used_by=by))

    def release(self, session: Session, by: str) -> None:
        """Forget, in the caller's transaction, what `by` needed."""
        store.release(session, by)

    def facts(self, tenant_id: str, job_id: str) -> VersionFacts | None:
        """What a tracker is told of the version that this job made, deleted or not."""
        with self._database.read(tenant_id) as session:
            row = store.by_job(session, job_id)
        if row is None:
            return None
        model = model_of(row)
        card = model.card.model_copy(update={"embedding": None})
        return VersionFacts(
            model_id=model.id,
            name=model.name,
            number=row.number,
            stage=model.stage,
            source=self._files.url(root_of(tenant_id, model.id)),
            tags=tracker_tags(card),
            description=card.description,
            card=card.model_dump_json(indent=2),
            metrics=card.metrics,
            deleted=row.deleted_at is not None,
        )

    def reindex(self) -> int:
        """Make the rows of all models whose folders are complete and whose rows are gone. Returns how many.

        Safe to repeat. What was deleted stays deleted; of two that claim to be in Production the newer one is.
        """
        with self._database.write(EVERY_TENANT) as session:
            known = store.everything(session)
            taken = {row.id for row in known} | {(row.tenant_id, row.name, row.number) for row in known}
            served = {(row.tenant_id, row.name) for row in known if row.stage == Stage.PRODUCTION}
            made = 0
            for stored in sorted(self._files.found(), key=lambda found: found.updated_at, reverse=True):
                row = row_of(stored)
                line = (row.tenant_id, row.name)
                if row.id in taken or (*line, row.number) in taken:
                    continue
                if row.stage == Stage.PRODUCTION:
                    row.stage = Stage.ARCHIVED if line in served else Stage.PRODUCTION
                    served.add(line)
                taken |= {row.id, (*line, row.number)}
                session.add(row)
                made += 1
        return made

    def _made_findable(self, stored: StoredModel) -> None:
        """A model that cannot be found by its words now is a model all the same: the next search sees to it."""
        try:
            self._catalogue.catch_up(stored.tenant_id)
        except (DatabaseBusy, StorageFull) as error:
            _LOG.warning("%s is not in the catalogue yet: %s", stored.id, error)

    def _described(self, finished: Finished, results: Results) -> StoredModel:
        """The model as it is about to be registered, under the next number of its name."""
        with self._database.read(finished.tenant_id) as session:
            number = store.newest_number(session, rules.name_of(finished.spec, finished.job_id)) + 1
        card = card_of(finished, results, number, self._now())
        return StoredModel(
            id=card.id,
            tenant_id=finished.tenant_id,
            created_by=finished.created_by,
            stage=Stage.NONE,
            files=results.files,
            card=card,
            created_at=card.created_at,
            updated_at=card.created_at,
        )

    def _results(self, finished: Finished) -> Results:
        """The job's results; its adapter is copied into the model's folder by this."""
        root = root_of(finished.tenant_id, rules.model_id_of(finished.job_id))
        read = partial(self._files.results, finished.results)
        base = self._base(finished)
        return Results(
            files=self._files.take(f"{finished.results}/final_model", root, finished.spec.method),
            metrics=read("metrics.json"),
            checks=read("checks.json"),
            evaluation=read("evaluation.json"),
            languages=base.languages if base else (),
            base_commit=self._bases.commit(base) if base else None,
        )

    def _base_of(self, model: Model) -> BaseSource:
        """At the revision that it was trained on. Raises: ModelNotAllowed for a base that was taken off the list."""
        if model.card.lineage.method == "classifier":
            return BaseSource(id=model.base_model, revision=model.base_revision, url=f"classifier:{model.base_model}")
        pinned = {"revision": model.base_revision, "rendering_sha256": model.card.lineage.rendering_sha256}
        return self._bases.fetchable(model.base_model).model_copy(update=pinned)

    def _of_job(self, finished: Finished) -> Model | None:
        with self._database.read(finished.tenant_id) as session:
            row = store.by_job(session, finished.job_id)
            return None if row is None else model_of(row)

    def _base(self, finished: Finished) -> Base | None:
        try:
            return self._bases.get(finished.spec.base_model)
        except (ModelNotAllowed, Unavailable):  # taken off the list while the job ran
            return None
