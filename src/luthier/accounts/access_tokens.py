"""Access tokens: JSON Web Tokens of exactly one form, signed with HS256. What has any other form is not even looked into."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal

import jwt
from pydantic import ValidationError

from luthier.accounts.signing import SigningKey
from luthier.errors import Unauthenticated
from luthier.values import MAX_INT, Frozen

LIVES = timedelta(minutes=10)
MOST_CHARACTERS = 2048
_LEEWAY_S = 30
# The signature of HS256 has 43 characters; anything behind it, or a padding, would be a second way to write the same token.
_FORM = re.compile(r"[A-Za-z0-9_-]{1,500}\.[A-Za-z0-9_-]{1,1500}\.([A-Za-z0-9_-]{43})", re.ASCII)


class Claims(Frozen):
    """What a token says. Strict: another audience, a time that is no integer or one field more is no token of ours."""

    iss: Literal["luthier"]
    aud: Literal["luthier-api"]
    sub: str
    tenant: str
    login: str
    tv: int
    iat: int
    exp: int
    nbf: int | None = None


def claims(*, user_id: str, tenant_id: str, login_id: str, token_version: int, now: datetime) -> Claims:
    """What a token says that is made now."""
    at = int(now.timestamp())
    until = at + int(LIVES.total_seconds())
    return Claims(
        iss="luthier", aud="luthier-api", sub=user_id, tenant=tenant_id, login=login_id, tv=token_version, iat=at, exp=until
    )


def signed(said: Claims, key: SigningKey) -> str:
    """The token."""
    return jwt.encode(said.model_dump(exclude_none=True), key.secret, algorithm="HS256", headers={"kid": key.id})


def read(token: str, keys: Mapping[str, SigningKey], now: datetime) -> Claims:
    """What a token of ours says. Raises: Unauthenticated, in the same words whatever is wrong with it."""
    form = _FORM.fullmatch(token) if len(token) <= MOST_CHARACTERS else None
    if form is None or not _canonical(form[1]):
        raise Unauthenticated
    try:
        # The header is not trusted with anything: it must be the very one that we write, for a key that we have.
        header = jwt.get_unverified_header(token)
        key = keys.get(str(header.get("kid")))
        if key is None or header != {"alg": "HS256", "typ": "JWT", "kid": key.id}:
            raise Unauthenticated
        said = Claims.model_validate(_payload(token, key))
    except (jwt.InvalidTokenError, ValidationError, ValueError, RecursionError):
        raise Unauthenticated from None
    if not _in_time(said, now.timestamp()):
        raise Unauthenticated
    return said


def _payload(token: str, key: SigningKey) -> dict[str, Any]:
    # Only the signature here; `Claims` is stricter with the rest than the library is.
    checks = dict.fromkeys(("exp", "nbf", "iat", "aud", "iss", "sub", "jti"), False)
    options: Any = {f"verify_{name}": on for name, on in checks.items()}
    return jwt.decode(token, key.secret, algorithms=["HS256"], options=options)


def _in_time(said: Claims, now_s: float) -> bool:
    begins = max(said.iat, said.nbf or 0)
    return begins <= now_s + _LEEWAY_S and now_s - _LEEWAY_S < said.exp <= MAX_INT


def _canonical(signature: str) -> bool:
    """Whether the two spare bits at its end are zero: with others it would decode to the same bytes."""
    try:
        decoded = base64.urlsafe_b64decode(signature + "=")
    except binascii.Error:
        return False
    return base64.urlsafe_b64encode(decoded).decode().rstrip("=") == signature
