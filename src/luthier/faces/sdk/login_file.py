"""A login that was kept: one file for all servers, that only its owner can read."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from luthier.faces.sdk.refusals import unauthenticated

_AGAIN = "Log in again: `tune login`."
_EARLY_S = 30


@dataclass(frozen=True)
class Login:
    """Two tokens, and when the first one ends by this machine's clock."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    ends_at: float
    email: str

    def lives(self, now: float) -> bool:
        """Whether the access token is good for another moment."""
        return now < self.ends_at - _EARLY_S


def login_of(answer: Mapping[str, Any], email: str, now: float) -> Login:
    """What the server answered to a login or a refresh."""
    return Login(str(answer["access_token"]), str(answer["refresh_token"]), now + float(answer["expires_in"]), email)


@dataclass(frozen=True)
class LoginFile:
    """The file, by the root of each server."""

    path: Path

    def read(self, root: str) -> Login | None:
        """The login at this server, or None. Raises: Unauthenticated where the file cannot be trusted or understood."""
        entry = self._all().get(root)
        if entry is None:
            return None
        try:
            return Login(str(entry["access_token"]), str(entry["refresh_token"]), float(entry["ends_at"]), str(entry["email"]))
        except (TypeError, KeyError, ValueError):
            raise self._broken() from None

    def write(self, root: str, login: Login | None) -> None:
        """Keep it, or forget it. Whole or not at all, and never for a moment readable by others."""
        entries = {**self._all(), root: None if login is None else asdict(login)}
        text = json.dumps({name: entry for name, entry in entries.items() if entry is not None}, indent=2)
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        arriving = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):
            arriving.unlink()  # of a process with our number that was killed
        with os.fdopen(os.open(arriving, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(text + "\n")
        arriving.replace(self.path)

    @contextlib.contextmanager
    def alone(self) -> Generator[None]:
        """One process at a time: a refresh token is good for one exchange, and two that use it end the login."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self.path.with_name(f"{self.path.name}.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _all(self) -> dict[str, Any]:
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO in its place must not hang
        except FileNotFoundError:
            return {}
        except OSError:
            raise unauthenticated(f"{self.path} cannot be read.", _AGAIN) from None
        with os.fdopen(handle, "rb") as file:
            mode = os.fstat(handle).st_mode
            if not stat.S_ISREG(mode):
                raise unauthenticated(f"{self.path} is not a file.", f"Remove it. {_AGAIN}")
            if mode & 0o077:
                raise unauthenticated(
                    f"{self.path} can be read by others on this machine.",
                    f"Run `chmod 600 {self.path}`, or log out and in again.",
                )
            data = file.read(1_000_000)
        try:
            entries = json.loads(data)
        except ValueError:
            entries = None
        if not isinstance(entries, dict):
            raise self._broken()
        return entries

    def _broken(self) -> Exception:
        return unauthenticated(f"{self.path} holds no login that can be read.", f"Remove it. {_AGAIN}")
