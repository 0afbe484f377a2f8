"""Datasets that are fetched instead of sent: from a hub of datasets, or from an address on the internet.

Bytes are passed on as they come, into the same path as an upload's; nothing here reads them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import Field

from luthier.accounts.types import Actor
from luthier.datasets.service import Datasets
from luthier.datasets.types import Dataset, Upload
from luthier.errors import Invalid
from luthier.seams import Fetcher, NotFetched
from luthier.values import Frozen

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REVISION = re.compile(r"[\w][\w./-]{0,200}", re.ASCII)
_DATA = re.compile(r".*\.(parquet|jsonl|json|ndjson|csv|tsv|txt)(\.(gz|zst))?|.*\.(zip|tar|tar\.gz|tgz)", re.IGNORECASE)
_ASIDE = re.compile(r"(dataset_infos?|\.?config|state|README.*|.*/\..*|\..*)(\.json)?", re.IGNORECASE)
_LISTING_BYTES = 16 * 1024 * 1024
_HUB_REDIRECTS = 3
"""The hub answers for large files with the place where they lie."""
_SHOWN = 10


class Import(Frozen):
    """What is to be fetched."""

    source: str = Field(
        min_length=1, max_length=4096, description="A dataset of the hub (`openai/gsm8k`), or the https address of a file."
    )
    file: str | None = Field(default=None, max_length=1024, description="Of a hub dataset: which of its files.")
    revision: str | None = Field(default=None, max_length=200, description="Of a hub dataset: a commit, branch or tag.")
    name: str | None = Field(default=None, description="Versions of a name are numbered; by default the source's name serves.")
    base_model: str | None = Field(default=None, description="Base whose tokenizer measures the rows.")
    map: str | None = Field(default=None, description="Fields that are read from others: `prompt=question,completion=answer`.")
    against: tuple[str, ...] = Field(default=(), max_length=10, description="Datasets that it should share no row with.")
    drop_bad_rows: bool = Field(default=False, description="Leave bad rows out, instead of refusing the file.")


@dataclass(frozen=True)
class _Found:
    chunks: Iterator[bytes]
    file_name: str
    origin: str


class Imports:
    """Fetches datasets. `hub_url` is the hub that ids belong to."""

    def __init__(self, datasets: Datasets, fetcher: Fetcher, hub_url: str, max_bytes: int) -> None:
        self._datasets = datasets
        self._fetcher = fetcher
        self._hub_url = hub_url.rstrip("/")
        self._max_bytes = max_bytes

    def take(self, actor: Actor, wanted: Import) -> Dataset:
        """Fetch a file and keep it as the next version of its name. Nothing is left of one that is refused.

        Raises: Invalid `source` for what cannot or may not be fetched, and what `Datasets.upload` raises.
        """
        found = self._found(wanted)
        upload = Upload(
            chunks=_told(found.chunks),
            name=wanted.name,
            file_name=found.file_name,
            base_model=wanted.base_model,
            against=wanted.against,
            drop_bad_rows=wanted.drop_bad_rows,
            mapping=wanted.map,
            origin=found.origin,
        )
        return self._datasets.upload(actor, upload)

    def _found(self, wanted: Import) -> _Found:
        if wanted.source.startswith("https://"):
            parts = urlsplit(wanted.source)
            chunks = self._fetcher.fetch(wanted.source, max_bytes=self._max_bytes)
            # What stands behind the question mark may be a key.
            return _Found(chunks, parts.path.rsplit("/", 1)[-1], urlunsplit(parts._replace(query="", fragment="")))
        if _HUB_ID.fullmatch(wanted.source):
            return self._on_hub(wanted)
        raise _refused(
            "it is neither a dataset of the hub nor an https address", "Give `owner/name`, or https://...; or upload the file."
        )

    def _on_hub(self, wanted: Import) -> _Found:
        revision = wanted.revision or "main"
        if not _REVISION.fullmatch(revision) or ".." in revision:
            raise _refused("the revision is not one that can be fetched", "Give a commit, a branch or a tag.")
        commit, names = self._listed(wanted.source, revision)
        name = _chosen(names, wanted.file)
        url = f"{self._hub_url}/datasets/{wanted.source}/resolve/{commit}/{quote(name)}"
        chunks = self._fetcher.fetch(url, max_bytes=self._max_bytes, redirects=_HUB_REDIRECTS)
        return _Found(chunks, wanted.source.rsplit("/", 1)[-1], f"hub:{wanted.source}@{commit}/{name}")

    def _listed(self, hub_id: str, revision: str) -> tuple[str, list[str]]:
        """The commit that a revision is now, and the files in it. Raises: Invalid `source`."""
        url = f"{self._hub_url}/api/datasets/{hub_id}/revision/{quote(revision, safe='')}"
        try:
            answer: Any = json.loads(
                b"".join(_told(self._fetcher.fetch(url, max_bytes=_LISTING_BYTES, redirects=_HUB_REDIRECTS)))
            )
            files = [str(each["rfilename"]) for each in cast("list[Any]", answer["siblings"])]
            commit = str(answer["sha"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise _refused("the hub's answer is none", "Try again later.") from None
        if not _COMMIT.fullmatch(commit):
            raise _refused("the hub named no commit", "Try again later.")
        return commit, files


def _chosen(names: Sequence[str], wanted: str | None) -> str:
    """The one file to fetch. Raises: Invalid `source`."""
    if wanted is not None:
        if wanted not in names:
            raise _refused("it has no such file", f"Its files: {_some(names)}.")
        return wanted
    data = [name for name in names if _DATA.fullmatch(name) and not _ASIDE.fullmatch(name)]
    train = [name for name in data if "train" in name.lower()]
    for found in (data, train):
        if len(found) == 1:
            return found[0]
    if not data:
        script = any(name.endswith(".py") for name in names)
        why = "it has a loader script, which is not run, and no files of data" if script else "it has no files of data"
        raise _refused(why, "Take a dataset that has its rows as files (Parquet, JSON lines, CSV).")
    raise _refused("it has several files of data", f"Name one with `file`: {_some(data)}.")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(name[:100] for name in names[:_SHOWN]) + more


def _told(chunks: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from chunks
    except NotFetched as error:
        raise _refused(str(error), "Check the address; or fetch the file yourself and upload it.") from None


def _refused(why: str, hint: str) -> Invalid:
    return Invalid(f"The source cannot be imported: {why}.", hint=hint, param="source", code="source")
