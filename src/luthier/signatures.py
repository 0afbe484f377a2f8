"""Signed webhooks, out and in, as https://www.standardwebhooks.com says: HMAC-SHA256 of `id.timestamp.body`."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from datetime import datetime, timedelta

PREFIX = "whsec_"
TOLERANCE = timedelta(minutes=5)
LEAST_BYTES, MOST_BYTES = 24, 64


def new_secret() -> str:
    """A fresh secret, of 256 random bits."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def key_of(secret: str) -> bytes:
    """The bytes that sign. Raises: ValueError for what is no secret of 24 to 64 bytes."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a secret is `whsec_` and base64") from None
    if not secret.startswith(PREFIX) or not LEAST_BYTES <= len(key) <= MOST_BYTES:
        raise ValueError(f"a secret is `whsec_` and the base64 of {LEAST_BYTES} to {MOST_BYTES} random bytes")
    return key


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`.

    >>> signature("whsec_" + "A" * 32, "msg_1", 1, b"{}")
    'v1,OmiNie3fi8ZEZmbPlxeTQD55tTTpVS4mgkAkQDtSVQg='
    """
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key_of(secret), signed, hashlib.sha256).digest()).decode()


def is_signed(secret: str, headers: tuple[str, str, str], body: bytes, now: datetime) -> bool:
    """Whether the sender knows the secret, and signed now. `headers`: webhook-id, webhook-timestamp, webhook-signature."""
    message_id, stamp, given = headers
    if (
        not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12)
        or abs(now.timestamp() - int(stamp)) > TOLERANCE.total_seconds()
    ):
        return False
    right = signature(secret, message_id, int(stamp), body).encode()
    # Several may stand there, while the sender replaces a secret.
    return any(hmac.compare_digest(right, each.encode()) for each in given.split(" "))
