"""The chain of the audit log: each sealed row holds the hash of the one before it. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping

from luthier.accounts.audit_types import AuditEntry, Head, Unreadable

ANCHOR = "audit.anchor"
"""The action of the platform's rows that pin the heads of the tenants' chains."""
GENESIS = "0" * 64
_SEALS = {"sha256"}


def canonical(entry: AuditEntry) -> bytes:
    """What is hashed: all that the row says, its number in the chain among it."""
    # Without what is absent: a column that a later release adds leaves the hashes of older rows as they are.
    facts = entry.model_dump(mode="json", exclude=_SEALS, exclude_none=True)
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def sealed(entry: AuditEntry, after: Head | None) -> AuditEntry:
    """The row with its number and its hash, as the one that follows `after`."""
    numbered = entry.model_copy(update={"seq": 1 if after is None else after.seq + 1})
    previous = GENESIS if after is None else after.sha256
    digest = hashlib.sha256(_bytes(previous) + canonical(numbered)).hexdigest()
    return numbered.model_copy(update={"sha256": digest})


def _bytes(digest: str) -> bytes:
    try:
        return bytes.fromhex(digest)
    except ValueError:  # somebody wrote over it: `walk` says so, and the rows of others are sealed as ever
        return digest.encode()


def walk(name: str, chain: Iterable[AuditEntry | Unreadable], pins: Mapping[int, str]) -> Iterator[AuditEntry | str]:
    """The rows of a chain in turn, then the first fault, if there is one.

    `pins` are hashes by their number that were noted elsewhere: the chain must contain them.
    """
    last: Head | None = None
    for entry in chain:
        if isinstance(entry, Unreadable):
            yield f"{name}: row {entry.seq} ({entry.id}) was changed: it does not read like a row of this log"
            return
        expected = sealed(entry, last)
        seq, due = entry.seq or 0, expected.seq or 0
        if seq > due:
            missing = "is missing" if seq == due + 1 else f"to {seq - 1} are missing"
            yield f"{name}: row {due} {missing}; the next is {entry.id}"
            return
        if seq < due or entry.sha256 != expected.sha256:
            yield f"{name}: row {entry.seq} ({entry.id}) was changed, moved or inserted: it does not follow from the one before"
            return
        if pins.get(due, entry.sha256) != entry.sha256:
            yield f"{name}: row {entry.seq} ({entry.id}) is not the one that was pinned: the chain was written anew"
            return
        last = Head(seq=due, sha256=expected.sha256 or "")
        yield entry
    left = 0 if last is None else last.seq
    if left < max(pins, default=0):
        yield f"{name}: its end was cut off: {left} rows of at least {max(pins)} are left"
