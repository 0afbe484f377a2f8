"""The REST face: a door, one table of errors, and a file of routes for each feature."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response

from luthier.errors import LuthierError
from luthier.faces.rest import features, oidc
from luthier.faces.rest.auth import Lane
from luthier.faces.rest.door import SIGNED, Door, open_paths
from luthier.faces.rest.errors import ErrorBody, answer, on_luthier_error, on_routing_error
from luthier.faces.rest.events import Pace
from luthier.faces.rest.pictures import Desk
from luthier.faces.rest.polls import Polls
from luthier.faces.rest.predict import Hall
from luthier.faces.rest.trail import Trail
from luthier.faces.rest.uploads import Receiver
from luthier.faces.rest.validation import refused

if TYPE_CHECKING:
    from luthier.wiring import Platform

_ABOUT = (
    "Fine-tune language models on your own machine. Every call but `/health`, `/auth/login` and the docs needs a key or a login."
)


def create_app(platform: Platform, *, pace: Pace | None = None) -> FastAPI:
    """The ASGI app of this platform. `pace` is for tests, which need not wait."""
    app = FastAPI(
        title="Luthier",
        version=version("luthier"),
        description=_ABOUT,
        openapi_tags=[{"name": name, "description": about} for name, about in features.TAGS],
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # A handler that fits everything: no route answers a refusal in another shape.
        responses={"default": {"model": ErrorBody, "description": "Every refusal has this body."}},
        exception_handlers={
            LuthierError: on_luthier_error,
            RequestValidationError: _on_validation_error,
            HTTPException: on_routing_error,
        },
    )
    app.state.platform = platform
    app.state.pace = pace or Pace()
    app.state.receiver = Receiver(platform)
    app.state.lane = Lane()
    app.state.hall = Hall(platform.predictions)
    app.state.desk = Desk()
    open_ = open_paths(platform.settings.open_docs)
    app.add_middleware(Polls, jobs=platform.jobs)
    app.add_middleware(Door, accounts=platform.accounts, limits=platform.limits, open_paths=open_)
    app.add_middleware(Trail, audit=platform.audit, access_log=platform.access_log)
    oidc.add_to(app, platform)
    for routes in features.ROUTERS:
        app.include_router(routes)
    _describe_keys(app, open_paths(platform.settings.open_docs))
    return app


async def _on_validation_error(request: HTTPConnection, error: Exception) -> Response:
    """What FastAPI found wrong in paths, queries and headers; bodies are read by `body.py`."""
    if not isinstance(error, RequestValidationError):
        raise error
    findings = [{**finding, "loc": finding["loc"][1:] or finding["loc"]} for finding in error.errors()]
    return answer(request, refused(findings))


def _refuse_in_json(responses: dict[str, dict[str, Any]]) -> None:
    """A refusal is JSON, also where what is served is text; FastAPI takes it for text too."""
    for status, response in responses.items():
        content = response.get("content", {})
        if (status == "default" or status >= "400") and content and "application/json" not in content:
            response["content"] = {"application/json": next(iter(content.values()))}


def _describe_keys(app: FastAPI, keyless: frozenset[str]) -> None:
    """Tell in /openapi.json which key a route takes; the door itself asks for it."""
    generate = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = generate()
            schemes = {"bearer": {"type": "http", "scheme": "bearer"}}
            schemes["header"] = {"type": "apiKey", "in": "header", "name": "X-API-Key"}
            schema.setdefault("components", {})["securitySchemes"] = schemes
            for path, operations in schema["paths"].items():
                for operation in operations.values():
                    _refuse_in_json(operation["responses"])
                    operation["security"] = [] if path in keyless or path.startswith(SIGNED) else [{"bearer": []}, {"header": []}]
        return app.openapi_schema or generate()

    app.openapi = described  # pyright: ignore[reportAttributeAccessIssue]  # FastAPI's documented way to extend the schema
