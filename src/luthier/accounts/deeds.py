"""What is being done now, and by whom: the context from which the audit log takes its rows.

A `ContextVar` follows a request into the worker threads that serve it. Work that outlives its request (a check of a large
upload) starts without one and leaves no row: the request that asked for it has one already.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

PLATFORM = "platform"
"""Whose chain holds what belongs to no tenant."""
SYSTEM, CONSOLE, ANONYMOUS = "system", "console", "anonymous"
"""Actors without an account: the platform itself, an admin at its data folder, somebody who did not say who they are."""


@dataclass(frozen=True)
class Act:
    """What is done, by whom, and from where."""

    action: str
    """A stable name, for searching."""
    actor: str
    tenant_id: str | None = None
    route: str | None = None
    on: tuple[str, ...] = ()
    """Ids in the request's path."""
    key_id: str | None = None
    request_id: str | None = None
    address: str | None = None


@dataclass
class Deed:
    """One request, or one act of the platform, until its row is written."""

    act: Callable[[], Act]
    """Asked when the row is written: a request's route is found, and its caller known, after it began."""
    recorded: bool = False


T = TypeVar("T", Deed, None)
_CURRENT: ContextVar[Deed | None] = ContextVar("deed", default=None)


def current() -> Deed | None:
    """What is being done in this context, or None where nobody asked for it."""
    return _CURRENT.get()


def by_nobody() -> AbstractContextManager[None]:
    """Inside the block, changes leave no row: those of the log itself."""
    return doing(None)


@contextmanager
def doing(deed: T) -> Generator[T]:
    """Inside the block, changes are this deed's."""
    token = _CURRENT.set(deed)
    try:
        yield deed
    finally:
        _CURRENT.reset(token)


@contextmanager
def by_system(action: str) -> Generator[None]:
    """Inside the block, or the function that it decorates, changes are the platform's own act."""
    with doing(Deed(lambda: Act(action, SYSTEM))):
        yield


def by_console(command: str) -> AbstractContextManager[Deed]:
    """Inside the block, changes are what an admin asked for at the data folder."""
    return doing(Deed(lambda: Act(f"console.{command}", CONSOLE)))
