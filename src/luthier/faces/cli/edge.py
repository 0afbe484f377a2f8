"""The edge of the three commands: errors become one line with what to do, and an exit status that scripts can tell apart.

0 done · 1 the server refused, or the job failed · 2 wrong usage · 3 no valid key, or not allowed · 4 no such thing ·
5 no server, or something else than one · 130 Ctrl-C
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

import typer

from luthier.errors import ClientError, Forbidden, Gone, LuthierError, NotFound, SetupError, Unauthenticated
from luthier.faces.cli.findings import findings_lines
from luthier.faces.cli.shown import clean, out, talk

if TYPE_CHECKING:
    from luthier.faces.sdk.client import Client

_MOST_DETAILS = 20
_COMMANDS = {
    "GET /api/bases": "tune bases",
    "GET /api/datasets": "dataset list",
    "GET /api/hooks": "tune hooks list",
    "GET /api/invitations": "tune team invitations",
    "GET /api/jobs": "tune list",
    "GET /api/keys": "tune keys list",
    "GET /api/models": "model list",
    "GET /api/me": "tune whoami",
    "GET /api/teams": "tune team list",
    "GET /api/users": "tune team members",
    "GET /api/webhooks": "tune webhooks list",
}


def new_app(about: str) -> typer.Typer:
    """One command's app: plain help, which reads well at 20 columns and loads nothing."""
    return typer.Typer(
        help=about,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


@contextlib.contextmanager
def connect(api_key: str | None = None) -> Generator[Client]:
    """The server that LUTHIER_API_URL names."""
    from luthier.faces.sdk.client import Client

    with Client(api_key=api_key) as client:
        yield client


def run(app: typer.Typer) -> None:
    """Run the command that the arguments name, and exit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A locale that lacks a letter of somebody's dataset name must not end a command.
            stream.reconfigure(errors="replace")
    try:
        app()
    except LuthierError as error:
        _refused(error)
        sys.exit(status_of(error))
    except OSError as error:
        talk(
            f"Error: {clean(error.strerror or 'a file cannot be used')}{f': {clean(error.filename)}' if error.filename else ''}."
        )
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except SystemExit as ending:
        if ending.code == 2 and _wants_json():
            _as_json({"message": "The command line is wrong; stderr says how.", "code": "usage"})
        raise


def status_of(error: LuthierError) -> int:
    """The exit status that an error stands for."""
    if isinstance(error, ClientError):
        return 2 if error.error_code == "file" else 5
    if isinstance(error, Unauthenticated | Forbidden):
        return 3
    if isinstance(error, NotFound | Gone):
        return 4
    return 2 if isinstance(error, SetupError) else 1


def usage(message: str) -> typer.BadParameter:
    """To be raised: exit status 2, with a pointer to `--help`."""
    return typer.BadParameter(clean(message))


def _refused(error: LuthierError) -> None:
    request_id = getattr(error, "request_id", None)
    facts = {"message": error.message, "code": error.error_code, "param": error.param, "hint": error.hint}
    if _wants_json():
        _as_json({**facts, "details": error.details, "request_id": request_id})
    talk(f"Error: {clean(error.message)}")
    for line in _details(error):
        talk(line)
    if hint := _as_commands(error.hint or ""):
        talk(clean(hint))
    if request_id and status_of(error) == 1:
        talk(f"({error.error_code}, request {clean(request_id)})")


def _as_commands(hint: str) -> str:
    """Whoever sits at a terminal has commands for what the server names by its routes, and has seen the details."""
    if hint.startswith("See `details`"):
        return ""
    for route, command in _COMMANDS.items():
        hint = hint.replace(f"`{route}`", f"`{command}`")
    return hint


def _details(error: LuthierError) -> list[str]:
    """The findings of a report, or each refused field, as lines; a single one was the message already."""
    details = error.details
    found = details.get("findings") if isinstance(details, Mapping) else details
    items = [item for item in found if isinstance(item, Mapping)] if isinstance(found, list | tuple) else []
    if len(items) < 2:
        return []
    if isinstance(details, Mapping):
        return findings_lines(details)
    rest = [f"  ... and {len(items) - _MOST_DETAILS} more"] if len(items) > _MOST_DETAILS else []
    return [*(_detail(item) for item in items[:_MOST_DETAILS]), *rest]


def _detail(item: Mapping[str, Any]) -> str:
    words = ": ".join(str(part) for part in (item.get("param"), item.get("message")) if part)
    return clean(f"  {words}").replace("\n", " ")


def _wants_json() -> bool:
    return "--json" in sys.argv


def _as_json(facts: Mapping[str, Any]) -> None:
    names = ("message", "code", "param", "hint", "details", "request_id")
    out(json.dumps({"error": {name: facts.get(name) for name in names}}, default=str))
