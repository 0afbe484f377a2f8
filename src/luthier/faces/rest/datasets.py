"""Datasets: upload, look, take back, remove."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Header, Query, Request, Response
from pydantic import BeforeValidator

from luthier.datasets.previewing import MOST_ROWS, Preview, Wish
from luthier.datasets.sources import Import
from luthier.datasets.types import Dataset, Difference, Distributions, Fixed, Samples, Upload
from luthier.errors import (
    BadRequest,
    BaseUnavailable,
    CursorInvalid,
    DatasetNotReady,
    DatasetRejected,
    FieldInvalid,
    Gone,
    IdempotencyKeyInvalid,
    InUse,
    Invalid,
    KeyInFlight,
    KeyReused,
    ModelNotAllowed,
    NotFound,
    RangeInvalid,
    StorageFull,
    TooLarge,
    TooMany,
    UnsupportedType,
)
from luthier.faces.rest.body import Json, shown_as
from luthier.faces.rest.errors import problems
from luthier.faces.rest.forms import ids_in
from luthier.faces.rest.repeats import Taken, import_once
from luthier.faces.rest.streaming import file_answer
from luthier.faces.rest.wire import (
    After,
    CurrentActor,
    CurrentPlatform,
    DatasetId,
    IdempotencyKey,
    Limit,
    OtherDatasetId,
    plain_number,
    router,
)
from luthier.values import Page

routes = router("/api/datasets", "datasets")

_ROW = '{"messages": [{"role": "user", "content": "It crashes."}, {"role": "assistant", "content": "bug"}]}\n'
_BYTES = {"schema": {"type": "string", "format": "binary"}}
_FIELDS = {name: {"type": "string"} for name in ("name", "sha256", "base_model", "against", "drop_bad_rows", "map")}
_FORM = {"schema": {"type": "object", "required": ["file"], "properties": {**_FIELDS, "file": _BYTES["schema"]}}}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "Rows as JSON lines, JSON, CSV, Parquet or text, packed or not: the body, or the last part of a form.",
        "content": {
            "application/octet-stream": {**_BYTES, "example": _ROW},
            "multipart/form-data": {**_FORM, "example": {"name": "support", "file": _ROW}},
        },
    }
}
REFUSALS = problems(
    *(BadRequest, DatasetRejected, FieldInvalid, ModelNotAllowed, StorageFull, TooLarge, UnsupportedType),
    *(Gone, IdempotencyKeyInvalid, KeyInFlight, KeyReused),
)
Name = Annotated[str | None, Query(description="Versions of a name are numbered; without one the file's name serves.")]
Sha256 = Annotated[str | None, Query(description="What the bytes hash to; checked.")]
BaseModel = Annotated[str | None, Query(description="Base whose tokenizer measures the rows.")]
FileName = Annotated[str | None, Header(description="The name of a file that is sent as the body itself.")]
ListedName = Annotated[str | None, Query(description="Only the versions of this name.")]
Against = Annotated[str | None, Query(description="Ids of datasets that it should share no row with, with commas between.")]
DropBadRows = Annotated[bool, Query(description="Leave bad rows out, instead of refusing the file.")]
Mapped = Annotated[
    str | None, Query(alias="map", description="Fields that are read from others: `prompt=question,completion=answer`.")
]
SampleSize = Annotated[int, BeforeValidator(plain_number), Query(ge=1, le=100, description="Most rows of the answer.")]
Seed = Annotated[int, BeforeValidator(plain_number), Query(ge=0, le=2**32 - 1, description="The same seed, the same rows.")]
PreviewBase = Annotated[
    str | None, Query(description="Base model whose template and tokenizer render; the shipped one by default.")
]
PreviewMethod = Annotated[
    Literal["sft", "dpo", "orpo", "kto", "grpo"] | None, Query(description="By default the first that learns from these rows.")
]
PreviewLine = Annotated[int | None, BeforeValidator(plain_number), Query(ge=1, description="From this line of the file on.")]
PreviewRows = Annotated[int, BeforeValidator(plain_number), Query(ge=1, le=MOST_ROWS, description="Most rows of the answer.")]
PreviewLength = Annotated[
    int | None, BeforeValidator(plain_number), Query(ge=1, description="`train.max_seq_len`; the base's context by default.")
]
PreviewBatch = Annotated[
    int | None,
    BeforeValidator(plain_number),
    Query(ge=1, le=4096, description="`train.batch_size`; what `auto` takes by default."),
]
Packing = Annotated[bool, Query(description="`train.packing`.")]
Form = Annotated[
    Literal["original", "jsonl"], Query(alias="format", description="The bytes that were uploaded, or the rows as they are kept.")
]
Chosen = Annotated[Literal["random", "longest", "shortest", "flagged"], Query(description="Which rows.")]


@routes.post("", status_code=201, openapi_extra=BODY, responses=REFUSALS)
async def upload(
    request: Request,
    response: Response,
    actor: CurrentActor,
    key: IdempotencyKey,
    *,
    name: Name = None,
    sha256: Sha256 = None,
    base_model: BaseModel = None,
    against: Against = None,
    drop_bad_rows: DropBadRows = False,
    mapping: Mapped = None,
    x_filename: FileName = None,
) -> Dataset:
    """Upload a file; the answer holds the report. A large file answers `validating`: ask again until it is `ready`."""
    query = Upload((), name, x_filename, sha256, base_model, ids_in(against), drop_bad_rows=drop_bad_rows, mapping=mapping)
    return _answered(response, await request.app.state.receiver.take(request, actor, query, key))


def _answered(response: Response, taken: Taken) -> Dataset:
    response.headers["location"] = f"/api/datasets/{taken.dataset.id}"
    if taken.replayed:
        response.headers["idempotent-replayed"] = "true"
    return taken.dataset


_IMPORT = {
    "hub": {
        "summary": "A file of a hub dataset",
        "value": {
            "source": "openai/gsm8k",
            "file": "main/train-00000-of-00001.parquet",
            "map": "prompt=question,completion=answer",
        },
    },
}
Wanted = Annotated[Json[Import], shown_as(_IMPORT)]


@routes.post(
    "/import",
    status_code=201,
    responses=problems(
        *(DatasetRejected, FieldInvalid, Invalid, ModelNotAllowed, NotFound, Gone, StorageFull, TooLarge),
        *(IdempotencyKeyInvalid, KeyInFlight, KeyReused, TooMany),
    ),
)
def import_dataset(
    wanted: Wanted, response: Response, actor: CurrentActor, platform: CurrentPlatform, key: IdempotencyKey
) -> Dataset:
    """Fetch a dataset from the hub, a bucket or an https address, and keep it as if it had been uploaded.

    A large one answers `validating`, with `arriving`: ask again until it is `ready`, or `rejected` with the reason.
    """
    return _answered(response, import_once(platform, actor, key, wanted))


@routes.get("", responses=problems(CursorInvalid, FieldInvalid))
def list_datasets(
    actor: CurrentActor, platform: CurrentPlatform, limit: Limit = 50, after: After = None, name: ListedName = None
) -> Page[Dataset]:
    """All datasets of the caller's team, newest first."""
    return platform.datasets.list(actor, after=after, limit=limit, name=name)


