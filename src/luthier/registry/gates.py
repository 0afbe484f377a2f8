"""Which gate a team has: the platform's settings, but for what its admins decided otherwise."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from sqlalchemy.orm import Session

from luthier.accounts.types import Actor
from luthier.database import Database
from luthier.registry.gate_rules import GateRule
from luthier.registry.gate_store import GateRow
from luthier.values import Frozen

Metric = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Margin = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]


class GateWish(Frozen):
    """What a team wants otherwise than the platform; what is left out, or null, is the platform's."""

    metric: Metric | None = Field(default=None, description="`loss`, `exact_match`, `f1`, `accuracy`, ...", examples=["f1"])
    margin: Margin | None = Field(
        default=None, description="By how much a version must be better; below 0: by how much it may be worse.", examples=[0.01]
    )
    second_person: bool | None = Field(default=None, description="Whether Production needs two people's word.")


class GateSettings(Frozen):
    """The gate of a team as it is in force."""

    metric: str
    margin: float
    second_person: bool
    own: tuple[str, ...] = Field(description="What of this the team decided; the rest is the platform's.")


class Gates:
    """The gate of each team. `platform` is that of a team that decided nothing."""

    def __init__(self, database: Database, platform: GateRule) -> None:
        self._database = database
        self.platform = platform

    def of(self, actor: Actor) -> GateSettings:
        """The gate of the caller's team, and who decided it."""
        with self._database.read(actor.tenant_id) as session:
            return self._settings(session, actor.tenant_id)

    def rule_of(self, actor: Actor) -> GateRule:
        """What a version must show in the caller's team."""
        with self._database.read(actor.tenant_id) as session:
            return self.rule(session, actor.tenant_id)

    def rule(self, session: Session, tenant_id: str) -> GateRule:
        """The same inside a transaction, so that a version is let in by the gate of that moment."""
        found = self._settings(session, tenant_id)
        return GateRule(found.metric, found.margin, found.second_person, own=bool(found.own))

    def set(self, actor: Actor, wish: GateWish) -> GateSettings:
        """Replace all that the team decided. In force at once, also for versions that wait for a second person."""
        with self._database.write(actor.tenant_id) as session:
            row = session.get(GateRow, actor.tenant_id)
            if wish == GateWish():
                if row is not None:
                    session.delete(row)
            else:
                session.merge(GateRow(tenant_id=actor.tenant_id, **wish.model_dump()))
            session.flush()
            return self._settings(session, actor.tenant_id)

    def _settings(self, session: Session, tenant_id: str) -> GateSettings:
        row = session.get(GateRow, tenant_id)
        wish = GateWish() if row is None else GateWish(metric=row.metric, margin=row.margin, second_person=row.second_person)
        own = wish.model_dump(exclude_none=True)
        usual = {name: getattr(self.platform, name) for name in GateWish.model_fields}
        return GateSettings(**{**usual, **own}, own=tuple(own))
