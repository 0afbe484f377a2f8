"""Where the files of a dataset lie, below the folder of its id."""

from __future__ import annotations

from pathlib import Path

from luthier.datasets.sandbox import Task

RAW = "/raw/upload"
WISHES = "/raw/wishes.json"
ROWS = "/processed/rows.jsonl"
INDEX = "/processed/index"
HASHES = "/processed/hashes"
DROPPED = "/processed/dropped.jsonl"
DISTRIBUTIONS = "/processed/distributions.json"
METADATA = "/metadata.json"


def folder_of(tenant_id: str, dataset_id: str) -> str:
    """The folder of one version."""
    return f"users/{tenant_id}/data/{dataset_id}"


def kept_of(task: Task) -> dict[str, Path]:
    """What a check wrote, by its place."""
    kept = {ROWS: task.rows, INDEX: task.side / "index", HASHES: task.side / "hashes"}
    kept[DISTRIBUTIONS] = task.side / "distributions"
    return {**kept, DROPPED: task.side / "dropped"} if task.drop else kept
