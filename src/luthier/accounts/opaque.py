"""Secrets that mean nothing by themselves: made here, and kept only as a hash."""

from __future__ import annotations

import hashlib
import secrets


def fresh(public: str) -> str:
    """A secret of 256 random bits behind a part that anybody may see: it names the secret, in a log or to a scanner."""
    return f"{public}_{secrets.token_urlsafe(32)}"


def digest(secret: str) -> str:
    """What is kept of it. A plain hash is right here: there is nothing to guess, so nothing to salt or to slow down.

    It is looked up by this hash as a whole, so the time that takes tells nothing about the secret.
    """
    return hashlib.sha256(secret.encode()).hexdigest()
