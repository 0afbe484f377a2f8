"""Training jobs: estimate, submit, follow, stop."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from luthier.errors import ClientError, FieldInvalid, LuthierError
from luthier.faces.sdk.answers import Answer, Estimate, Event, Job, LogTail, ModelFile, Page, Submitted, Transition
from luthier.faces.sdk.blocking import Face, blocking, iterating
from luthier.faces.sdk.folders import FileProgress, fetch_all, listed
from luthier.faces.sdk.streams import ServerEvent, server_events
from luthier.faces.sdk.transport import Call, Lost, Transport, worth_another

if TYPE_CHECKING:
    from luthier.jobs.spec import RunSpec

    Spec = RunSpec | Mapping[str, Any] | Path
    """A run: a spec, a mapping of its fields, or the path of a YAML file."""


class AsyncJobs:
    """`client.jobs`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def estimate(self, spec: Spec) -> Estimate:
        """What the run would take: memory, minutes, dollars. Reserves nothing."""
        return Estimate(await self._transport.json(Call("POST", "/api/jobs/estimate", body=_body(spec), again=True)))

    async def estimated(self, job_id: str) -> Estimate:
        """What a job was expected to take when it was submitted; `measured` says what it took, once it has ended."""
        return Estimate(await self._transport.json(Call("GET", f"{_path(job_id)}/estimate")))

    async def submit(self, spec: Spec, *, idempotency_key: str | None = None) -> Submitted:
        """Queue a run and return at once. Retries carry one Idempotency-Key, so a lost answer never makes a second job."""
        headers = {"idempotency-key": idempotency_key or str(uuid.uuid4())}
        call = Call("POST", "/api/jobs", body=_body(spec), headers=headers, again=True)
        return Submitted(await self._transport.json(call))

    async def train(self, fields: Mapping[str, Any]) -> str:
        """Queue a run by flat fields (`POST /train`), and return its id. Without `base_model` it is the image classifier."""
        headers = {"idempotency-key": str(uuid.uuid4())}
        call = Call("POST", "/train", body=dict(fields), headers=headers, again=True)
        return str(Answer(await self._transport.json(call)).job_id)

    async def list(self, *, limit: int = 50, after: str | None = None) -> Page[Job]:
        """One page of your team's jobs, newest first."""
        return await self._transport.page("/api/jobs", Job, limit=limit, after=after)

    def each(self) -> AsyncGenerator[Job]:
        """All of your team's jobs, newest first."""
        return self._transport.each("/api/jobs", Job)

    async def get(self, job_id: str) -> Job:
        """The job as it stands now."""
        return await self._transport.get(_path(job_id), Job)

    async def delete(self, job_id: str) -> None:
        """Remove a finished job and its files."""
        await self._transport.json(Call("DELETE", _path(job_id)))

    async def approve(self, job_id: str) -> Job:
        """Let a job that waits for approval stand in line. For admins."""
        return Job(await self._transport.json(Call("POST", f"{_path(job_id)}/approve")))

    async def reject(self, job_id: str, reason: str = "") -> Job:
        """End a job that waits for approval. For admins."""
        return Job(await self._transport.json(Call("POST", f"{_path(job_id)}/reject", body={"reason": reason})))

    async def pause(self, job_id: str) -> Job:
        """Save a checkpoint and rest; `resume` goes on from there, `cancel` ends it."""
        return await self._post(job_id, "pause", again=True)

    async def stop(self, job_id: str) -> Job:
        """Save a checkpoint and end; `resume` goes on from there."""
        return await self._post(job_id, "stop", again=True)

    async def cancel(self, job_id: str) -> Job:
        """End for good, without saving."""
        return await self._post(job_id, "cancel", again=True)

    async def resume(self, job_id: str) -> Job:
        """Queue a paused, stopped or failed job again, from its last checkpoint."""
        return await self._post(job_id, "resume", again=False)

    async def logs(self, job_id: str, *, tail_bytes: int = 65_536) -> LogTail:
        """The end of the latest attempt's log."""
        call = Call("GET", f"{_path(job_id)}/logs", {"tail_bytes": tail_bytes})

        async def once() -> LogTail:
            async with self._transport.open(call) as response:
                text = (await response.aread()).decode("utf-8", "replace")
                facts = response.headers
            total = _number(facts.get("x-total-bytes")) or len(text.encode())
            truncated = facts.get("x-truncated") == "true"
            attempt = _number(facts.get("x-attempt"))
            return LogTail({"text": text, "attempt": attempt, "total_bytes": total, "truncated": truncated})

        return await self._transport.tried(once, again=True)

    async def files(self, job_id: str) -> tuple[ModelFile, ...]:
        """What an export made, with sizes and checksums."""
        return await listed(self._transport, f"{_path(job_id)}/files")

    async def download(self, job_id: str, folder: Path, *, on_progress: FileProgress | None = None) -> tuple[Path, ...]:
        """All files of an export into `folder`. Each appears only when whole and checked; a second call goes on."""
        return await fetch_all(self._transport, f"{_path(job_id)}/files", folder, on_progress)

    async def transitions(self, job_id: str) -> tuple[Transition, ...]:
        """Through which states it went, oldest first, and why."""
        return tuple([step async for step in self._transport.each(f"{_path(job_id)}/transitions", Transition, limit=None)])

    async def events(self, job_id: str, *, after: str | None = None) -> tuple[Event, ...]:
        """What has happened so far, in order."""

        async def once() -> tuple[Event, ...]:
            async with self._transport.open(Call("GET", f"{_path(job_id)}/events", {"after": after})) as response:
                items = _json(await response.aread())
            if not isinstance(items, list):
                raise ClientError("What answered is no list of events.", hint="Check LUTHIER_API_URL.")
            return tuple(_event(item) for item in items)

        return await self._transport.tried(once, again=True)

    async def follow(self, job_id: str, *, after: str | None = None) -> AsyncGenerator[Event]:
        """Everything that happened and happens, until the job has ended. A cut connection is taken up where it broke."""
        async with aclosing(self._watch(job_id, after)) as seen:
            async for event in seen:
                if isinstance(event, Event):
                    yield event

    async def wait(self, job_id: str) -> Job:
        """The job, once it has ended."""
        async with aclosing(self._watch(job_id, None)) as seen:
            async for event in seen:
                if isinstance(event, Job):
                    return event
        return await self.get(job_id)

    async def _watch(self, job_id: str, after: str | None) -> AsyncGenerator[Event | Job]:
        """The events, and then the finished job."""
        failures = 0
        while True:
            try:
                async with aclosing(self._messages(job_id, after)) as messages:
                    async for message in messages:
                        failures = 0
                        if message.event == "end":
                            yield Job(_object(message.data))
                            return
                        after = message.id or after
                        yield _event(_object(message.data), message)
                raise Lost("The event stream broke off before the job's end.", hint="Look at the job's state.")
            except LuthierError as error:
                failures += 1
                if failures >= self._transport.retry.follow_attempts or not worth_another(error, again=True):
                    raise
            await self._transport.retry.wait(failures)

    async def _messages(self, job_id: str, after: str | None) -> AsyncGenerator[ServerEvent]:
        headers = {"accept": "text/event-stream", **({"last-event-id": after} if after else {})}
        async with self._transport.open(Call("GET", f"{_path(job_id)}/events", headers=headers, live=True)) as response:
            async for message in server_events(response):
                yield message

    async def _post(self, job_id: str, verb: str, *, again: bool) -> Job:
        return Job(await self._transport.json(Call("POST", f"{_path(job_id)}/{verb}", again=again)))


