"""Which objects of buckets a team may read: the admin's prefixes decide, and no spelling of a key leads out of one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from luthier.errors import SetupError

SCHEMES = ("s3://", "gs://")
TENANT = "{tenant_id}"
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,220}[A-Za-z0-9]", re.ASCII)
_MOST_KEY_BYTES = 1024
"""What S3 and Google allow."""
_NEVER = frozenset("\\%?#*")
"""What one client sends as it stands and the next one reads as something else. None of it is needed to name a file."""


def prefixes_of(text: str) -> tuple[str, ...]:
    """The admin's list, as `LUTHIER_IMPORT_FROM` gives it. Raises: SetupError.

    >>> prefixes_of("s3://team-data/{tenant_id}/, gs://shared/")
    ('s3://team-data/{tenant_id}/', 'gs://shared/')
    """
    found = tuple(each for part in text.split(",") if (each := part.strip()))
    for each in found:
        # Without a slash at its end `s3://data/ann` would open `s3://data/anna/`.
        filled = each.replace(TENANT, "team_x")
        if not each.endswith("/") or {"{", "}"} & set(filled) or trouble(filled + "x") is not None:
            raise SetupError(
                f"LUTHIER_IMPORT_FROM: {each!r} is no prefix of a bucket.",
                hint=f"Such as s3://bucket/folder/ or gs://bucket/{TENANT}/, each with a slash at its end.",
            )
    return found


def of_team(prefixes: Sequence[str], tenant_id: str) -> tuple[str, ...]:
    """The prefixes as they are for one team."""
    return tuple(each.replace(TENANT, tenant_id) for each in prefixes)


def trouble(url: str) -> str | None:
    """Why this is not the plain address of one object, or None where it is.

    >>> trouble("s3://team-data/a/rows.jsonl")
    >>> trouble("s3://team-data/a/../b")
    'its key has a part that is empty, `.` or `..`'
    """
    scheme, mark, rest = url.partition("://")
    bucket, slash, key = rest.partition("/")
    if scheme + mark not in SCHEMES or not _BUCKET.fullmatch(bucket) or ".." in bucket:
        return "it does not begin with s3:// or gs:// and the name of a bucket"
    if not slash or not key or len(key.encode("utf-8", "replace")) > _MOST_KEY_BYTES:
        return f"it has no key of 1 to {_MOST_KEY_BYTES} bytes"
    # Whoever composes characters, or drops invisible ones, would read another key than was checked.
    if unicodedata.normalize("NFKC", key) != key or any(unicodedata.category(each)[0] == "C" for each in key):
        return "its key has characters that can be written in another way, or cannot be seen"
    if _NEVER & set(key):
        return "its key has one of the characters \\ % ? # *; it is taken as it stands, without escapes"
    if any(part in {"", ".", ".."} for part in key.split("/")):
        return "its key has a part that is empty, `.` or `..`"
    return None


def may_read(url: str, prefixes: Sequence[str]) -> bool:
    """Whether an address without `trouble` lies below one of these.

    >>> may_read("s3://data/ann/rows.jsonl", ["s3://data/ann/"]), may_read("s3://data/anna/rows.jsonl", ["s3://data/ann/"])
    (True, False)
    """
    return any(url.startswith(each) and len(url) > len(each) for each in prefixes)
