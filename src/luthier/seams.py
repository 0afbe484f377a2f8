"""The seams: the few protocols behind which a technology can be swapped. Each has one contract suite in tests/backends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol

Clock = Callable[[], datetime]
"""Now, as an aware UTC datetime. A parameter everywhere, so that tests need no real clock."""


class NotStored(Exception):
    """No object has this name. For callers of `Storage`; faces see the feature's own error."""


class BadName(ValueError):
    """A name that leads out of the storage, by dots or by a symbolic link."""


class Storage(Protocol):
    """Objects under names like `users/<tenant>/jobs/<id>/run.yaml`: the same tree on a folder, GCS or S3.

    A name is relative, `/`-separated, made by the platform and never from what a user typed; a backend refuses `..`,
    absolute names and symbolic links (BadName). Writes are atomic and durable when they return: a reader sees the
    old bytes or the new ones, never a part.
    """

    @property
    def url(self) -> str:
        """Where the root lies, e.g. `file:///srv/luthier`; `<url>/<name>` is what a trainer is given."""
        ...

    def read(self, name: str) -> bytes:
        """All bytes. Raises: NotStored."""
        ...

    def open(self, name: str) -> BinaryIO:
        """A readable, seekable stream on the bytes as they are now; a later write does not change it. Raises: NotStored."""
        ...

    def size(self, name: str) -> int | None:
        """Bytes, or None where nothing is stored."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Create or replace, atomically. Raises: StorageFull."""
        ...

    def place(self, folder: str, files: Mapping[str, bytes]) -> None:
        """Make a new folder with these files in it: all of them are durable when it returns, and nobody may look for them before.
        Cheaper than a `write` for each. Raises: StorageFull, and FileExistsError where one of them is there."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """Create only if absent: True for the one caller that made it, False for all others. Raises: StorageFull."""
        ...

    def append(self, name: str, data: bytes) -> None:
        """Add at the end. Not atomic: readers ignore an unterminated last line. Raises: StorageFull."""
        ...

    def put_file(self, name: str, source: Path) -> None:
        """Store a local file's bytes, atomically (a copy or a hard link; the source stays). Raises: StorageFull."""
        ...

    def fetch_file(self, name: str, target: Path) -> None:
        """Write the bytes to a local file (a hard link where that is possible). Raises: NotStored."""
        ...

    def names(self, prefix: str) -> Iterator[str]:
        """Every stored name below the folder `prefix`, sorted."""
        ...

    def delete(self, prefix: str) -> None:
        """Remove the object `prefix` and everything below it; fine if nothing is there."""
        ...


class NotFetched(Exception):
    """A file could not be fetched, or may not be; the words go on where they stand: `the server answered with status 404`."""


@dataclass(frozen=True)
class Fetched:
    """A file of another machine that is about to come."""

    size: int | None
    """Bytes, where the other side says it before the first of them."""
    chunks: Iterator[bytes]
    """Read once. Raises: NotFetched, also where more or fewer bytes come than were said."""


class Fetcher(Protocol):
    """Brings files from other machines."""

    def fetch(self, url: str, *, max_bytes: int, redirects: int = 0) -> AbstractContextManager[Fetched]:
        """A file, for as long as it is read. What may be reached is the backend's own rule; at most `redirects` are followed,
        each under that rule. Raises: NotFetched, before the first byte where it can be known then, also on the way."""
        ...


@dataclass(frozen=True)
class Launch:
    """What an executor needs to start one trainer process."""

    job_urls: tuple[str, ...]
    log_path: str
    """Storage name of the file that takes the process's output."""
    bases_url: str
    """Where base models are cached, shared by all jobs."""
    label: str
    """For people: shows up in process lists and dashboards."""
    processes: int = 1
    """That make the steps of the job together, through torchrun, each on a GPU of its own."""


