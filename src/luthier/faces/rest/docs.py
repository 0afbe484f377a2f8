"""`/docs`: the API as a page, made from /openapi.json, with nothing fetched from elsewhere."""

from __future__ import annotations

from pathlib import Path

from fastapi import Response
from starlette.responses import FileResponse, RedirectResponse

from luthier.faces.rest.wire import router

routes = router("", "docs")

_FOLDER = Path(__file__).parent / "page"
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-ancestors 'none'"
_FILES = {"docs": ("index.html", "text/html"), "docs.js": ("docs.js", "text/javascript"), "docs.css": ("docs.css", "text/css")}


@routes.get("/", include_in_schema=False)
def root() -> Response:
    """The API page."""
    return RedirectResponse("/docs")


@routes.get("/docs", include_in_schema=False)
def page() -> Response:
    """The API page."""
    return _file("docs")


@routes.get("/docs.js", include_in_schema=False)
def script() -> Response:
    """Its script."""
    return _file("docs.js")


@routes.get("/docs.css", include_in_schema=False)
def style() -> Response:
    """Its style."""
    return _file("docs.css")


def _file(name: str) -> Response:
    file, kind = _FILES[name]
    return FileResponse(_FOLDER / file, media_type=kind, headers={"content-security-policy": _POLICY})
