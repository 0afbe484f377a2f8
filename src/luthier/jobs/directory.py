"""The job directory: all that a trainer gets and all that it leaves. The same tree on a folder, GCS or S3.

```text
run.yaml       the spec, written once                              by the platform
control.json   what the platform wants of the trainer              by the supervisor
status.json    projection of row and attempt, with seed fields     by the supervisor
attempts/<n>/  owner.json status.json job.log events/ checkpoints/ results/     by the trainer of attempt n alone
```
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from luthier.seams import NotStored, Storage

EXIT_FENCED = 75
"""Another attempt owns this job now: nothing more may be written."""
EXIT_SETUP = 78
"""The job directory cannot be used as it is."""

_NOT_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""What JSON may hold as it is and a YAML file may not."""

AttemptState = Literal["starting", "running", "saving", "succeeded", "failed", "stopped", "preempted"]
LAST_WORDS = frozenset[AttemptState]({"succeeded", "failed", "stopped", "preempted"})
FailureCode = Literal[
    "out_of_memory",
    "diverged",
    "bad_data",
    "no_effect",
    "never_stops",
    "crashed",
    "storage",
    "device",
    "budget",
    "spec_tampered",
    "base_unavailable",
    "artifact_corrupt",
    "export_differs",
    "rendering_differs",
]
WORTH_RETRYING = frozenset[FailureCode]({"crashed", "storage", "device"})
"""Failures that may pass by themselves. Bad data stays bad, and what did not fit will not fit again."""


class Record(BaseModel):
    """A JSON file of the directory. Readers ignore fields that a newer writer added."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class CheckpointRef(Record):
    """A complete checkpoint of an earlier attempt. sha256 is that of its manifest's bytes."""

    attempt: int
    step: int
    sha256: str


class TokenFolder(Record):
    """Where a trainer keeps tokenised rows for the next one of the same tenant, and how much of them."""

    url: str
    most_bytes: int


class Control(Record):
    """`control.json`: what the platform wants. An attempt other than the reader's own means: fenced, exit 75."""

    attempt: int
    want: Literal["run", "pause", "stop"] = "run"
    resume_from: CheckpointRef | None = None
    spec_sha256: str
    members: tuple[str, ...] = ()
    tokens: TokenFolder | None = None


class Failure(Record):
    """Why an attempt failed, and what to do about it."""

    code: FailureCode
    message: str
    hint: str


class AttemptStatus(Record):
    """`attempts/<n>/status.json`: where this attempt stands. Rewritten at most once a second."""

    attempt: int
    state: AttemptState = "starting"
    phase: str = Field(default="starting", description="For people: fetching base, tokenising, training, evaluating, saving, ...")
    step: int = 0
    total_steps: int | None = None
    epoch: float = 0.0
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None
    tokens_seen: int = 0
    tokens_per_second: float | None = None
    eta_seconds: float | None = None
    phase_done: float | None = Field(default=None, description="Share of the current phase that is done, 0 to 1.")
    device: str | None = None
    peak_memory_bytes: int | None = None
    last_checkpoint_step: int | None = None
    resumed_from: CheckpointRef | None = None
    updated_at: datetime | None = None
    failure: Failure | None = None


class Event(Record):
    """One thing that happened. Its id on the wire is `<attempt>-<seq>`."""

    attempt: int
    seq: int
    at: datetime
    kind: Literal["state", "phase", "step", "eval", "checkpoint", "warning", "error"]
    level: Literal["info", "warning", "error"] = "info"
    step: int = 0
    message: str = ""
    data: dict[str, Any] = {}

    @property
    def id(self) -> str:
        return f"{self.attempt}-{self.seq}"


class ManifestFile(Record):
    """One file of a checkpoint."""

    bytes: int
    sha256: str


class Manifest(Record):
    """`COMPLETE.json`, written last: a checkpoint without one that verifies does not count."""

    step: int
    files: dict[str, ManifestFile]


