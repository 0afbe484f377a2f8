"""What a tracker is told of a job: decided here, from values alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from luthier.experiments.types import VersionFacts
from luthier.jobs.types import Job, JobState
from luthier.seams import TrackedRun, TrackedVersion

RESULTS = ("metrics.json", "evaluation.json", "checks.json", "config.yaml", "export.json", "fit.json")
"""Files of a job's results that are kept as artifacts."""
BACKOFF_S = (5.0, 30.0, 120.0, 300.0)
"""Until the next try after the first one that failed, the second, ...; the last is repeated: MLflow may be down for days."""
_STATUS = {JobState.SUCCEEDED: "FINISHED", JobState.FAILED: "FAILED", JobState.STOPPED: "KILLED", JobState.CANCELLED: "KILLED"}
_LEFT_OUT = frozenset({"sources", "metadata"})


def backoff_s(attempts: int) -> float:
    """Seconds to wait after this many failures in a row.

    >>> [backoff_s(attempts) for attempts in (1, 2, 99)]
    [5.0, 30.0, 300.0]
    """
    return BACKOFF_S[min(attempts, len(BACKOFF_S)) - 1]


_ACCURACY, _LOSS = ("accuracy", "tuned_accuracy"), ("tuned_loss", "eval_loss")


def best_of(runs: Mapping[str, Mapping[str, float]]) -> str | None:
    """Of runs and what was measured on held-out rows: that of the highest accuracy where one has it, else of the lowest loss.

    >>> best_of({"a": {"accuracy": 0.9}, "b": {"accuracy": 0.96}, "c": {"eval_loss": 0.1}})
    'b'
    >>> best_of({"a": {"eval_loss": 2.0}, "b": {"eval_loss": 1.0}, "c": {}}), best_of({"c": {}})
    ('b', None)
    """
    accuracy = {run: number for run, told in runs.items() if (number := _first(told, _ACCURACY)) is not None}
    if accuracy:
        return max(accuracy, key=accuracy.__getitem__)
    losses = {run: number for run, told in runs.items() if (number := _first(told, _LOSS)) is not None}
    return min(losses, key=losses.__getitem__, default=None)


def _first(told: Mapping[str, float], names: tuple[str, ...]) -> float | None:
    return next((told[name] for name in names if name in told), None)


def experiment_of(tenant_id: str) -> str:
    """One experiment a team: runs of one are compared, those of others are not seen."""
    return f"luthier/{tenant_id}"


def run_of(
    tenant_id: str, job: Job, results: Mapping[str, str], numbers: Mapping[str, Any], made: VersionFacts | None
) -> TrackedRun:
    """A job as a run. results: its small files as texts; numbers: its `metrics.json`."""
    params = dict(_flat("", {name: value for name, value in job.spec.model_dump(mode="json").items() if name not in _LEFT_OUT}))
    told = {"job_id": job.id, "kind": job.kind, "tenant_id": tenant_id, "state": job.state.value, "cost_usd": job.cost_usd}
    tags = {f"luthier.{name}": str(value) for name, value in told.items()}
    if job.error is not None:
        tags["luthier.error"] = job.error.code
    if made is not None:
        tags["luthier.model"] = f"{made.name}@{made.number}"
    tags |= {name: value for name, value in job.spec.metadata.items() if not name.startswith(("luthier.", "mlflow."))}
    return TrackedRun(
        key=job.id,
        experiment=experiment_of(tenant_id),
        name=job.name or job.id,
        status=_STATUS.get(job.state, "RUNNING"),
        params=params,
        metrics=[*_curve(numbers), *_last(numbers, made)],
        tags={**tags, "mlflow.user": job.created_by},
        artifacts={**results, **({"card.json": made.card} if made is not None else {})},
        started_at=job.started_at or job.created_at,
        ended_at=job.finished_at if job.finished else None,
    )


def version_of(tenant_id: str, facts: VersionFacts, run_id: str) -> TrackedVersion:
    """A model version, made by this run."""
    return TrackedVersion(
        key=facts.model_id,
        name=version_name(tenant_id, facts),
        number=facts.number,
        run_id=run_id,
        source=facts.source,
        stage=facts.stage,
        tags=facts.tags,
        description=facts.description,
    )


def version_name(tenant_id: str, facts: VersionFacts) -> str:
    """Two teams may use the same name; a tracker has one list."""
    return f"{tenant_id}.{facts.name}"


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    """`{"train": {"epochs": 3}}` as `train.epochs`; what is not set is left out."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(f"{prefix}.{name}" if prefix else str(name), inner)
    elif value is not None:
        yield prefix, str(value)


def _curve(numbers: Mapping[str, Any]) -> Iterator[tuple[str, float, int]]:
    for point in numbers.get("loss_curve") or ():
        yield "loss", float(point[1]), int(point[0])


def _last(numbers: Mapping[str, Any], made: VersionFacts | None) -> Iterator[tuple[str, float, int]]:
    """What stands at the end, at its last step."""
    step = int(numbers.get("steps") or 0)
    own = {name: value for name, value in numbers.items() if isinstance(value, int | float) and not isinstance(value, bool)}
    for name, value in {**own, **(made.metrics if made is not None else {})}.items():
        yield name, float(value), step
