"""Passwords: argon2id, and as slow for somebody who does not exist as for somebody who does."""

from __future__ import annotations

import secrets
import unicodedata
from functools import cached_property

from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher


class Passwords:
    """Hashes and compares. Each call takes about 0.2 s and 64 MiB: never call it where others wait."""

    def __init__(self, hasher: Argon2Hasher | None = None) -> None:
        self._hash = PasswordHash((hasher or Argon2Hasher(),))

    def hashed(self, password: str) -> str:
        """What is kept of it."""
        return self._hash.hash(_one_form(password))

    def matches(self, password: str, kept: str | None) -> bool:
        """Whether it is the one. `kept` is None where there is none: that takes as long, and is never so."""
        is_it = self._hash.verify(_one_form(password), kept or self._nobodys)
        return is_it and kept is not None

    @cached_property
    def _nobodys(self) -> str:
        return self._hash.hash(secrets.token_urlsafe(32))


def _one_form(password: str) -> str:
    # The same letters may come as other code points from another keyboard (NIST SP 800-63B, 3.1.1.2).
    return unicodedata.normalize("NFKC", password)
