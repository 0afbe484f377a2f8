"""Whether the server is well: for a load balancer, and for whoever asks why no job starts."""

from __future__ import annotations

import fcntl
import os
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fastapi import Response
from pydantic import BaseModel, Field
from sqlalchemy import text

from luthier.database import EVERY_TENANT
from luthier.errors import LuthierError
from luthier.faces.rest.wire import CurrentPlatform, router

if TYPE_CHECKING:
    from luthier.wiring import Platform

routes = router("", "health")


class Health(BaseModel):
    """The state of each part."""

    status: Literal["ok", "degraded"] = Field(description="`degraded`: a part is missing; see below.")
    version: str
    database: Literal["ok", "unavailable"]
    supervisor: Literal["works", "absent"] = Field(description="`absent`: jobs are taken in, but none starts.")
    request_limits: Literal["ok", "degraded"] = Field(
        description="`degraded`: Redis does not answer, so each server counts requests for itself."
    )
    engine: str = Field(description="`idle` until the first chat, then `starting` or `ready`.")


@routes.get("/health", responses={503: {"model": Health, "description": "The database does not answer."}})
def health(platform: CurrentPlatform, response: Response) -> Health:
    """How the server is. Needs no key, and tells nothing that is secret."""
    database = "ok" if _answers(platform) else "unavailable"
    supervisor = "works" if _held(platform.settings.data / "supervisor.lock") else "absent"
    limits = "degraded" if platform.limits.degraded else "ok"
    if database != "ok":
        response.status_code = 503
    return Health(
        status="ok" if (database, supervisor, limits) == ("ok", "works", "ok") else "degraded",
        version=version("luthier"),
        database=database,
        supervisor=supervisor,
        request_limits=limits,
        engine=str(platform.engine.state().get("state", "idle")),
    )


def _answers(platform: Platform) -> bool:
    try:
        with platform.database.read(EVERY_TENANT) as session:
            session.execute(text("SELECT 1"))
    except LuthierError:
        return False
    return True


def _held(path: Path) -> bool:
    """Whether a process holds this lock. Nothing is made or changed: a shared lock is tried, and let go of at once."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)