class Executor(Protocol):
    """Starts the one command `python -m luthier.training <job-url> ...` somewhere, and tells whether it still runs."""

    def start(self, launch: Launch) -> str:
        """Start and return a handle at once. Raises: Unavailable."""
        ...

    def poll(self, handle: str) -> int | None:
        """None while it runs, else its exit status (negative = the signal). An unknown handle has ended: -9."""
        ...

    def terminate(self, handle: str) -> None:
        """Ask it to save and exit (SIGTERM)."""
        ...

    def kill(self, handle: str) -> None:
        """End it and everything it started, now. Returns when it is gone."""
        ...

    def tend(self) -> None:
        """Called every tick: see to whatever it keeps ready for launches to come. What was launched does not notice."""
        ...

    def close(self) -> None:
        """Let go of everything: what still runs saves and exits by itself (its pipe closes)."""
        ...


@dataclass(frozen=True)
class ServedModel:
    """A model as an engine loads it."""

    id: str
    """`model_...`, or a base id for the bare base."""
    base_folder: Path
    adapter_folder: Path | None


@dataclass(frozen=True)
class Generation:
    """One request to an engine, already rendered to tokens."""

    prompt_ids: tuple[int, ...]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    """Tell how likely each token was, and how likely so many others were."""
    json_schema: str | None = None
    """The answer is JSON of this schema, given as text; `{}` is any JSON."""


@dataclass(frozen=True)
class Likely:
    """How likely a token was, in nats, and the likeliest at its place."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """A part of an answer. The last one carries `finish_reason` (`stop` or `length`) and may have no tokens."""

    token_ids: tuple[int, ...]
    finish_reason: str | None = None
    likely: tuple[Likely, ...] = ()
    """Of these tokens, where it was asked for."""


class NotEmbedded(Exception):
    """Texts could not be made into vectors, e.g. because weights are broken. For callers of `Embedder`."""


class Embedder(Protocol):
    """Makes texts into vectors of length 1: what means the same lies near."""

    @property
    def name(self) -> str:
        """Vectors of embedders of different names are not compared."""
        ...

    @property
    def dimensions(self) -> int:
        """Numbers of a vector."""
        ...

    def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """One vector for each text, in its order. Raises: NotEmbedded."""
        ...

    def tokens(self, texts: Sequence[str]) -> int:
        """How many tokens `embed` reads of them. Raises: NotEmbedded."""
        ...


@dataclass(frozen=True)
class ServedClassifier:
    """A classifier as an engine loads it."""

    id: str
    folder: Path
    base_folder: Path | None
    """None for one that stands alone."""


@dataclass(frozen=True)
class Classification:
    """One question to a classifier: an image from 0 to 1, a text, or, for one on a base, the tokens of a text."""

    image: tuple[float, ...] | None = None
    text: str | None = None
    prompt_ids: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Classified:
    """How likely each class is. What the model did not give as a number is NaN."""

    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


class InferenceEngine(Protocol):
    """A client of an engine process (OpenAI wire format). Starts the process when it is first needed."""

    def generate(self, model: ServedModel, request: Generation) -> Iterator[Piece]:
        """Stream the answer. Closing the iterator stops the generation. Raises: EngineUnavailable, TooMany."""
        ...

    def classify(self, model: ServedClassifier, questions: Sequence[Classification]) -> Sequence[Classified]:
        """Ask a classifier all of these at once; an answer for each, in their order.

        Raises: EngineUnavailable, TooMany, ArtifactCorrupt; FieldInvalid where it does not read one of them.
        """
        ...

    def score(self, model: ServedModel, prompt_ids: Sequence[int], answers: Sequence[Sequence[int]]) -> Sequence[float]:
        """Natural-log probability of each whole answer to the prompt. Raises: EngineUnavailable, TooMany, FieldInvalid."""
        ...

    def unload(self, folder: Path) -> None:
        """Let go of what was loaded from this folder, and of nothing else; what is not loaded is fine.

        Starts nothing, comes back within seconds, and never raises: what an engine keeps all the same gives way to others later.
        """
        ...

    def state(self) -> Mapping[str, Any]:
        """For /health and doctor: `{"state": "idle" | "starting" | "ready" | "failed", ...}`."""
        ...

    def close(self) -> None:
        """End the process."""
        ...


class Cache(Protocol):
    """Answers that need not be computed again. May forget any of them at any time."""

    @property
    def remote(self) -> bool:
        """Whether it is asked over a network, and so not from an event loop."""
        ...

    def get(self, key: str) -> bytes | None:
        """What was put under this key, if it is still there."""
        ...

    def put(self, key: str, value: bytes) -> None:
        """Keep it for a while; whatever was there before is replaced. Never raises: what cannot be kept is forgotten."""
        ...


class NotSendable(ValueError):
    """Nothing is sent to this address; the words go on where they stand: `only https is used`."""


@dataclass(frozen=True)
class News:
    """One event, as it is told."""

    id: str
    """Whoever hears it twice knows it by this."""
    kind: str
    at: datetime
    data: Mapping[str, Any]
    sent_at: datetime


@dataclass(frozen=True)
class Reply:
    """What became of one attempt to tell it."""

    status: int | None = None
    """As the other side gave it; None where there was no answer."""
    error: str | None = None
    """Why it counts as not told, in one word: `timeout`, `blocked_address`, ..."""
    retry_after_s: float | None = None

    @property
    def told(self) -> bool:
        """Whether the other side has it."""
        return self.error is None and self.status is not None and 200 <= self.status < 300


class Notifier(Protocol):
    """Tells one event to one address, through one channel."""

    def check(self, address: str) -> None:
        """Whether anything may be sent there, by its form; asks nobody. Raises: NotSendable."""
        ...

    def send(self, news: News, address: str, secrets: Sequence[str]) -> Reply:
        """Tell it once, and come back within about ten seconds, whatever the other side does. Never raises for that.

        `secrets` sign it, each for itself: two while one replaces the other.
        """
        ...


@dataclass(frozen=True)
class TrackedRun:
    """A job as a tracker keeps it."""

    key: str
    """The job's id: a tracker keeps one run of it, however often it is told."""
    experiment: str
    name: str
    status: str
    """`RUNNING`, `FINISHED`, `FAILED` or `KILLED`."""
    params: Mapping[str, str]
    metrics: Sequence[tuple[str, float, int]]
    """Name, value and step."""
    tags: Mapping[str, str]
    artifacts: Mapping[str, str]
    """Texts by their names."""
    started_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True)
