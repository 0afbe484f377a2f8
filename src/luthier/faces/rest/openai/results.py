"""Result files: what each step of a run measured, as a CSV that is made when it is asked for."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator

from fastapi import Response

from luthier.accounts.types import Actor
from luthier.errors import NotFound
from luthier.faces.rest.openai.shapes import FileObject, result_files, seconds
from luthier.faces.rest.streaming import attachment
from luthier.jobs.directory import Event
from luthier.wiring import Platform

PURPOSE = "fine-tune-results"
_ID = re.compile(r"results-(?P<job_id>job_[0-9a-z]{26})", re.ASCII)
_COLUMNS = {"train_loss": "loss", "valid_loss": "eval_loss", "learning_rate": "learning_rate", "grad_norm": "grad_norm"}
"""The columns behind `step`, and what our events call them. Behind them stands what the method measures besides."""


def is_result(file_id: str) -> bool:
    """Whether an id has the form of a result file's."""
    return _ID.fullmatch(file_id) is not None


def found(platform: Platform, actor: Actor, file_id: str) -> tuple[FileObject, bytes]:
    """A result file and its bytes. Raises: NotFound, Gone."""
    match = _ID.fullmatch(file_id)
    job = platform.jobs.get(actor, match["job_id"]) if match else None
    if job is None or file_id not in result_files(job):
        raise NotFound("file", hint="`result_files` of `GET /v1/fine_tuning/jobs/<id>` names those of a job.")
    data = table(platform.jobs.events(actor, job.id))
    made_at = seconds(job.finished_at or job.updated_at)
    return FileObject(
        id=file_id, bytes=len(data), created_at=made_at, filename=f"{job.id}.csv", purpose=PURPOSE, status="processed"
    ), data


def answer(file: FileObject, data: bytes) -> Response:
    """The bytes as an attachment."""
    return Response(data, media_type="text/csv", headers={"content-disposition": attachment(file.filename)})


def table(events: Iterable[Event]) -> bytes:
    """A row for each step that was measured; a step that was repeated after a break has its last numbers."""
    steps: dict[int, dict[str, object]] = {}
    for event in events:
        if event.kind in ("step", "eval"):
            for step, measured in _measured(event):
                steps.setdefault(step, {}).update(measured)
    named = {name for measured in steps.values() for name in measured}
    columns = {**_COLUMNS, **{name: name for name in sorted(named - set(_COLUMNS.values()))}}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", *columns])
    for step, measured in sorted(steps.items()):
        writer.writerow([step, *(measured.get(name, "") for name in columns.values())])
    return text.getvalue().encode()


def _measured(event: Event) -> Iterator[tuple[int, dict[str, object]]]:
    """Each step of an event, and its numbers: quick steps are told several at a time."""
    if event.kind == "eval":
        yield event.step, {"eval_loss": event.data.get("eval_loss", "")}
        return
    names = event.data.get("columns", ())
    for numbers in event.data.get("steps", ()):
        measured = dict(zip(names, numbers, strict=True))
        yield int(measured.pop("step")), measured
