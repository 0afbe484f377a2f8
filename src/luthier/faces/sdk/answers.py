"""What the server answered: its JSON, frozen, with attributes. Fields that this version does not know are kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Generic, TypeVar


class Answer(Mapping[str, Any]):
    """One JSON object: `job.state`, `job["state"]` and `job.get("state")` are the same. `raw` is the dict itself."""

    _parts: ClassVar[Mapping[str, type[Answer]]] = {}
    raw: dict[str, Any]

    def __init__(self, raw: Mapping[str, Any]) -> None:
        object.__setattr__(self, "raw", dict(raw))

    def __getitem__(self, name: str) -> Any:
        return _seen(self.raw[name], self._parts.get(name, Answer))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "raw" not in self.__dict__:
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"This {type(self).__name__} has no {name!r}; it has: {', '.join(self.raw)}.") from None

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"A {type(self).__name__} is what the server answered: it cannot be changed.")

    def __iter__(self) -> Iterator[str]:
        return iter(self.raw)

    def __len__(self) -> int:
        return len(self.raw)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.raw!r})"

    def __eq__(self, other: object) -> bool:
        return self.raw == other.raw if isinstance(other, Answer) else self.raw == other

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # like the dict that it holds

    def __reduce__(self) -> tuple[type[Answer], tuple[dict[str, Any]]]:
        return type(self), (self.raw,)


A = TypeVar("A", bound=Answer)


class Page(Generic[A]):
    """One page of a list, newest first. `next_cursor` is the `after` of the next page; None on the last."""

    def __init__(self, data: tuple[A, ...], next_cursor: str | None) -> None:
        self.data = data
        self.next_cursor = next_cursor

    def __iter__(self) -> Iterator[A]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)


class Dataset(Answer):
    """One immutable version of a named dataset."""

    id: str
    name: str
    version: int
    state: str
    bytes: int
    sha256: str | None
    rows: int | None
    tokens: int | None
    created_at: str
    report: Answer | None


class Estimate(Answer):
    """What a run would take."""

    rows: int
    tokens: int
    steps: int
    seconds: int
    basis: str
    hardware: str
    hourly_usd: str
    cost_usd: str
    memory: Answer
    fits: bool
    advice: tuple[str, ...]
    calibrated_by: int
    earlier_error: Answer | None
    fit_test: Answer | None
    measured: Answer | None


class Job(Answer):
    """One run and how far it is."""

    id: str
    name: str | None
    state: str
    base_model: str
    dataset: str | None
    model: str | None
    hardware: str
    attempt: int
    phase: str | None
    step: int
    total_steps: int | None
    loss: float | None
    eval_loss: float | None
    tokens_per_second: float | None
    eta_seconds: float | None
    cost_usd: str
    model_id: str | None
    error: Answer | None
    created_at: str
    finished_at: str | None
    spec: Answer

    @property
    def finished(self) -> bool:
        """Whether it will not move by itself any more."""
        return self.state in {"succeeded", "failed", "paused", "stopped", "cancelled"}


class Submitted(Answer):
    """A queued run, and what it is expected to take."""

    _parts: ClassVar[Mapping[str, type[Answer]]] = {"job": Job, "estimate": Estimate}
    job: Job
    estimate: Estimate
    replayed: bool

    @property
    def id(self) -> str:
        """The job's id."""
        return self.job.id


class LogTail(Answer):
    """The end of a job's log."""

    text: str
    attempt: int
    total_bytes: int
    truncated: bool


class Transition(Answer):
    """One step of a job from state to state."""

    attempt: int
    from_state: str | None
    to_state: str
    at: str
    reason: str


class Event(Answer):
    """One thing that happened to a job. `id` is `<attempt>-<seq>`."""

    id: str
    attempt: int
    seq: int
    at: str
    kind: str
    level: str
    step: int
    message: str
    data: Answer


class Comparison(Answer):
    """A version beside its base and today's Production."""

    model: Answer
    gate: Answer
    running: tuple[str, ...]


class GateSettings(Answer):
    """What a team asks of a version before it goes to Production; `own` names what of it the team decided."""

    metric: str
    margin: float
    second_person: bool
    own: tuple[str, ...]


class Run(Answer):
    """A job as an experiment tracker sees it."""

    run_id: str | None
    job_id: str
    name: str
    status: str
    params: Answer
    metrics: Answer


class Model(Answer):
    """One version of a model in the registry."""

    id: str
    name: str
    version: str
    stage: str
    base_model: str
    job_id: str
    dataset: str
    bytes: int
    card: Answer
    created_at: str


class Recommendation(Answer):
    """A model, how like the question it is, and the words that both have."""

    _parts: ClassVar[Mapping[str, type[Answer]]] = {"model": Model}

    model: Model
    score: float
    why: tuple[str, ...]


