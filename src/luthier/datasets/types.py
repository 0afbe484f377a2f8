"""Datasets as values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple

from pydantic import Field

from luthier.values import Frozen

if TYPE_CHECKING:  # trainers read these types too, and know no accounts
    from luthier.accounts.quotas import Quotas

DatasetState = Literal["validating", "ready", "rejected"]
Severity = Literal["error", "warning"]
SchemaName = Literal[
    "chat",
    "prompt_completion",
    "alpaca",
    "sharegpt",
    "text",
    "pairs",
    "whole_pairs",
    "openai_pairs",
    "rated",
    "prompts",
    "openai_prompts",
    "labelled",
    "images",
]


class Finding(Frozen):
    """Something that is wrong with one line (or with the file: then `line` is null), and how to mend it."""

    line: int | None = Field(description="Physical line, counted from 1; in a JSON array the number of the record.")
    code: str = Field(description="Stable name of what is wrong, e.g. `json_syntax`.")
    severity: Severity = Field(description="One error rejects the file; a warning does not.")
    message: str
    fix: str = Field(description="What to do about it.")


class Bin(Frozen):
    """Rows whose length lies in `low` to `high`, both included."""

    low: int
    high: int
    rows: int


class Lengths(Frozen):
    """How long rows are; of a pair, each answer with its prompt. Percentiles are exact over the measured rows."""

    unit: Literal["tokens", "characters", "turns", "percent"]
    min: int
    mean: float
    median: int
    p95: int
    max: int
    histogram: tuple[Bin, ...] = ()


class Vocabulary(Frozen):
    """How much of a base's vocabulary stands in the measured rows."""

    size: int
    seen: int
    share: float


class Distributions(Frozen):
    """How things spread over the rows of a dataset, as numbers for charts."""

    tokens: dict[str, Lengths] = Field(
        default_factory=dict, description="Of the measured rows: `row`, `prompt`, `completion`, and each role's messages."
    )
    turns: Lengths | None = Field(default=None, description="Answers a row.")
    loss_share: Lengths | None = Field(default=None, description="How much of a row carries loss, in percent of its tokens.")
    vocabulary: Vocabulary | None = None
    rows_by_role: int = Field(default=0, description="Rows that the tokens of roles were counted on.")
    languages: dict[str, int] = Field(default_factory=dict)
    labels: dict[str, int] = Field(default_factory=dict)
    sources: dict[str, int] = Field(default_factory=dict, description="Rows by their field `source`.")
    roles: dict[str, int] = Field(default_factory=dict)


class Overlap(Frozen):
    """What a dataset shares with another that it was checked against."""

    name: str
    rows: int = Field(description="Rows that the other holds, too.")
    prompts: int = Field(description="Rows that ask what a row of the other asks, with another answer.")


class Report(Frozen):
    """What validation saw. Findings list at most 20 a code; `counts` counts them all."""

    format: Literal["jsonl", "json", "csv", "parquet", "idx", "text"] | None = Field(
        description="By content: JSON lines, one JSON array, a table, Parquet, or plain text."
    )
    containers: tuple[str, ...] = Field(default=(), description="What it was packed in, from outside in: gzip, zstd, zip, tar.")
    mapping: dict[str, str] = Field(default_factory=dict, description="Fields that were read from others, as the upload said.")
    origin: str | None = Field(default=None, description="Where it was imported from; of a hub dataset with commit and file.")
    schema_name: SchemaName | None = Field(description="What the rows are; each kind is stored in one form.")
    methods: tuple[str, ...] = Field(default=(), description="Methods that can learn from these rows.")
    item_fields: tuple[str, ...] = Field(
        default=(), description="Of prompts: fields that every row has for a grader, which reads them as `item.<field>`."
    )
    unread_fields: dict[str, int] = Field(
        default_factory=dict,
        description="Fields that say nothing here, with the rows that have them: nothing of them is learned.",
    )
    bytes: int
    read_bytes: int | None = Field(default=None, description="Of the file, while it is being checked; null once it is.")
    rows: int = Field(description="Records seen, good or bad.")
    usable_rows: int = Field(description="Records without an error.")
    tokenizer: str | None = Field(default=None, description="Base whose tokenizer counted; null when none was there.")
    tokens: int | None = Field(default=None, description="Tokens of one epoch, with the chat template.")
    loss_tokens: int | None = Field(default=None, description="How many of them the model learns to write.")
    measured_rows: int = Field(default=0, description="Rows that were tokenised; fewer than usable means scaled up.")
    lengths: Lengths | None = None
    context: int | None = Field(default=None, description="The base's context, in tokens.")
    over_context: int | None = Field(default=None, description="Rows longer than it: training would cut them.")
    duplicates: int = Field(default=0, description="Rows equal to an earlier one.")
    near_duplicates: int = Field(default=0, description="Rows that are nearly the same as an earlier one.")
    compared_rows: int = Field(default=0, description="Rows that were looked through for these; fewer than usable: each n-th.")
    conflicts: int = Field(default=0, description="Rows that ask the same as another, with another answer.")
    against: tuple[Overlap, ...] = Field(default=(), description="What it shares with datasets that it was checked against.")
    dropped_rows: int = Field(default=0, description="Bad rows that were left out, as was asked.")
    languages: dict[str, int] = Field(
        default_factory=dict, description="Measured rows by the language that they look like; `und` where that is not clear."
    )
    roles: dict[str, int] = Field(default_factory=dict, description="Messages by role.")
    labels: dict[str, int] = Field(default_factory=dict, description="Rows by their label; of rated answers `true` or `false`.")
    errors: int = 0
    warnings: int = 0
    counts: dict[str, int] = Field(default_factory=dict, description="Findings by code, all of them.")
    findings: tuple[Finding, ...] = ()


