"""Versions move between stages. Each change is one transaction, and the index allows one Production a name at every moment."""

from __future__ import annotations

from sqlalchemy.orm import Session

from luthier.accounts.types import Actor
from luthier.database import Database
from luthier.errors import ApprovalNeeded, NotFound, WrongState
from luthier.notifications import outbox
from luthier.registry import store
from luthier.registry.files import ModelFiles
from luthier.registry.finding import meant
from luthier.registry.gate_rules import check_gate
from luthier.registry.gates import Gates
from luthier.registry.rows import model_of, stored_of
from luthier.registry.types import Model, Stage, StoredModel
from luthier.seams import Clock


class Stages:
    """Used by the registry, which says what each verb promises."""

    def __init__(self, database: Database, files: ModelFiles, gates: Gates, now: Clock) -> None:
        self._database = database
        self._files = files
        self._gates = gates
        self._now = now

    def move(self, actor: Actor, ref: str, stage: Stage) -> Model:
        changed: list[StoredModel] = []
        with self._database.write(actor.tenant_id) as session:
            row = meant(session, ref)
            if stage == Stage.PRODUCTION and row.stage != Stage.PRODUCTION:
                waits = not self._let_in(session, actor, row)
                if not waits:
                    row.promoted_at = self._now()
                    changed += self._promoted(session, actor, row)
            else:
                waits = False
                row.asked_by = row.asked_at = None  # moving it anywhere else takes a wish back
                if row.stage != stage:
                    changed.append(self._moved(session, actor, row, stage))
        self._write(changed)
        if waits:  # raised here: the wish itself is to be kept
            raise ApprovalNeeded(
                f"Noted that you want {row.name}@{row.number} in Production. Somebody else must promote it, too.",
                hint=f"Another member of your team does the same: `model promote {row.name}@{row.number}` (see `model gate`).",
                details={"model_id": row.id, "asked_by": row.asked_by},
            )
        return model_of(row)

    def back(self, actor: Actor, name: str) -> Model:
        with self._database.write(actor.tenant_id) as session:
            present = store.in_production(session, name)
            if present is None and store.newest_number(session, name) == 0:
                raise NotFound("model")
            row = store.promoted_before(session, name, present.promoted_at if present is not None else None)
            if row is None:
                raise WrongState(
                    f"No version of {name} was in Production before.",
                    hint=f"See all of them with `GET /api/models?name={name}`, and promote one.",
                )
            changed = self._promoted(session, actor, row)
        self._write(changed)
        return model_of(row)

    def _let_in(self, session: Session, actor: Actor, row: store.ModelRow) -> bool:
        """Whether it may go to Production now; False where a second person must ask for it. Raises: EvaluationNeeded."""
        present, rule = store.in_production(session, row.name), self._gates.rule(session, row.tenant_id)
        check_gate(model_of(row).card, None if present is None else model_of(present).card, rule)
        if not rule.second_person or row.asked_by not in {None, actor.user_id}:
            return True
        if row.asked_by is None:
            now = self._now()
            row.asked_by, row.asked_at = actor.user_id, now
            outbox.publish(session, row.tenant_id, "promotion.asked", {**_news(row), "by": actor.user_id}, at=now)
        return False

    def _promoted(self, session: Session, actor: Actor, row: store.ModelRow) -> list[StoredModel]:
        """Archive what is in Production, and put this one there."""
        before = store.in_production(session, row.name)
        changed = [] if before is None else [self._moved(session, actor, before, Stage.ARCHIVED)]
        row.asked_by = row.asked_at = None
        return [*changed, self._moved(session, actor, row, Stage.PRODUCTION)]

    def _moved(self, session: Session, actor: Actor, row: store.ModelRow, stage: Stage) -> StoredModel:
        """The version in its new stage, and the news of it, both in the caller's transaction."""
        news = {**_news(row), "from_stage": row.stage, "stage": stage.value}
        row.stage, row.updated_at = stage, self._now()
        session.flush()  # the index allows one Production a name, at every moment
        outbox.publish(session, row.tenant_id, "model.stage_changed", {**news, "by": actor.user_id}, at=row.updated_at)
        return stored_of(row)

    def _write(self, changed: list[StoredModel]) -> None:
        for stored in changed:
            self._files.write(stored, {})


def _news(row: store.ModelRow) -> dict[str, str]:
    return {"model_id": row.id, "name": row.name, "version": str(row.number)}
