"""Between the row of a model, the value that faces show, and the metadata that lies in its folder."""

from __future__ import annotations

from pydantic import TypeAdapter

from luthier.registry import store
from luthier.registry.types import Model, ModelCard, Stage, StoredModel
from luthier.values import ModelFile

_FILES = TypeAdapter(list[ModelFile])


def files_of(row: store.ModelRow) -> list[ModelFile]:
    """The model's files as they were registered."""
    return _FILES.validate_json(row.files)


def model_of(row: store.ModelRow) -> Model:
    """What faces show."""
    return Model(
        id=row.id,
        name=row.name,
        version=str(row.number),
        stage=Stage(row.stage),
        base_model=row.base_model,
        base_revision=row.base_revision,
        job_id=row.job_id,
        dataset=row.dataset,
        bytes=sum(file.bytes for file in files_of(row)),
        card=ModelCard.model_validate_json(row.card),
        created_by=row.created_by,
        created_at=row.created_at,
        updated_at=row.updated_at,
        promoted_at=row.promoted_at,
        asked_by=row.asked_by,
    )


def listed(row: store.ModelRow) -> Model:
    """What faces show of one among many: without its vector, which is longer than all the rest."""
    model = model_of(row)
    return model.model_copy(update={"card": model.card.model_copy(update={"embedding": None})})


def stored_of(row: store.ModelRow) -> StoredModel:
    """What `metadata.json` says."""
    return StoredModel(
        id=row.id,
        tenant_id=row.tenant_id,
        created_by=row.created_by,
        stage=Stage(row.stage),
        files=tuple(files_of(row)),
        card=ModelCard.model_validate_json(row.card),
        created_at=row.created_at,
        updated_at=row.updated_at,
        promoted_at=row.promoted_at,
    )


def row_of(stored: StoredModel) -> store.ModelRow:
    """The row that `metadata.json` stands for."""
    card = stored.card
    return store.ModelRow(
        id=stored.id,
        tenant_id=stored.tenant_id,
        name=card.name,
        number=int(card.version),
        stage=stored.stage,
        job_id=card.lineage.job_id,
        base_model=card.base_model,
        base_revision=card.lineage.base_revision,
        dataset=card.lineage.dataset,
        files=_FILES.dump_json(list(stored.files)).decode(),
        card=card.model_dump_json(),
        created_by=stored.created_by,
        created_at=stored.created_at,
        updated_at=stored.updated_at,
        promoted_at=stored.promoted_at,
    )
