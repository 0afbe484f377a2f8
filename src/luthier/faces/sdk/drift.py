"""Drift: whether what models are asked is still like what they learned."""

from __future__ import annotations

from urllib.parse import quote

from luthier.faces.sdk.answers import Page
from luthier.faces.sdk.blocking import Face, blocking
from luthier.faces.sdk.drift_answers import DriftStatus, Sampled, Watched
from luthier.faces.sdk.transport import Call, Transport


class AsyncDrift:
    """`client.drift`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def status(self, name: str | None = None) -> DriftStatus:
        """Every version that is watched (of one name): its windows with what was measured, those that drifted first."""
        return await self._transport.get("/api/drift/status", DriftStatus, name=name)

    async def watch(self, name: str, share: float | None) -> Watched:
        """Sample this share of a model's requests from now on; 0: none, and what was kept is removed; None: the setting's."""
        call = Call("PUT", f"/api/drift/models/{quote(name, safe='')}", body={"share": share}, again=True)
        return Watched(await self._transport.json(call))

    async def samples(self, model_id: str, *, limit: int = 20) -> Page[Sampled]:
        """What is kept of a version's requests, newest first."""
        return await self._transport.page(f"/api/drift/samples/{quote(model_id, safe='')}", Sampled, limit=limit)


class Drift(Face):
    """`client.drift`."""

    status = blocking(AsyncDrift.status)
    watch = blocking(AsyncDrift.watch)
    samples = blocking(AsyncDrift.samples)