class Sample(Frozen):
    """One row as it is stored for training."""

    line: int = Field(description="Its line in the uploaded file.")
    bytes: int
    findings: tuple[Finding, ...] = Field(default=(), description="What was remarked of this line.")
    row: dict[str, Any]


class Samples(Frozen):
    """Some rows of a dataset."""

    by: Literal["random", "longest", "shortest", "flagged"]
    seed: int
    data: tuple[Sample, ...]


class Changes(Frozen):
    """What became of rows: how many, and the first lines."""

    rows: int
    lines: tuple[int, ...] = ()


class Changed(Frozen):
    """A row that asks the same in both versions, and is answered otherwise."""

    line: int
    was: int = Field(description="Its line in the other version.")


class Shift(Frozen):
    """How far a distribution moved. Below 0.1 is little, above 0.25 much."""

    distribution: str
    stability_index: float = Field(description="Population stability index.")


class Difference(Frozen):
    """From one version to another. Lines are those of the uploaded files, the first 20 of each."""

    old: str
    new: str
    same: int = Field(description="Rows that both hold.")
    added: Changes
    dropped: Changes = Field(description="Lines of the old one.")
    changed_rows: int = Field(description="Rows that ask the same and are answered otherwise.")
    changed: tuple[Changed, ...] = ()
    shifts: tuple[Shift, ...] = ()


class Arriving(Frozen):
    """How much of a file that is being fetched is here."""

    bytes: int
    total: int | None = Field(description="Null where the other side does not say.")


class Listed(NamedTuple):
    """What a list of all datasets tells of one."""

    id: str
    name: str
    version: int
    state: str
    created_at: datetime


class Dataset(Frozen):
    """One immutable version of a named dataset."""

    id: str
    tenant_id: str
    name: str = Field(description="Whatever its owner called it: show it escaped.")
    version: int = Field(description="1, 2, 3, ... within the name.")
    state: DatasetState
    bytes: int = Field(description="Size of the file as it was uploaded; 0 until it is fetched.")
    sha256: str | None = Field(description="Of the file as it was uploaded; null until it is fetched.")
    rows_sha256: str | None = Field(default=None, description="Of the canonical rows that a trainer reads; null until ready.")
    rows: int | None = Field(default=None, description="Rows to train on; null until ready.")
    tokens: int | None = None
    created_by: str
    created_at: datetime
    arriving: Arriving | None = Field(default=None, description="How far an import is; null once all bytes are here.")
    report: Report | None = Field(default=None, description="While `validating` what was found so far, if anything was read.")


class Fixed(Frozen):
    """A cleaned version, and what was left out."""

    dataset: Dataset
    source: str = Field(description="Id of the version that was cleaned.")
    dropped_rows: int
    counts: dict[str, int] = Field(description="Dropped rows by what was wrong.")
    dropped: tuple[Finding, ...] = Field(description="The first of them.")


class Errand(Frozen):
    """A file that is to be fetched. Its address may hold a key: it is kept only until the file is here, and never shown."""

    url: str
    redirects: int = 0
    bytes: int | None = None
    """As the other side says."""


@dataclass(frozen=True)
class Upload:
    """A file on its way in. `chunks` is read once, from front to end."""

    chunks: Iterable[bytes]
    name: str | None = None
    """Without one the file's name serves, without its folder and ending."""
    file_name: str | None = None
    sha256: str | None = None
    """What the sender says that the bytes hash to; checked."""
    base_model: str | None = None
    """Whose tokenizer and context the report is measured with; the shipped base by default."""
    against: tuple[str, ...] = ()
    """Ids of datasets that it should share no row with, e.g. its validation data."""
    drop_bad_rows: bool = False
    """Leave bad rows out, instead of refusing the file."""
    origin: str | None = None
    """Where it was fetched from, if it was."""
    mapping: str | None = None
    """Which field is read from which: `prompt=question,completion=answer`."""
    path: Path | None = None
    """A file that lies in the data folder already, instead of `chunks`."""
    errand: Errand | None = None
    """A file that is fetched later, instead of `chunks`."""


@dataclass(frozen=True)
class Stored:
    """A file of a dataset that is open; whoever asked for it closes it."""

    file: BinaryIO
    bytes: int
    sha256: str
    name: str
    """For whoever saves it."""


@dataclass(frozen=True)
class Room:
    """Where uploads may be put while they arrive, and how large they may be."""

    scratch: Path
    """On the file system of the data folder, so that a finished upload is moved, not copied."""
    max_upload_bytes: int
    inline_upload_bytes: int
    quotas: Quotas | None = None
    """What a team may keep altogether; None: all that there is room for."""