class Jobs(Face):
    """`client.jobs`."""

    estimate = blocking(AsyncJobs.estimate)
    estimated = blocking(AsyncJobs.estimated)
    submit = blocking(AsyncJobs.submit)
    train = blocking(AsyncJobs.train)
    list = blocking(AsyncJobs.list)
    each = iterating(AsyncJobs.each)
    get = blocking(AsyncJobs.get)
    delete = blocking(AsyncJobs.delete)
    approve = blocking(AsyncJobs.approve)
    pause = blocking(AsyncJobs.pause)
    reject = blocking(AsyncJobs.reject)
    stop = blocking(AsyncJobs.stop)
    cancel = blocking(AsyncJobs.cancel)
    resume = blocking(AsyncJobs.resume)
    logs = blocking(AsyncJobs.logs)
    transitions = blocking(AsyncJobs.transitions)
    files = blocking(AsyncJobs.files)
    download = blocking(AsyncJobs.download)
    events = blocking(AsyncJobs.events)
    follow = iterating(AsyncJobs.follow)
    wait = blocking(AsyncJobs.wait)


def _path(job_id: str) -> str:
    return f"/api/jobs/{quote(job_id, safe='')}"


def _body(spec: Spec) -> Any:
    if isinstance(spec, Mapping):
        return dict(spec)
    if isinstance(spec, Path):
        return _read(spec)
    return spec.model_dump(mode="json", exclude_unset=True)


def _read(path: Path) -> dict[str, Any]:
    from luthier.jobs.yaml12 import read_yaml

    try:
        with path.open("rb") as file:
            data = file.read(65_537)  # one more than `read_yaml` takes
    except OSError as error:
        raise FieldInvalid(
            f"The config cannot be read: {error.strerror}.", hint="Check the path.", code="config_unreadable"
        ) from None
    spec = read_yaml(data)
    if not isinstance(spec, dict):
        raise FieldInvalid(
            "The config is no mapping of fields.", hint="Begin with `base_model: luthier/tiny`.", code="config_shape"
        )
    return spec


def _event(raw: dict[str, Any], message: ServerEvent | None = None) -> Event:
    known = message.id if message and message.id else f"{raw.get('attempt')}-{raw.get('seq')}"
    return Event({"id": known, **raw})


def _json(data: str | bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        raise ClientError("What answered is not our JSON.", hint="Check LUTHIER_API_URL.") from None


def _object(data: str) -> dict[str, Any]:
    value = _json(data)
    if not isinstance(value, dict):
        raise ClientError("What answered is not our JSON.", hint="Check LUTHIER_API_URL.")
    return value


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() else 0
