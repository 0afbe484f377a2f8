"""The question that is asked most: how one job stands. Answered ahead of the routes, in a third of their time.

Only the plain answer is given here. An unknown or deleted job, an id that is none, a caller who may not look, a query: each
goes on to the route, which has the words for it, and answers everything else in the same way.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from luthier import ids
from luthier.accounts import rules
from luthier.faces.rest import jobs as faces
from luthier.jobs.service import Jobs
from luthier.jobs.types import Job

_BELOW = f"{faces.routes.prefix}/"
_ROUTE = next(route for route in faces.routes.routes if getattr(route, "endpoint", None) is faces.show)


class Polls:
    """Between the door, which knows who asks, and the routes."""

    def __init__(self, app: ASGIApp, jobs: Jobs) -> None:
        self._app = app
        self._jobs = jobs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        job = self._asked(scope) if scope["type"] == "http" and scope["method"] == "GET" else None
        if job is None:
            await self._app(scope, receive, send)
            return
        scope["route"], scope["path_params"] = _ROUTE, {"job_id": job.id}  # what the access log tells
        await faces.tagged(Request(scope), job)(scope, receive, send)

    def _asked(self, scope: Scope) -> Job | None:
        path: str = scope["path"]
        if not path.startswith(_BELOW) or scope["query_string"]:
            return None
        job_id, actor = path.removeprefix(_BELOW), scope["luthier.actor"]
        if not ids.is_id(job_id, ids.JOB) or rules.refusal(actor, "GET") is not None:
            return None
        return self._jobs.glance(actor, job_id)
