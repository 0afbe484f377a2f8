"""Where a dataset that is fetched lies: on a hub of datasets, in a bucket that the team may read, anywhere on the internet, or
with the platform."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import Field

from luthier.datasets import buckets
from luthier.datasets.types import Errand
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
DIGITS = "luthier/digits"
"""Written digits that are built in, for a first classifier."""
DIGITS_FILES = ("train.csv", "test.csv")


class Import(Frozen):
    """What is to be fetched."""

    source: str = Field(
        min_length=1,
        max_length=4096,
        description="A dataset of the hub (`openai/gsm8k`), the https address of a file, or `luthier/digits`.",
    )
    file: str | None = Field(
        default=None, max_length=1024, description="Of a hub dataset or `luthier/digits`: which of its files."
    )
    revision: str | None = Field(default=None, max_length=200, description="Of a hub dataset: a commit, branch or tag.")
    name: str | None = Field(default=None, description="Versions of a name are numbered; by default the source's name serves.")
    base_model: str | None = Field(default=None, description="Base whose tokenizer measures the rows.")
    map: str | None = Field(default=None, description="Fields that are read from others: `prompt=question,completion=answer`.")
    against: tuple[str, ...] = Field(default=(), max_length=10, description="Datasets that it should share no row with.")
    drop_bad_rows: bool = Field(default=False, description="Leave bad rows out, instead of refusing the file.")


@dataclass(frozen=True)
class Found:
    """The one file that an import means."""

    errand: Errand
    file_name: str
    origin: str
    """For the report: without anything that may be a key."""


class Sources:
    """Finds the file of an import. `hub_url` is the hub that ids belong to, `prefixes` what may be read of buckets."""

    def __init__(self, fetcher: Fetcher, hub_url: str, prefixes: Sequence[str] = ()) -> None:
        self._fetcher = fetcher
        self._hub_url = hub_url.rstrip("/")
        self._prefixes = tuple(prefixes)

    def find(self, tenant_id: str, wanted: Import) -> Found:
        """Of a hub dataset this asks the hub; of all else it only looks at the address. Raises: Invalid `source`."""
        if wanted.source.startswith("https://"):
            parts = urlsplit(wanted.source)
            # What stands behind the question mark may be a key.
            origin = urlunsplit(parts._replace(query="", fragment=""))
            return Found(Errand(url=wanted.source), parts.path.rsplit("/", 1)[-1], origin)
        if wanted.source.lower().startswith(buckets.SCHEMES):
            return self._in_bucket(tenant_id, wanted.source)
        if wanted.source == DIGITS:
            name = _chosen(DIGITS_FILES, wanted.file)
            return Found(Errand(url=f"luthier://digits/{name}"), f"digits-{name}", f"{DIGITS}/{name}")
        if _HUB_ID.fullmatch(wanted.source):
            return self._on_hub(wanted)
        raise refused(
            "it is neither a dataset of the hub, nor an object of a bucket, nor an https address",
            "Give `owner/name`, s3://..., gs://... or https://...; or upload the file.",
        )

    def _in_bucket(self, tenant_id: str, source: str) -> Found:
        prefixes = buckets.of_team(self._prefixes, tenant_id)
        if not prefixes:
            raise refused("no bucket may be read here", "Your admin can allow some with LUTHIER_IMPORT_FROM; or upload the file.")
        allowed = f"Your team may read what lies below {', '.join(prefixes)}."
        trouble = buckets.trouble(source)
        if trouble is not None:
            raise refused(trouble, f"Name one object, such as {prefixes[0]}rows.jsonl. {allowed}")
        if not buckets.may_read(source, prefixes):
            raise refused("it lies outside of what your team may read", allowed)
        return Found(Errand(url=source), source.rsplit("/", 1)[-1], source)

    def _on_hub(self, wanted: Import) -> Found:
        revision = wanted.revision or "main"
        if not _REVISION.fullmatch(revision) or ".." in revision:
            raise refused("the revision is not one that can be fetched", "Give a commit, a branch or a tag.")
        commit, names = self._listed(wanted.source, revision)
        name = _chosen(names, wanted.file)
        url = f"{self._hub_url}/datasets/{wanted.source}/resolve/{commit}/{quote(name)}"
        errand = Errand(url=url, redirects=_HUB_REDIRECTS)
        return Found(errand, wanted.source.rsplit("/", 1)[-1], f"hub:{wanted.source}@{commit}/{name}")

    def _listed(self, hub_id: str, revision: str) -> tuple[str, list[str]]:
        """The commit that a revision is now, and the files in it. Raises: Invalid `source`."""
        url = f"{self._hub_url}/api/datasets/{hub_id}/revision/{quote(revision, safe='')}"
        try:
            with self._fetcher.fetch(url, max_bytes=_LISTING_BYTES, redirects=_HUB_REDIRECTS) as listing:
                answer: Any = json.loads(b"".join(listing.chunks))
            files = [str(each["rfilename"]) for each in cast("list[Any]", answer["siblings"])]
            commit = str(answer["sha"])
        except NotFetched as error:
            raise not_fetched(error) from None
        except (ValueError, KeyError, TypeError, RecursionError):
            raise refused("the hub's answer is none", "Try again later.") from None
        if not _COMMIT.fullmatch(commit):
            raise refused("the hub named no commit", "Try again later.")
        return commit, files


def _chosen(names: Sequence[str], wanted: str | None) -> str:
    """The one file to fetch. Raises: Invalid `source`."""
    if wanted is not None:
        if wanted not in names:
            raise refused("it has no such file", f"Its files: {_some(names)}.")
        return wanted
    data = [name for name in names if _DATA.fullmatch(name) and not _ASIDE.fullmatch(name)]
    train = [name for name in data if "train" in name.lower()]
    for found in (data, train):
        if len(found) == 1:
            return found[0]
    if not data:
        script = any(name.endswith(".py") for name in names)
        why = "it has a loader script, which is not run, and no files of data" if script else "it has no files of data"
        raise refused(why, "Take a dataset that has its rows as files (Parquet, JSON lines, CSV).")
    raise refused("it has several files of data", f"Name one with `file`: {_some(data)}.")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(name[:100] for name in names[:_SHOWN]) + more


def not_fetched(error: NotFetched) -> Invalid:
    """The same for whoever asked for the import."""
    return refused(str(error), "Check the address; or fetch the file yourself and upload it.")


def refused(why: str, hint: str) -> Invalid:
    """Why a source is not imported."""
    return Invalid(f"The source cannot be imported: {why}.", hint=hint, param="source", code="source")
