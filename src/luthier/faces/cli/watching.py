"""The verbs of `tune` that watch: logs, events, and a job until its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.faces.cli.edge import connect
from luthier.faces.cli.options import AsJson, Follow, JobArgument, JobOption, Raw, the_job
from luthier.faces.cli.shown import clean, moment, out, out_json, table, talk

if TYPE_CHECKING:
    from luthier.faces.sdk.answers import Event, Job, LogTail
    from luthier.faces.sdk.client import Client

_MOST_TAIL_BYTES = 1_048_576
Tail = Annotated[int, typer.Option("--tail-bytes", min=1, max=_MOST_TAIL_BYTES, help="How much of the log's end.")]


def add_to(app: typer.Typer) -> None:
    """Make the verbs of this file commands of `app`."""
    app.command()(logs)
    app.command()(events)
    app.command()(history)


def logs(
    job: JobArgument = None,
    job_id: JobOption = None,
    follow: Follow = False,
    tail_bytes: Tail = 65_536,
    raw: Raw = False,
    as_json: AsJson = False,
) -> None:
    """The end of a job's log."""
    found = the_job(job, job_id)
    with connect() as client:
        if not follow:
            tail = client.jobs.logs(found, tail_bytes=tail_bytes)
            if as_json:
                out_json(tail)
            else:
                _print(tail.text, raw=raw)
            return
        _follow_log(client, found, tail_bytes, raw=raw)
        ended = client.jobs.get(found)
    if as_json:
        out_json(ended)
    _say_end(ended)
    leave(ended)


def history(job: JobArgument = None, job_id: JobOption = None, as_json: AsJson = False) -> None:
    """Through which states it went, and why: who approved, rejected or stopped it, what broke."""
    with connect() as client:
        steps = client.jobs.transitions(the_job(job, job_id))
    if as_json:
        out_json({"data": [step.raw for step in steps]})
        return
    rows = [(moment(step.at), step.attempt or None, step.to_state, step.reason) for step in steps]
    out(table(("AT", "ATTEMPT", "STATE", "WHY"), rows))


def events(job: JobArgument = None, job_id: JobOption = None, follow: Follow = False, as_json: AsJson = False) -> None:
    """What has happened, in order. With --follow --json one JSON object a line, as it happens."""
    found = the_job(job, job_id)
    with connect() as client:
        if follow:
            _follow_events(client, found, as_json=as_json)
            leave(client.jobs.get(found))
        happened = client.jobs.events(found)
    if as_json:
        out_json([event.raw for event in happened])
        return
    out(table(("ID", "AT", "KIND", "MESSAGE"), [_event_row(event) for event in happened]))


def taken_in(job: Job) -> str:
    """What becomes of a job that was just submitted."""
    if job.state == "awaiting_approval":
        return f"It costs so much that an admin of your team must say yes: tune approve {job.id}"
    return f"Queued. Watch it with: tune logs {job.id} --follow"


def tell_if_it_waits(job: Job) -> None:
    """Nothing happens to a job before it is approved: whoever watches it must know."""
    if job.state == "awaiting_approval":
        talk(taken_in(job))


def to_the_end(client: Client, job_id: str) -> Job:
    """Watch until the job has ended, and say how it did."""
    from luthier.faces.cli.following import follow

    job, _ = follow(client, job_id)
    _say_end(job)
    return job


def measured(client: Client, spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """Run a fit test of this run and return what it measured. Exits with 1 where it did not succeed."""
    job = to_the_end(client, client.jobs.submit({**spec, "kind": "fit_test"}).job.id)
    if job.state != "succeeded":
        leave(job)
    return next(event.data for event in reversed(list(client.jobs.events(job.id))) if event.kind == "eval")


def leave(job: Job) -> None:
    """Exit status 0 only for a job that succeeded, so that `&&` goes on only then."""
    raise typer.Exit(0 if job.state == "succeeded" else 1)


def _say_end(job: Job) -> None:
    from luthier.faces.cli.reports import failure_text

    talk(f"{job.id}: {job.state}.")
    if job.get("error"):
        talk(failure_text(job))
    if job.get("model_id"):
        talk(f"Model {job.model_id}. Look at it: model show {job.model_id}   Ask it: model chat {job.model_id}")


def _follow_log(client: Client, job_id: str, tail_bytes: int, *, raw: bool) -> None:
    """Print the log's end, then what is added, until the job has ended. The event stream tells when to look."""
    tell_if_it_waits(client.jobs.get(job_id))
    known = client.jobs.events(job_id)
    tail = client.jobs.logs(job_id, tail_bytes=tail_bytes)
    _print(tail.text, raw=raw)
    try:
        for _ in client.jobs.follow(job_id, after=known[-1].id if known else None):
            tail = _print_new(client, job_id, tail, raw=raw)
    except KeyboardInterrupt:
        talk(f"\nNo longer watching; the job goes on. End it: tune stop {job_id}")
        raise
    _print_new(client, job_id, tail, raw=raw)


def _print_new(client: Client, job_id: str, before: LogTail, *, raw: bool) -> LogTail:
    now = client.jobs.logs(job_id, tail_bytes=_MOST_TAIL_BYTES)
    new = now.total_bytes - (before.total_bytes if now.attempt == before.attempt else 0)
    if new > 0:
        _print(now.text.encode()[-new:].decode("utf-8", "replace"), raw=raw)
    return now


def _print(text: str, *, raw: bool) -> None:
    shown = text if raw else clean(text)
    if shown:
        out(shown, end="" if shown.endswith("\n") else "\n")


def _follow_events(client: Client, job_id: str, *, as_json: bool) -> None:
    try:
        for event in client.jobs.follow(job_id):
            if as_json:
                out_json(event)
            else:
                out("  ".join(clean(cell).replace("\n", " ") for cell in _event_row(event)))
    except KeyboardInterrupt:
        talk(f"\nNo longer watching; the job goes on. End it: tune stop {job_id}")
        raise


def _event_row(event: Event) -> tuple[str, str, str, str]:
    return event.id, moment(event.at), event.kind, event.message
