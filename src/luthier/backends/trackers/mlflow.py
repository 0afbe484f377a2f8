"""MLflow: runs with parameters, metrics and artifacts; model versions with aliases and tags, as its stages are on their way out.

Only the slim client is used, imported once there is something to tell: that takes a second. With `sqlite:///` it is itself the
store, and no server is needed.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Generator, Mapping
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from luthier.errors import SetupError
from luthier.seams import TrackedRun, TrackedVersion, TrackerUnavailable

_ANSWER_S = 10
_KEY = "luthier.job_id"
_MODEL = "luthier.model_id"
_PRODUCTION = "production"
_MOST_PARAMS, _MOST_METRICS = 100, 500
"""In one request: MLflow refuses more than 100 parameters and 1000 metrics."""
_MOST_CHARACTERS = 5000
"""Of a tag or a parameter."""
_LOGIN = re.compile(r"(?<=://)[^/\s]*@")
_ANSWERED = "Response body"
"""What MLflow's client begins the server's own words with."""
_MOST_REASON = 300
_ABSENT = frozenset({"RESOURCE_DOES_NOT_EXIST"})


class MlflowTracker:
    """One server, or one SQLite file. `artifacts`: where files lie that no server takes."""

    def __init__(self, url: str, artifacts: Path) -> None:
        """Raises: SetupError where the client is not installed."""
        if find_spec("mlflow") is None:
            raise SetupError("LUTHIER_MLFLOW_URL needs MLflow's client.", hint="pip install 'luthier[mlflow]'")
        self._url = url
        self._artifacts = artifacts
        self._made: Any = None

    def put_run(self, run: TrackedRun, run_id: str | None) -> str:
        with _answers():
            client = self._client()
            found = self._found(run, run_id)
            kept = found.info.run_id if found is not None else self._created(run)
            self._told(kept, run, found)
            for name, text in run.artifacts.items():
                client.log_text(kept, text, name)
            client.set_terminated(kept, run.status, _ms(run.ended_at)) if run.ended_at else client.update_run(kept, run.status)
            return str(kept)

    def put_version(self, version: TrackedVersion) -> None:
        with _answers():
            client, name = self._client(), registered(version.name)
            self._registered(name)
            found = self._version(name, version.key) or self._made_version(name, version)
            tags = {_MODEL: version.key, "stage": version.stage, "luthier.version": str(version.number), **version.tags}
            for tag, value in tags.items():
                if found.tags.get(tag) != value:
                    client.set_model_version_tag(name, str(found.version), tag, value[:_MOST_CHARACTERS])
            self._alias(name, int(found.version), serves=version.stage == "Production")

    def drop_version(self, name: str, key: str) -> None:
        with _answers():
            found = self._version(registered(name), key)
            if found is not None:
                self._client().delete_model_version(registered(name), str(found.version))

    # -- runs ------------------------------------------------------------------------------------------------------

    def _found(self, run: TrackedRun, run_id: str | None) -> Any:
        """The run that there is already: by its id, else by the job's, which stands on it."""
        client = self._client()
        if run_id is not None:
            found = _or_none(lambda: client.get_run(run_id))
            if found is not None and found.info.lifecycle_stage == "active":
                return found
        experiment = client.get_experiment_by_name(run.experiment)
        if experiment is None:
            return None
        found = client.search_runs([experiment.experiment_id], f"tags.`{_KEY}` = '{run.key}'", max_results=1)
        return found[0] if found else None

    def _created(self, run: TrackedRun) -> str:
        client = self._client()
        tags = {_KEY: run.key}
        made = client.create_run(self._experiment(run.experiment), _ms(run.started_at), tags=tags, run_name=run.name)
        return str(made.info.run_id)

    def _experiment(self, name: str) -> str:
        client = self._client()
        found = client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage != "active":
                client.restore_experiment(found.experiment_id)
            return str(found.experiment_id)
        served = self._url.startswith("http")
        where = None if served else (self._artifacts.resolve() / name.replace("/", "-")).as_uri()
        return str(client.create_experiment(name, artifact_location=where))

    def _told(self, run_id: str, run: TrackedRun, before: Any) -> None:
        """Parameters, metrics and tags in few requests. A parameter never changes; a metric is not told twice."""
        from mlflow.entities import Metric, Param, RunTag

        known: Mapping[str, str] = before.data.params if before is not None else {}
        params = [Param(name, value[:_MOST_CHARACTERS]) for name, value in run.params.items() if name not in known]
        seen: Mapping[str, float] = before.data.metrics if before is not None else {}
        last = {name: value for name, value, _ in run.metrics}
        at = int((run.ended_at or run.started_at).timestamp() * 1000)
        fresh = [Metric(name, value, at, step) for name, value, step in run.metrics if seen.get(name) != last[name]]
        tags = [RunTag(name, value[:_MOST_CHARACTERS]) for name, value in run.tags.items()]
        client = self._client()
        client.log_batch(run_id, params=params[:_MOST_PARAMS], metrics=fresh[:_MOST_METRICS], tags=tags)
        for start in range(_MOST_PARAMS, len(params), _MOST_PARAMS):
            client.log_batch(run_id, params=params[start : start + _MOST_PARAMS])
        for start in range(_MOST_METRICS, len(fresh), _MOST_METRICS):
            client.log_batch(run_id, metrics=fresh[start : start + _MOST_METRICS])

    # -- versions --------------------------------------------------------------------------------------------------

    def _registered(self, name: str) -> None:
        client = self._client()
        if _or_none(lambda: client.get_registered_model(name)) is None:
            client.create_registered_model(name)

    def _version(self, name: str, key: str) -> Any:
        found = self._client().search_model_versions(f"name = {_quoted(name)}", max_results=1000)
        return next((each for each in found if each.tags.get(_MODEL) == key), None)

    def _made_version(self, name: str, version: TrackedVersion) -> Any:
        """Under the same number. MLflow counts by itself and never gives a number twice: those that it must pass over, because
        they were deleted before it heard of them, are made and deleted."""
        client, tags = self._client(), {_MODEL: version.key}
        while True:
            made = client.create_model_version(
                name, version.source, version.run_id, tags=tags, description=version.description[:_MOST_CHARACTERS]
            )
            if int(made.version) >= version.number:
                return made
            client.delete_model_version(name, str(made.version))

    def _alias(self, name: str, number: int, *, serves: bool) -> None:
        client = self._client()
        aliased = client.get_registered_model(name).aliases.get(_PRODUCTION)
        holds = aliased is not None and int(aliased) == number
        if serves and not holds:
            client.set_registered_model_alias(name, _PRODUCTION, str(number))
        elif holds and not serves:
            client.delete_registered_model_alias(name, _PRODUCTION)

    def _client(self) -> Any:
        if self._made is None:
            from mlflow import MlflowClient
            from mlflow.environment_variables import (
                MLFLOW_DISABLE_TELEMETRY,
                MLFLOW_HTTP_REQUEST_MAX_RETRIES,
                MLFLOW_HTTP_REQUEST_TIMEOUT,
            )

            MLFLOW_DISABLE_TELEMETRY.set(True)
            # It is told again later: a try that waits for minutes would hold up what comes after it.
            MLFLOW_HTTP_REQUEST_TIMEOUT.set(_ANSWER_S)
            MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(0)
            logging.getLogger("alembic").setLevel(logging.WARNING)
            self._made = MlflowClient(tracking_uri=self._url, registry_uri=self._url)
        return self._made


def registered(name: str) -> str:
    """A name as MLflow takes it.

    >>> registered("team_1.a/b:c")
    'team_1.a_b_c'
    """
    return name.replace("/", "_").replace(":", "_")


@contextlib.contextmanager
def _answers() -> Generator[None]:
    """Raises: TrackerUnavailable for whatever MLflow, its HTTP client or its database raise."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError, OSError) as error:
        raise TrackerUnavailable(f"{type(error).__name__}: {_reason(str(error))}") from error


def _reason(said: str) -> str:
    """What an error says, for logs and for people: without the login in an address, or an answer that may repeat it.

    >>> _reason("API request to http://ops:pa55@mlflow:5000/api failed: 500. Response body: 'pa55 is wrong'")
    'API request to http://mlflow:5000/api failed: 500.'
    """
    return _LOGIN.sub("", said.partition(_ANSWERED)[0]).strip()[:_MOST_REASON]


def _or_none(call: Any) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return call()
    except MlflowException as error:
        if error.error_code in _ABSENT:
            return None
        raise


def _quoted(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


def _ms(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp() * 1000)
