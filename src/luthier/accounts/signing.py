"""The keys that access tokens are signed with: from a setting, or made here. Two are valid while one replaces the other."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from luthier.database import from_ms, to_ms
from luthier.errors import SetupError
from luthier.seams import Clock

STAYS_VALID = timedelta(minutes=15)
"""Longer than an access token lives: after a rotation nobody has to log in again."""
_EXAMPLES = frozenset({"your-secret-key-change-in-production", "your-256-bit-secret", "a-string-secret-at-least-256-bits-long"})
_LEAST_BYTES = 32


@dataclass(frozen=True)
class SigningKey:
    """A secret with a name that stands in each token."""

    id: str
    secret: str = field(repr=False)
    until: datetime | None = None
    """When it has ended, once another one has taken its place."""


class SigningKeys:
    """Those of this server. A rotation by another process is seen at the next token."""

    def __init__(self, path: Path, now: Clock, *, given: str | None = None, given_before: str | None = None) -> None:
        """`given` is LUTHIER_JWT_SECRET; without it `path` holds the keys. Raises: SetupError for a secret that is none."""
        self._path = path
        self._now = now
        self._given = [_checked(secret) for secret in (given, given_before) if secret is not None]
        self._read: tuple[tuple[int, int], list[SigningKey]] | None = None

    def current(self) -> SigningKey:
        """What new tokens are signed with."""
        return self._all()[0]

    def valid(self) -> Mapping[str, SigningKey]:
        """What a token may be signed with, by name."""
        now = self._now()
        return {key.id: key for key in self._all() if key.until is None or key.until > now}

    def rotate(self) -> SigningKey:
        """Sign with a new key from now on; the one before stays valid for 15 minutes.

        Raises: SetupError where the key comes from a setting: there it is replaced.
        """
        if self._given:
            raise SetupError(
                "The signing key comes from LUTHIER_JWT_SECRET.",
                hint="Move it to LUTHIER_JWT_SECRET_BEFORE, set a new one, and start the server again.",
            )
        now = self._now()
        before = [SigningKey(key.id, key.secret, key.until or now + STAYS_VALID) for key in self._all()]
        made = _made()
        _write(self._path, [made, *(key for key in before if key.until is not None and key.until > now)])
        return made

    def _all(self) -> list[SigningKey]:
        if self._given:
            return self._given
        try:
            facts = self._path.stat()
        except FileNotFoundError:
            _write(self._path, [_made()], first=True)
            facts = self._path.stat()
        which = (facts.st_ino, facts.st_mtime_ns)
        if self._read is None or self._read[0] != which:
            self._read = (which, _from(self._path))
        return self._read[1]


def _made() -> SigningKey:
    return SigningKey(secrets.token_hex(8), secrets.token_urlsafe(48))


def _checked(secret: str) -> SigningKey:
    if len(secret.encode()) < _LEAST_BYTES or secret.lower() in _EXAMPLES or len(set(secret)) < 8:
        raise SetupError(
            "LUTHIER_JWT_SECRET is too short, or one that others know.",
            hint=f"Give at least {_LEAST_BYTES} random bytes: `openssl rand -base64 48`. Or leave it out: the server makes one.",
        )
    return SigningKey(hashlib.sha256(b"kid:" + secret.encode()).hexdigest()[:16], secret)


def _write(path: Path, keys: list[SigningKey], *, first: bool = False) -> None:
    """Whole or not at all. `first`: of several that start at once, one wins and the others read what it wrote."""
    text = json.dumps([{"id": key.id, "secret": key.secret, "until_ms": key.until and to_ms(key.until)} for key in keys])
    arriving = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(arriving, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    if not first:
        arriving.replace(path)
        return
    try:
        path.hardlink_to(arriving)
    except FileExistsError:
        pass
    finally:
        arriving.unlink()


def _from(path: Path) -> list[SigningKey]:
    if path.stat().st_mode & 0o077:
        raise SetupError(f"{path} can be read by others on this machine.", hint=f"Run `chmod 600 {path}`.")
    try:
        entries = json.loads(path.read_text("utf-8"))
        keys = [
            SigningKey(entry["id"], entry["secret"], None if entry["until_ms"] is None else from_ms(entry["until_ms"]))
            for entry in entries
        ]
    except (ValueError, TypeError, KeyError):
        keys = []
    if not keys:
        raise SetupError(f"{path} holds no signing key.", hint="Remove it: a new one is made, and everybody logs in again.")
    return keys
