"""What the commands about users, teams and keys share: the accounts of a data folder, and what is typed."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from pydantic import TypeAdapter, ValidationError

from luthier.errors import FieldInvalid
from luthier.faces.rest.validation import words

if TYPE_CHECKING:
    from luthier.values import Frozen
    from luthier.wiring import Platform


@contextmanager
def platform_of(data: Path | None) -> Generator[Platform]:
    """The platform on this folder, with its first admin. It may be served at the same time."""
    from luthier.server.first import first_start
    from luthier.settings import Settings
    from luthier.wiring import build

    platform = build(Settings.load(data=data))
    try:
        first_start(platform)
        yield platform
    finally:
        platform.close()


def checked(kind: Any, value: object, name: str) -> Any:
    """`value`, as this constrained type. Raises: FieldInvalid."""
    try:
        # As JSON: our values are strict, and take the text of a command line for an enum's member only from there.
        return TypeAdapter[Any](kind).validate_json(json.dumps(value))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or name
        raise FieldInvalid(f"`{place}`: {words(first, place)}", param=place) from None


def email_of(text: str) -> str:
    """An e-mail address in its one form. Raises: FieldInvalid."""
    from luthier.accounts.types import Email

    return checked(Email, text, "email")


def typed_password(*, generate: bool) -> tuple[str, bool]:
    """A new password, and whether it was made here: asked for twice at a terminal, else the first line of stdin."""
    from luthier.accounts.types import Password

    if generate:
        return secrets.token_urlsafe(18), True
    if sys.stdin is not None and sys.stdin.isatty():
        text = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        text = (sys.stdin.readline() if sys.stdin is not None else "").rstrip("\r\n")  # a service has no stdin at all
        if not text:
            raise FieldInvalid(
                "No password came on stdin.", hint="Pipe it in, type it at a terminal, or use --generate.", param="password"
            )
    return checked(Password, text, "password"), False


def shown(entries: Sequence[Frozen], lines: Iterable[str], *, as_json: bool) -> None:
    """A list on stdout: as JSON, or a line each."""
    if as_json:
        typer.echo(json.dumps([entry.model_dump(mode="json") for entry in entries]))
        return
    for line in lines:
        typer.echo(line)
