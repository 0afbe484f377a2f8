"""Base models that runs may start from."""

from __future__ import annotations

from luthier.faces.sdk.answers import Base
from luthier.faces.sdk.blocking import Face, blocking
from luthier.faces.sdk.transport import Transport


class AsyncBases:
    """`client.bases`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def list(self) -> tuple[Base, ...]:
        """All allowed bases, and whether each lies on the server already."""
        return tuple([base async for base in self._transport.each("/api/bases", Base, limit=None)])


class Bases(Face):
    """`client.bases`."""

    list = blocking(AsyncBases.list)
