"""What an admin does with the audit log at the data folder. What a command needs is imported when it runs."""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from luthier.errors import FieldInvalid, SetupError
from luthier.moments import HOW, moment_of
from luthier.server.options import AsJson, Data

if TYPE_CHECKING:
    from luthier.accounts.audit import Audit
    from luthier.accounts.audit_types import AuditEntry, Head
    from luthier.settings import Settings

_NUMBER = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)

app = typer.Typer(no_args_is_help=True, help="The audit log: check it, and take it out.")
Noted = Annotated[
    str | None, typer.Option("--head", help="A head that was noted earlier, `number:sha256`: it must still be there.")
]
From = Annotated[
    str | None, typer.Option("--from", "--since", help="From this moment on, UTC: 2026-11-01 or 2026-11-01T12:00:00.")
]
To = Annotated[str | None, typer.Option("--to", "--until", help="Before this moment, UTC.")]


class Format(StrEnum):
    """How rows are written out."""

    JSONL = "jsonl"
    CSV = "csv"


@app.command()
def verify(data: Data = None, head: Noted = None, as_json: AsJson = False) -> None:
    """Walk every chain of the audit log. Exit status 1, and the first bad row of each chain, where one does not hold."""
    from luthier.settings import Settings

    with _audit(Settings.load(data=data)) as audit:
        verdict = audit.verify(_head(head))
    if as_json:
        typer.echo(verdict.model_dump_json())
    else:
        for fault in verdict.faults:
            typer.echo(f"BAD  {fault}", err=True)
        typer.echo(f"{verdict.rows} sealed rows in {verdict.chains} chains{'' if verdict.faults else ' hold'}.")
        if verdict.unsealed:
            typer.echo(f"{verdict.unsealed} rows are older than a minute and not sealed: does the server run?", err=True)
        if verdict.head is not None:
            typer.echo(f"head {verdict.head.seq}:{verdict.head.sha256}")
    raise typer.Exit(1 if verdict.faults else 0)


@app.command()
def export(
    data: Data = None,
    since: From = None,
    until: To = None,
    form: Annotated[Format, typer.Option("--format", help="JSON lines, or CSV for a spreadsheet.")] = Format.JSONL,
) -> None:
    """Write the rows of all chains to stdout, oldest first. Exit status 1, and a line each, where rows cannot be read."""
    from luthier.accounts.audit_types import AuditEntry, Unreadable
    from luthier.csv_lines import csv_line
    from luthier.settings import Settings

    span = _moment(since, "from"), _moment(until, "to")
    with _audit(Settings.load(data=data)) as audit, audit.export(*span) as entries:
        unreadable = 0
        if form is Format.CSV:
            typer.echo(csv_line(AuditEntry.model_fields), nl=False)
        for entry in entries:
            if isinstance(entry, Unreadable):
                unreadable += 1
                typer.echo(f"BAD  {entry.tenant_id}: row {entry.id} is left out: it was changed, and cannot be read", err=True)
            else:
                typer.echo(csv_line(_cells(entry)) if form is Format.CSV else entry.model_dump_json() + "\n", nl=False)
    raise typer.Exit(1 if unreadable else 0)


def _cells(entry: AuditEntry) -> list[object]:
    facts = entry.model_dump(mode="json")
    return [json.dumps(value) if isinstance(value, list | dict) else value for value in facts.values()]


@contextmanager
def _audit(settings: Settings) -> Generator[Audit]:
    from luthier.database import Database
    from luthier.migrations import upgrade
    from luthier.wiring import audit_of

    if not settings.database_path.is_file():
        raise SetupError(
            f"There is no database in {settings.data}.", hint="Give the folder that `luthier up` serves: --data DIR."
        )
    database = Database(settings.database_path)
    try:
        upgrade(database)
        yield audit_of(database, settings)
    finally:
        database.close()


def _head(text: str | None) -> Head | None:
    from luthier.accounts.audit_types import Head

    if text is None:
        return None
    number, _, sha256 = text.partition(":")
    if not _NUMBER.fullmatch(number) or not _SHA256.fullmatch(sha256.lower()):
        raise FieldInvalid("A head is `number:sha256`, as `luthier audit verify` prints it.", param="head")
    return Head(seq=int(number), sha256=sha256.lower())


def _moment(text: str | None, param: str) -> datetime | None:
    try:
        return None if text is None else moment_of(text)
    except ValueError as error:
        raise FieldInvalid(f"A moment is written as {HOW}.", param=param) from error
