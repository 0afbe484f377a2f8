"""Where the server is and who asks: the key that was given, else the login that was kept, else the key of a local start."""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from luthier.errors import ClientError
from luthier.faces.sdk.login_file import Login, LoginFile
from luthier.faces.sdk.refusals import unauthenticated

_KEY = re.compile(r"[\x21-\x7e]{1,256}")
_TOKEN = re.compile(r"[\x21-\x7e]{1,2048}")
_GET_ONE = "Log in (`tune login`), set LUTHIER_API_KEY, or start the server here once with `luthier up`: it writes one."


@dataclass
class Access:
    """The server's root, without a slash at its end, and how the key is found once something needs it."""

    base_url: str
    local: bool
    """Whether the server is on this machine: no proxy is asked then."""
    given: str | None = field(repr=False)
    key_path: Path | None = None
    logins: LoginFile | None = None
    login: Login | None = None
    kept: bool = False
    """Whether the login lies in the file, where other processes exchange its tokens too."""

    def current_login(self) -> Login | None:
        """The login of this client, or the one that `tune login` has kept, where no key was given.

        Raises: Unauthenticated for a file that cannot be trusted.
        """
        if self.login is None and self.given is None:
            self.reread()
        return self.login

    def reread(self) -> None:
        """What the file holds by now."""
        if self.logins is not None:
            self.login = self.logins.read(self.base_url)
            self.kept = self.login is not None

    def take(self, login: Login | None, *, keep: bool) -> None:
        """Use this login from now on; `keep` it for those who come later."""
        self.login, self.kept = login, keep
        if keep and self.logins is not None:
            self.logins.write(self.base_url, login)

    def api_key(self) -> str:
        """The key. Raises: Unauthenticated where there is none that can be used."""
        if self.given is None:
            self.given = _key_of_a_local_start(self.key_path, local=self.local)
        if not _TOKEN.fullmatch(self.given):
            raise unauthenticated("The API key holds characters that no key has.", "Check for quotes, blanks or a line break.")
        return self.given


def find_access(base_url: str | None = None, api_key: str | None = None) -> Access:
    """What to connect with. Raises: ClientError for an address that is none; SetupError for a setting that is wrong."""
    if base_url is not None and api_key is not None:
        root = base_url.rstrip("/")
        return Access(root, _is_local(root), api_key)
    from luthier.settings import Settings  # pydantic: only where something is left to be found

    settings = Settings.load()
    root = (settings.api_url if base_url is None else base_url).rstrip("/")
    given = api_key or settings.api_key or None  # `LUTHIER_API_KEY=` is how shells and compose files leave it out
    return Access(root, _is_local(root), given, settings.key_path, LoginFile(settings.login_path.expanduser()))


def _is_local(root: str) -> bool:
    try:
        parts = urlsplit(root)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, None
    if not host or parts is None or parts.scheme not in {"http", "https"} or parts.username or parts.query or parts.fragment:
        raise ClientError("LUTHIER_API_URL is not the address of a server.", hint="Give it like http://127.0.0.1:8000.")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _key_of_a_local_start(path: Path | None, *, local: bool) -> str:
    # The key of this machine's server is not for whoever else LUTHIER_API_URL points to.
    if not local or path is None:
        raise unauthenticated("There is no API key for this server.", "Log in (`tune login`), or set LUTHIER_API_KEY.")
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO in its place must not hang
    except FileNotFoundError:
        raise unauthenticated(
            "There is no API key: LUTHIER_API_KEY is not set and <data>/admin.key is not there.", _GET_ONE
        ) from None
    except OSError:
        raise unauthenticated(
            "<data>/admin.key cannot be read.", "Run as the user that started the server, or set LUTHIER_API_KEY."
        ) from None
    with os.fdopen(handle, "rb") as file:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise unauthenticated("<data>/admin.key is not a file.", _GET_ONE)
        if facts.st_mode & 0o077:
            raise unauthenticated("<data>/admin.key can be read by others on this machine.", "Run `chmod 600 <data>/admin.key`.")
        key = file.read(1024).strip().decode("utf-8", "replace")
    if not _KEY.fullmatch(key):
        raise unauthenticated(
            "<data>/admin.key holds no key.", "Remove it and set LUTHIER_API_KEY, or ask an admin for a new key."
        )
    return key
