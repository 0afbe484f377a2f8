"""Secrets that the platform must read again (to sign, to log in somewhere): encrypted in the database, the key beside it.

Whoever gets a dump of the database, or an answer of the API, has no secret; whoever has the whole data folder has them all.
"""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
from pathlib import Path

from luthier.errors import SetupError

_NONCE_BYTES = 12
_KEY_BYTES = 32


class SecretBox:
    """AES-256-GCM under the key in one file, which the first use makes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def lock(self, secret: str, of: str) -> str:
        """`secret`, so that only this key opens it, and only as the secret `of` the same thing."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = secrets.token_bytes(_NONCE_BYTES)
        return base64.b64encode(nonce + AESGCM(self._key()).encrypt(nonce, secret.encode(), of.encode())).decode()

    def unlock(self, locked: str, of: str) -> str:
        """What was locked. Raises: SetupError where the key is another one by now."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        data = base64.b64decode(locked)
        try:
            return AESGCM(self._key()).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], of.encode()).decode()
        except InvalidTag:
            raise SetupError(
                f"A secret in the database does not open with {self._path.name}.",
                hint="Restore that file from the backup that the database is from, or give the secret anew.",
            ) from None

    def _key(self) -> bytes:
        with contextlib.suppress(FileNotFoundError):
            return self._read()
        made = self._path.with_name(f".{self._path.name}.{secrets.token_hex(8)}")
        made.touch(mode=0o600)
        with made.open("wb") as file:
            file.write(base64.b64encode(secrets.token_bytes(_KEY_BYTES)))
            file.flush()
            os.fsync(file.fileno())
        # Of two that start at once one wins, and both use what is there then.
        with contextlib.suppress(FileExistsError):
            os.link(made, self._path)
        made.unlink()
        return self._read()

    def _read(self) -> bytes:
        key = base64.b64decode(self._path.read_bytes())
        if len(key) != _KEY_BYTES:
            raise SetupError(f"{self._path} holds no key.", hint="Restore it from a backup.")
        return key
