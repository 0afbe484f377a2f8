"""`Client` and `AsyncClient`: the same nouns and verbs over HTTP, with and without `await`."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Self

from luthier.faces.sdk.access import find_access
from luthier.faces.sdk.answers import Answer, Me, Prediction
from luthier.faces.sdk.audit import AsyncAudit, Audit
from luthier.faces.sdk.bases import AsyncBases, Bases
from luthier.faces.sdk.billing import AsyncBilling, Billing
from luthier.faces.sdk.blocking import LoopThread
from luthier.faces.sdk.chat import AsyncChat, Chat
from luthier.faces.sdk.datasets import AsyncDatasets, Datasets
from luthier.faces.sdk.drift import AsyncDrift, Drift
from luthier.faces.sdk.experiments import AsyncExperiments, Experiments
from luthier.faces.sdk.hooks import AsyncHooks, Hooks
from luthier.faces.sdk.jobs import AsyncJobs, Jobs
from luthier.faces.sdk.keys import AsyncKeys, Keys
from luthier.faces.sdk.logins import AsyncLogins, Logins
from luthier.faces.sdk.models import AsyncModels, Models
from luthier.faces.sdk.quotas import AsyncQuotas, Quotas
from luthier.faces.sdk.teams import AsyncTeams, Teams
from luthier.faces.sdk.transport import Call, Retry, Transport
from luthier.faces.sdk.webhooks import AsyncWebhooks, Webhooks

_WORK_S = 600.0
"""A first question waits until its model is loaded."""


class AsyncClient:
    """A server, for `async` code: `async with AsyncClient() as client: await client.jobs.list()`.

    Without arguments the address comes from LUTHIER_API_URL and the key from LUTHIER_API_KEY; without one the login that
    `tune login` has kept counts, or, for a server on this machine, `<data>/admin.key`. Nothing is read or sent before the
    first request.
    """

    def __init__(
        self, *, base_url: str | None = None, api_key: str | None = None, timeout_s: float = 60.0, retry: Retry | None = None
    ) -> None:
        self._transport = Transport(lambda: find_access(base_url, api_key), timeout_s=timeout_s, retry=retry)
        self.datasets = AsyncDatasets(self._transport)
        self.jobs = AsyncJobs(self._transport)
        self.models = AsyncModels(self._transport)
        self.bases = AsyncBases(self._transport)
        self.billing = AsyncBilling(self._transport)
        self.audit = AsyncAudit(self._transport)
        self.quotas = AsyncQuotas(self._transport)
        self.chat = AsyncChat(self._transport)
        self.logins = AsyncLogins(self._transport)
        self.keys = AsyncKeys(self._transport)
        self.teams = AsyncTeams(self._transport)
        self.experiments = AsyncExperiments(self._transport)
        self.hooks = AsyncHooks(self._transport)
        self.drift = AsyncDrift(self._transport)
        self.webhooks = AsyncWebhooks(self._transport)

    async def me(self) -> Me:
        """Whose key this is."""
        return await self._transport.get("/api/me", Me)

    async def health(self) -> Answer:
        """How the server is, part by part. Needs no key; a server that is not well is an answer, not an error."""
        return Answer(await self._transport.json(Call("GET", "/health", again=True, keyless=True, answers=frozenset({503}))))

    async def predict(
        self, *, image: Sequence[float] | None = None, text: str | None = None, model: str = "MNISTClassifier"
    ) -> Prediction:
        """To which class an image (pixels from 0 to 1, row by row) or a text belongs, by the version of `model` in Production.

        Raises: NoModel where there is none.
        """
        asked = {"image": None if image is None else list(image), "text": text}
        body = {"model_name": model, **{name: value for name, value in asked.items() if value is not None}}
        return Prediction(await self._transport.json(Call("POST", "/api/predict", body=body, again=True, work_s=_WORK_S)))

    async def predict_picture(
        self, picture: bytes | str | PathLike[str], *, model: str = "MNISTClassifier", digit: bool = False
    ) -> Prediction:
        """To which class a PNG or a JPEG belongs, given as its bytes or its path. It is scaled to the greys that the model reads.

        `digit`: it is made as MNIST's are, light on dark and centred by its mass. Raises: NoModel where there is none in
        Production; Invalid, TooLarge for what is no picture, or too large a one; OSError.
        """
        data = picture if isinstance(picture, bytes) else await asyncio.to_thread(Path(picture).read_bytes)
        query, body = {"model_name": model, "digit": str(digit).lower()}, {"picture": base64.b64encode(data).decode()}
        call = Call("POST", "/api/predict/picture", query, body=body, again=True, work_s=_WORK_S)
        return Prediction(await self._transport.json(call))

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()


class Client:
    """A server: `with Client() as client: client.jobs.list()`. The verbs are those of `AsyncClient`, without `await`."""

    def __init__(
        self, *, base_url: str | None = None, api_key: str | None = None, timeout_s: float = 60.0, retry: Retry | None = None
    ) -> None:
        self._inner = AsyncClient(base_url=base_url, api_key=api_key, timeout_s=timeout_s, retry=retry)
        self._loop = LoopThread(self._inner.close)
        self.datasets = Datasets(self._inner.datasets, self._loop)
        self.jobs = Jobs(self._inner.jobs, self._loop)
        self.models = Models(self._inner.models, self._loop)
        self.bases = Bases(self._inner.bases, self._loop)
        self.billing = Billing(self._inner.billing, self._loop)
        self.audit = Audit(self._inner.audit, self._loop)
        self.quotas = Quotas(self._inner.quotas, self._loop)
        self.chat = Chat(self._inner.chat, self._loop)
        self.logins = Logins(self._inner.logins, self._loop)
        self.keys = Keys(self._inner.keys, self._loop)
        self.teams = Teams(self._inner.teams, self._loop)
        self.experiments = Experiments(self._inner.experiments, self._loop)
        self.hooks = Hooks(self._inner.hooks, self._loop)
        self.drift = Drift(self._inner.drift, self._loop)
        self.webhooks = Webhooks(self._inner.webhooks, self._loop)

    def me(self) -> Me:
        """Whose key this is."""
        return self._loop.run(self._inner.me)

    def health(self) -> Answer:
        """How the server is, part by part. Needs no key; a server that is not well is an answer, not an error."""
        return self._loop.run(self._inner.health)

    def predict(
        self, *, image: Sequence[float] | None = None, text: str | None = None, model: str = "MNISTClassifier"
    ) -> Prediction:
        """To which class an image (pixels from 0 to 1, row by row) or a text belongs, by the version of `model` in Production.

        Raises: NoModel where there is none.
        """
        return self._loop.run(partial(self._inner.predict, image=image, text=text, model=model))

    def predict_picture(
        self, picture: bytes | str | PathLike[str], *, model: str = "MNISTClassifier", digit: bool = False
    ) -> Prediction:
        """To which class a PNG or a JPEG belongs, given as its bytes or its path. It is scaled to the greys that the model reads.

        `digit`: it is made as MNIST's are, light on dark and centred by its mass. Raises: NoModel where there is none in
        Production; Invalid, TooLarge for what is no picture, or too large a one; OSError.
        """
        return self._loop.run(partial(self._inner.predict_picture, picture, model=model, digit=digit))

    def close(self) -> None:
        """Close all connections and end the thread behind this. A second call does nothing."""
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