class JobDirectory:
    """Names and records of one job directory. `root` is its storage name: `users/<tenant>/jobs/<job>`."""

    def __init__(self, storage: Storage, root: str) -> None:
        self.storage = storage
        self.root = root.rstrip("/")

    @property
    def url(self) -> str:
        return f"{self.storage.url}/{self.root}" if self.root else self.storage.url

    def name(self, *parts: str) -> str:
        """The storage name of a file of this directory."""
        return "/".join([self.root, *parts] if self.root else parts)

    # -- platform's side -------------------------------------------------------------------------------------------

    def write_spec(self, spec: dict[str, Any]) -> str:
        """Write `run.yaml` once and return the sha256 of its bytes."""
        data = spec_file(spec)
        self.storage.write(self.name("run.yaml"), data)
        return hashlib.sha256(data).hexdigest()

    def make(self, spec: bytes, status: bytes) -> None:
        """The directory of a new job, with its `run.yaml` and its `status.json`: on disk when this returns."""
        self.storage.place(self.root, {"run.yaml": spec, "status.json": status})

    def read_spec(self) -> bytes:
        """The bytes of `run.yaml`. Raises: NotStored."""
        return self.storage.read(self.name("run.yaml"))

    def write_control(self, control: Control) -> None:
        self.storage.write(self.name("control.json"), control.model_dump_json().encode())

    def control(self) -> Control | None:
        """What the platform wants, or None in a run by hand."""
        data = self._read("control.json")
        return None if data is None else Control.model_validate_json(data)

    # -- both sides ------------------------------------------------------------------------------------------------

    def attempt(self, number: int) -> AttemptDirectory:
        return AttemptDirectory(self, number)

    def attempts(self) -> list[int]:
        """Numbers of all attempts that left something, ascending."""
        prefix = self.name("attempts") + "/"
        parts = {name[len(prefix) :].split("/", 1)[0] for name in self.storage.names(self.name("attempts"))}
        return sorted(int(part) for part in parts if part.isdecimal())

    def newest_checkpoint(self) -> CheckpointRef | None:
        """The complete checkpoint with the highest step of all attempts (the latest attempt among equals)."""
        found = [(ref.step, ref.attempt, ref) for number in self.attempts() for ref in self.attempt(number).checkpoints()]
        return max(found, key=lambda item: item[:2])[2] if found else None

    def checkpoints(self) -> list[CheckpointRef]:
        """Every complete checkpoint that is kept, newest first."""
        return [ref for number in reversed(self.attempts()) for ref in reversed(list(self.attempt(number).checkpoints()))]

    def events(self, *, after: tuple[int, int] | None = None) -> Iterator[Event]:
        """The history in order, without what an older attempt did beyond the step that the next one resumed from.

        `after` is (attempt, seq) of the last event that the reader has; what lies before it is not even read.
        """
        since = after or (0, -1)
        numbers = [number for number in self.attempts() if number >= since[0]]
        for number, last in zip(numbers, self._last_steps(numbers), strict=False):  # no attempts: no pairs
            for event in self.attempt(number).events(after=since[1] if number == since[0] else -1):
                if last is None or event.step <= last or event.kind == "state":
                    yield event

    def _last_steps(self, numbers: list[int]) -> list[int | None]:
        """Of each attempt: the last step that later ones left standing, None where that is all of them."""
        last: int | None = None
        found: list[int | None] = [None]
        for number in reversed(numbers[1:]):
            status = self.attempt(number).status()
            # Until an attempt has said where it resumed from (it may have been killed before that), it supersedes nothing.
            if status is not None:
                resumed = status.resumed_from.step if status.resumed_from else 0
                last = resumed if last is None else min(last, resumed)
            found.append(last)
        return found[::-1]

    def _read(self, *parts: str) -> bytes | None:
        try:
            return self.storage.read(self.name(*parts))
        except NotStored:
            return None


class AttemptDirectory:
    """`attempts/<n>/`: written by the trainer that owns attempt n, by nobody else."""

    def __init__(self, job: JobDirectory, number: int) -> None:
        self.job = job
        self.number = number
        self.storage = job.storage

    def name(self, *parts: str) -> str:
        return self.job.name("attempts", str(self.number), *parts)

    def own(self, owner: dict[str, Any]) -> bool:
        """Become the one trainer of this attempt; False for whoever comes second."""
        return self.storage.create(self.name("owner.json"), json.dumps(owner).encode())

    def write_status(self, status: AttemptStatus) -> None:
        self.storage.write(self.name("status.json"), status.model_dump_json().encode())

    def status(self) -> AttemptStatus | None:
        """What the trainer last said, or None where it has said nothing (readable) yet."""
        try:
            return AttemptStatus.model_validate_json(self.storage.read(self.name("status.json")))
        except (NotStored, ValidationError):
            return None

    def events(self, *, after: int = -1) -> Iterator[Event]:
        """All events of this attempt in order, from after this sequence number on. Chunks are named by their first one."""
        chunks = [name for name in self.storage.names(self.name("events")) if name.endswith(".jsonl")]
        for name, following in zip(chunks, [*chunks[1:], None], strict=False):  # no chunks: no pairs
            if following is None or _first_seq(following) > after + 1:
                yield from (event for event in _events_of(self.storage.read(name)) if event.seq > after)

    def checkpoints(self) -> Iterator[CheckpointRef]:
        """Every checkpoint of this attempt whose manifest and file sizes verify, ascending by step."""
        for name in self.storage.names(self.name("checkpoints")):
            if name.endswith("/COMPLETE.json"):
                ref = self._verified(name)
                if ref is not None:
                    yield ref

    def _verified(self, manifest_name: str) -> CheckpointRef | None:
        folder = manifest_name.rsplit("/", 1)[0]
        try:
            data = self.storage.read(manifest_name)
            manifest = Manifest.model_validate_json(data)
        except (NotStored, ValidationError):  # not there any more: its trainer keeps only the last ones
            return None
        if any(self.storage.size(f"{folder}/{file}") != facts.bytes for file, facts in manifest.files.items()):
            return None
        return CheckpointRef(attempt=self.number, step=manifest.step, sha256=hashlib.sha256(data).hexdigest())


def spec_file(spec: dict[str, Any]) -> bytes:
    """The bytes of `run.yaml`: JSON is YAML, but for a few characters."""
    text = orjson.dumps(spec, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()
    return _NOT_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode()


def checkpoint_folder(step: int) -> str:
    """Folder of a checkpoint below `checkpoints/`; padded, so that names sort by step.

    >>> checkpoint_folder(200)
    'step-00000200'
    """
    return f"step-{step:08d}"


def _first_seq(chunk: str) -> int:
    digits = chunk.rsplit("/", 1)[1].removesuffix(".jsonl")
    return int(digits) if digits.isdecimal() else 0


def _events_of(data: bytes) -> Iterator[Event]:
    for line in data.split(b"\n")[:-1]:  # an unterminated last line is still being written
        try:
            yield Event.model_validate_json(line)
        except ValidationError:
            continue
