"""The table of what models are found by, and the only SQL on it. All of it is made from cards, and can be made again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import ForeignKey, LargeBinary, Text, delete, func, or_, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from luthier.database import Row, TenantOwned, page
from luthier.registry.store import ModelRow


class ModelIndexRow(TenantOwned, Row):
    """What one model is found by. A row is never changed but replaced under a higher id: `stamp` tells readers of it."""

    __tablename__ = "model_index"
    __table_args__ = ({"sqlite_autoincrement": True},)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), unique=True)
    facets: Mapped[str] = mapped_column(Text)
    words: Mapped[str] = mapped_column(Text)
    embedder: Mapped[str | None]
    embedding: Mapped[bytes | None] = mapped_column(LargeBinary)


def unlisted(session: Session, tenant_id: str) -> list[ModelRow]:
    """Models that cannot be found yet."""
    known = select(ModelIndexRow.model_id).where(ModelIndexRow.tenant_id == tenant_id)
    query = select(ModelRow).where(ModelRow.tenant_id == tenant_id, ModelRow.deleted_at.is_(None))
    return list(session.scalars(query.where(ModelRow.id.not_in(known)).order_by(ModelRow.id)))


def unembedded(session: Session, embedder: str, limit: int) -> list[ModelRow]:
    """Models that have no vector by this embedder, newest first."""
    query = select(ModelRow).join(ModelIndexRow, ModelIndexRow.model_id == ModelRow.id)
    return list(session.scalars(query.where(_lacks(embedder)).order_by(ModelRow.id.desc()).limit(limit)))


def waiting(session: Session, embedder: str) -> int:
    return session.scalar(select(func.count()).select_from(ModelIndexRow).where(_lacks(embedder))) or 0


def _lacks(embedder: str):
    return or_(ModelIndexRow.embedder.is_(None), ModelIndexRow.embedder != embedder)


def standing(session: Session, tenant_id: str, model_id: str) -> ModelRow | None:
    """The model, unless it was deleted."""
    return session.scalar(
        select(ModelRow).where(ModelRow.id == model_id, ModelRow.tenant_id == tenant_id, ModelRow.deleted_at.is_(None))
    )


def forget(session: Session, model_id: str) -> None:
    session.execute(delete(ModelIndexRow).where(ModelIndexRow.model_id == model_id))


def replace(session: Session, row: ModelIndexRow) -> None:
    forget(session, row.model_id)
    session.add(row)


def stamp(session: Session) -> tuple[int, int]:
    """Changes whenever anything of the tenant's index does."""
    count, newest = session.execute(select(func.count(), func.max(ModelIndexRow.id)).select_from(ModelIndexRow)).one()
    return count, newest or 0


def state(session: Session) -> tuple[int, int, int]:
    """Changes whenever a model or its entry comes or goes. Read from indexes alone: no card and no vector is touched."""
    return session.scalar(select(func.count()).select_from(ModelRow)) or 0, *stamp(session)


def all_words(session: Session) -> list[tuple[str, str]]:
    """Of every model its id and its words, oldest first."""
    query = select(ModelIndexRow.model_id, ModelIndexRow.words).order_by(ModelIndexRow.model_id)
    return [(model_id, words) for model_id, words in session.execute(query)]


def all_vectors(session: Session, embedder: str) -> list[tuple[str, bytes]]:
    """Of every model its id and its vector by this embedder, oldest first."""
    query = select(ModelIndexRow.model_id, ModelIndexRow.embedding).where(ModelIndexRow.embedder == embedder)
    return [(model_id, vector) for model_id, vector in session.execute(query.order_by(ModelIndexRow.model_id)) if vector]


def first_standing(session: Session, model_ids: Iterable[str], limit: int) -> list[ModelRow]:
    """The first of these models that were not deleted. One by one: asked for several ids of a team, the database reads all
    of the team's models, as it thinks that they are few."""
    found: list[ModelRow] = []
    for model_id in model_ids:
        row = session.scalar(select(ModelRow).where(ModelRow.id == model_id, ModelRow.deleted_at.is_(None)))
        if row is not None:
            found.append(row)
        if len(found) == limit:
            break
    return found


def search(
    session: Session, facets: Sequence[str], words: Sequence[str], *, after: str | None, limit: int
) -> tuple[list[ModelRow], str | None]:
    """Models whose cards have all these facets, and words that begin like these."""
    query = select(ModelRow).join(ModelIndexRow, ModelIndexRow.model_id == ModelRow.id).where(ModelRow.deleted_at.is_(None))
    for facet in facets:
        query = query.where(ModelIndexRow.facets.contains(f"\n{facet}", autoescape=True))
    for word in words:
        query = query.where(ModelIndexRow.words.contains(f" {word}", autoescape=True))
    return page(session, query, ModelRow, after=after, limit=limit)
