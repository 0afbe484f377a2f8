"""A job's events as a live stream: first the history, then what happens, until the job's last word."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from luthier.accounts.types import Actor
from luthier.jobs.directory import Event
from luthier.jobs.types import Job

if TYPE_CHECKING:
    from luthier.jobs.service import Jobs

KEEP_ALIVE_S = 15.0
POLL_S = 0.5


class Pace:
    """How often a stream looks for news, and how long it may stay silent. A value, so that tests need not wait."""

    def __init__(self, poll_s: float = POLL_S, keep_alive_s: float = KEEP_ALIVE_S) -> None:
        self.poll_s = poll_s
        self.keep_alive_s = keep_alive_s
        self.stopping = False
        """Set when the server is about to end: streams end too, and their readers come back with `Last-Event-ID`."""


async def live(jobs: Jobs, actor: Actor, job_id: str, after: str | None, pace: Pace) -> AsyncGenerator[bytes]:
    """Server-sent events. Each has its id, so that a reader who was cut off goes on with `Last-Event-ID`."""
    yield b"retry: 2000\n\n"
    silent_s = 0.0
    while True:
        # The state first: a job that had ended before its events were read has no further ones.
        job, events = await anyio.to_thread.run_sync(_look, jobs, actor, job_id, after)
        for event in events:
            yield _as_sse(event)
            after = event.id
        if job.finished:
            yield f"event: end\ndata: {job.model_dump_json()}\n\n".encode()
            return
        if pace.stopping:
            return
        silent_s = 0.0 if events else silent_s + pace.poll_s
        if silent_s >= pace.keep_alive_s:
            silent_s = 0.0
            yield b": still here\n\n"
        await anyio.sleep(pace.poll_s)


def _look(jobs: Jobs, actor: Actor, job_id: str, after: str | None) -> tuple[Job, list[Event]]:
    job = jobs.get(actor, job_id)
    return job, list(jobs.events(actor, job_id, after=after))


def _as_sse(event: Event) -> bytes:
    return f"id: {event.id}\nevent: {event.kind}\ndata: {event.model_dump_json()}\n\n".encode()