@routes.get("/{dataset_id}", responses=problems(NotFound, Gone))
def show(dataset_id: DatasetId, actor: CurrentActor, platform: CurrentPlatform) -> Dataset:
    """One dataset, with its report."""
    return platform.datasets.get(actor, dataset_id)


@routes.delete("/{dataset_id}", status_code=204, responses=problems(NotFound, Gone, InUse))
def delete(dataset_id: DatasetId, actor: CurrentActor, platform: CurrentPlatform) -> None:
    """Remove one version. Refused while a run needs it."""
    platform.datasets.delete(actor, dataset_id)


@routes.get("/{dataset_id}/samples", responses=problems(NotFound, Gone, DatasetNotReady))
def samples(
    dataset_id: DatasetId,
    actor: CurrentActor,
    platform: CurrentPlatform,
    *,
    by: Chosen = "random",
    n: SampleSize = 5,
    seed: Seed = 0,
) -> Samples:
    """Some rows as they are stored for training: by chance, the longest, the shortest, or those that were remarked."""
    return platform.datasets.samples(actor, dataset_id, by, n, seed)


@routes.get(
    "/{dataset_id}/preview",
    responses=problems(NotFound, Gone, DatasetNotReady, ModelNotAllowed, FieldInvalid, Invalid, BaseUnavailable),
)
def preview(
    dataset_id: DatasetId,
    actor: CurrentActor,
    platform: CurrentPlatform,
    *,
    base_model: PreviewBase = None,
    method: PreviewMethod = None,
    line: PreviewLine = None,
    rows: PreviewRows = 3,
    max_seq_len: PreviewLength = None,
    batch_size: PreviewBatch = None,
    packing: Packing = True,
) -> Preview:
    """What will be learned: rows as tokens of a base, which of them carry loss, what is cut, and what is packed together."""
    wish = Wish(method, base_model, max_seq_len, line, rows, batch_size, packing)
    return platform.datasets.preview(actor, dataset_id, wish)


@routes.get("/{dataset_id}/distributions", responses=problems(NotFound, Gone, DatasetNotReady))
def distributions(dataset_id: DatasetId, actor: CurrentActor, platform: CurrentPlatform) -> Distributions:
    """How tokens, turns, languages, labels, sources and loss spread over the rows: histograms for charts."""
    return platform.datasets.distributions(actor, dataset_id)


@routes.get("/{dataset_id}/diff/{other_id}", responses=problems(NotFound, Gone, DatasetNotReady))
def diff(dataset_id: DatasetId, other_id: OtherDatasetId, actor: CurrentActor, platform: CurrentPlatform) -> Difference:
    """What became of the rows of this version in another: added, dropped, changed, and how far distributions moved."""
    return platform.datasets.difference(actor, dataset_id, other_id)


@routes.post(
    "/{dataset_id}/fix", status_code=201, responses=problems(NotFound, Gone, DatasetNotReady, DatasetRejected, StorageFull)
)
def fix(dataset_id: DatasetId, response: Response, actor: CurrentActor, platform: CurrentPlatform) -> Fixed:
    """Make the next version from the good rows of this one; one that was refused can be fixed for a day."""
    fixed = platform.datasets.fix(actor, dataset_id)
    response.headers["location"] = f"/api/datasets/{fixed.dataset.id}"
    return fixed


@routes.get("/{dataset_id}/download", response_class=Response, responses=problems(NotFound, Gone, DatasetNotReady, RangeInvalid))
def download(
    dataset_id: DatasetId, actor: CurrentActor, platform: CurrentPlatform, request: Request, form: Form = "original"
) -> Response:
    """The file as it was uploaded, or what was understood of it: a row a line, as trainers read it. Whole, or one range."""
    stored = platform.datasets.stored(actor, dataset_id, form)
    return file_answer(request, stored.file, size=stored.bytes, name=stored.name, tag=stored.sha256)