class Recommended(Answer):
    """Models, best first; `by` says what compared them."""

    _parts: ClassVar[Mapping[str, type[Answer]]] = {"data": Recommendation}

    by: str
    data: tuple[Recommendation, ...]
    waiting: int


class ModelFile(Answer):
    """One file of a model."""

    name: str
    bytes: int
    sha256: str


class Base(Answer):
    """An allowed base model."""

    id: str
    revision: str
    parameters: int
    context: int
    license: str
    ready: bool


class Price(Answer):
    """A row of the price book."""

    hardware: str
    description: str
    hourly_usd: str
    kind: str
    memory_bytes: int | None
    assumed_flops: float


class Budget(Answer):
    """What may be spent in a month."""

    of: str
    user_id: str | None
    period: str
    limit_usd: str
    spent_usd: str
    held_usd: str
    left_usd: str


class Charge(Answer):
    """An entry of the ledger."""

    id: str
    job_id: str
    period: str
    hardware: str
    seconds: float
    amount_usd: str
    at: str


class AuditEntry(Answer):
    """A row of the audit log."""

    id: str
    at: str
    actor: str
    action: str
    resources: list[str]
    outcome: str
    count: int


class QuotaStanding(Answer):
    """One quota of a team: no `limit` is as much as there is."""

    quota: str
    limit: int | None
    used: int


class UsageReport(Answer):
    """What this month has cost so far."""

    period: str
    cost_usd: str
    refunded_usd: str
    held_usd: str
    by_hardware: Answer
    tokens: tuple[Answer, ...]
    """What models answered, by model, kind and user."""


class JobCost(Answer):
    """What one job has cost so far."""

    job_id: str
    hardware: str
    elapsed_seconds: float
    cost_usd: str
    held_usd: str
    settled: bool


class Endpoint(Answer):
    """Where a team is told of its events. `secret` is there once: in the answer that made a webhook."""

    id: str
    channel: str
    url: str
    kinds: tuple[str, ...]
    enabled: bool
    disabled_reason: str | None
    secret: str | None


class Delivery(Answer):
    """One event on its way to one endpoint."""

    id: str
    event_id: str
    kind: str
    state: str
    attempts: int
    last_status: int | None
    last_error: str | None
    created_at: str
    next_at: str | None


class Hook(Answer):
    """A run that others may start. `secret` is there once: in the answer that made it."""

    id: str
    name: str
    path: str
    run: Answer
    overrides: tuple[str, ...]
    spend_cap_usd: str | None
    created_at: str
    secret: str


class Me(Answer):
    """Whose key this is."""

    user_id: str
    tenant_id: str
    email: str
    role: str


class Completion(Answer):
    """An answer of `chat`, in OpenAI's shape."""

    id: str
    model: str
    choices: tuple[Answer, ...]
    usage: Answer

    @property
    def text(self) -> str:
        """What the model said."""
        return str(self.choices[0].message.get("content") or "")


class Prediction(Answer):
    """The class of an image or a text; `probabilities` are in the order of `classes`."""

    prediction: int | str
    confidence: float
    probabilities: tuple[float, ...]
    classes: tuple[str, ...]
    model_name: str
    model_version: str
    model_stage: str


class Key(Answer):
    """An API key, without its secret."""

    id: str
    name: str
    prefix: str
    user_id: str
    scopes: tuple[str, ...] | None
    audience: str
    spend_cap_usd: str | None
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    last_used_at: str | None


class NewKey(Answer):
    """A key, and this once its secret."""

    _parts: ClassVar[Mapping[str, type[Answer]]] = {"key": Key}
    secret: str
    key: Key


class Team(Answer):
    """A team, and what the caller is in it."""

    id: str
    name: str
    role: str
    created_at: str


class Member(Answer):
    """Somebody's place in a team."""

    user_id: str
    email: str
    role: str


class Invitation(Answer):
    """An offer to join a team."""

    id: str
    email: str
    role: str
    created_by: str
    created_at: str
    expires_at: str


class NewInvitation(Answer):
    """An invitation, and this once its token."""

    _parts: ClassVar[Mapping[str, type[Answer]]] = {"invitation": Invitation}
    token: str
    invitation: Invitation


class Chunk(Answer):
    """A piece of a streamed answer, in OpenAI's shape."""

    id: str
    model: str
    choices: tuple[Answer, ...]

    @property
    def text(self) -> str:
        """What the model said since the chunk before."""
        return "".join(str(choice.delta.get("content") or "") for choice in self.choices)


def _seen(value: Any, kind: type[Answer]) -> Any:
    if isinstance(value, dict):
        return kind(value)
    if isinstance(value, list):
        return tuple(_seen(item, kind) for item in value)
    return value