class TrackedVersion:
    """A model version as a tracker keeps it."""

    key: str
    """Its id."""
    name: str
    number: int
    run_id: str
    """Of the run that made it."""
    source: str
    """Where its files lie."""
    stage: str
    tags: Mapping[str, str]
    description: str


class TrackerUnavailable(Exception):
    """The tracker did not answer, or not with what was asked. What it was told may have arrived or not: tell it again."""


class Tracker(Protocol):
    """Keeps a copy of runs and versions where others look at them. Told the same twice, it holds it once.

    A call ends within a minute, and each answer of a server is waited for 10 seconds at most. Raises: TrackerUnavailable.
    """

    def put_run(self, run: TrackedRun, run_id: str | None) -> str:
        """Make the run as it is now, and give back its id. run_id: what an earlier call gave, if there was one."""
        ...

    def put_version(self, version: TrackedVersion) -> None:
        """Make the version as it is now; in Production it has the alias `production`, which no other of its name then has."""
        ...

    def drop_version(self, name: str, key: str) -> None:
        """Take a deleted version out. Fine if there is none."""
        ...


class NotDeployed(Exception):
    """A target did not take a model, and is as it was before; the words go on where they stand: `its folder is missing`."""


@dataclass(frozen=True)
class Deployable:
    """A model as one file, about to be served from somewhere else."""

    name: str
    """What people call it, and whoever serves it too."""
    file_name: str
    """A plain name that ends in `.gguf`."""
    about: Mapping[str, str]
    """What its entry says beside: version, sha256, team."""
    stream: BinaryIO
    """The bytes, from the first one on."""
    size: int


@dataclass(frozen=True)
class Done:
    """Where in the target it lies now."""

    path: str
    commit: str | None = None
    pushed: bool = False


class DeployTarget(Protocol):
    """Somewhere that models are served from. Asked by one thread at a time or many: it keeps order itself."""

    def deploy(self, model: Deployable) -> Done:
        """Put it there under its name, in place of what had this name; the same once more changes nothing.

        Raises: NotDeployed, also where the name belongs to another team.
        """
        ...
