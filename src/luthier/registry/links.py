"""Links to a file of an export, for programs that know no key: a build step that fetches a GGUF with `wget`.

A link says whose file it is, which one, and until when; all of that is under its signature, so nothing of it can be changed. It
is no key: it opens one file, for a while, and ends with the export, or when the server's signing key is replaced.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import quote, urlencode

from luthier.errors import Forbidden
from luthier.seams import Clock

LONGEST = timedelta(days=7)
USUAL = timedelta(hours=24)
PREFIX = "/links/"
_WHOLE = re.compile(r"[0-9]{1,12}")


@dataclass(frozen=True)
class Linked:
    """What a link opens."""

    tenant_id: str
    job_id: str
    name: str

    @property
    def path(self) -> str:
        return f"{PREFIX}{self.tenant_id}/{self.job_id}/{quote(self.name, safe='')}"


class Links:
    """Makes links and reads them. `key` gives the newest secret and its name, `keys` all that still count."""

    def __init__(self, key: Callable[[], tuple[str, bytes]], keys: Callable[[], Mapping[str, bytes]], now: Clock) -> None:
        self._key = key
        self._keys = keys
        self._now = now

    def made(self, linked: Linked, lasts: timedelta = USUAL) -> tuple[str, datetime]:
        """Path and query of a link, and until when it opens."""
        until = self._now() + min(lasts, LONGEST)
        key_id, secret = self._key()
        stamp = str(int(until.timestamp()))
        return f"{linked.path}?{urlencode({'until': stamp, 'key': key_id, 'signature': _signed(secret, linked, stamp)})}", until

    def check(self, linked: Linked, *, until: str, key: str, signature: str) -> None:
        """Let pass what was made here, unchanged, and is still open. Raises: Forbidden."""
        secret = self._keys().get(key)
        # Compared also where no key has that name: how long it takes says nothing.
        right = hmac.compare_digest(_signed(secret or b"none", linked, until).encode(), signature.encode())
        if secret is None or not right or not _WHOLE.fullmatch(until):
            raise Forbidden("This link was not made here, or was changed.", hint="Ask for a new one.")
        if int(until) < self._now().timestamp():
            raise Forbidden("This link has expired.", hint="Ask for a new one.")


def _signed(secret: bytes, linked: Linked, until: str) -> str:
    # Its own use of the key: what is signed here is no access token, and the other way round.
    return hmac.new(secret, f"luthier-link\n{linked.path}\n{until}".encode(), hashlib.sha256).hexdigest()
