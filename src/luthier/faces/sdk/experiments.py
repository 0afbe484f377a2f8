"""Runs as an experiment tracker sees them."""

from __future__ import annotations

from urllib.parse import quote

from luthier.faces.sdk.answers import Run
from luthier.faces.sdk.blocking import Face, blocking
from luthier.faces.sdk.transport import Transport


class AsyncExperiments:
    """`client.experiments`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def run(self, run_id: str) -> Run:
        """Parameters, metrics and artifacts of a run, by MLflow's id or the job's, and whether MLflow has them."""
        return await self._transport.get(f"/api/experiments/mlflow/{quote(run_id, safe='')}", Run)


class Experiments(Face):
    """`client.experiments`."""

    run = blocking(AsyncExperiments.run)
