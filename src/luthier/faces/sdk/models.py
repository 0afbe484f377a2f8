"""Models of the registry: list, download with checksums, stage."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from urllib.parse import quote

from luthier import ids
from luthier.errors import NotExported, NotFound
from luthier.faces.sdk.answers import (
    Comparison,
    GateSettings,
    Model,
    ModelFile,
    Page,
    Recommended,
    Submitted,
)
from luthier.faces.sdk.blocking import Face, blocking, iterating
from luthier.faces.sdk.files import outgoing
from luthier.faces.sdk.folders import FileProgress, fetch_all, listed, packed_folder
from luthier.faces.sdk.jobs import AsyncJobs
from luthier.faces.sdk.transfer_answers import Deployed, DeployTarget, Exported, Link
from luthier.faces.sdk.transport import Call, Transport


class AsyncModels:
    """`client.models`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def list(
        self, *, name: str | None = None, stage: str | None = None, limit: int = 50, after: str | None = None
    ) -> Page[Model]:
        """One page of your team's models, newest first; only those of a name or stage where one is given."""
        return await self._transport.page("/api/models", Model, name=name, stage=stage, limit=limit, after=after)

    def each(self, *, name: str | None = None, stage: str | None = None) -> AsyncGenerator[Model]:
        """All of your team's models, newest first; only those of a name or stage where one is given."""
        return self._transport.each("/api/models", Model, name=name, stage=stage)

    async def get(self, model: str) -> Model:
        """One version, with its card. `model` is an id, `name@3`, or a name: then the version in Production."""
        if ids.is_id(model, ids.MODEL):
            return await self._transport.get(_path(model), Model)
        name, at, version = model.rpartition("@")
        numbered = bool(at) and version.isascii() and version.isdigit()
        found = self.each(name=name) if numbered else self.each(name=model, stage="Production")
        async with aclosing(found) as candidates:
            async for candidate in candidates:
                if not numbered or candidate.version == version:
                    return candidate
        raise NotFound("model", hint="`name@3` is a version; a name alone means its version in Production. List them first.")

    async def search(  # noqa: PLR0913  # as the route's own filters
        self,
        text: str | None = None,
        *,
        base_model: str | None = None,
        language: str | None = None,
        task: str | None = None,
        tags: Sequence[str] = (),
        limit: int = 50,
        after: str | None = None,
    ) -> Page[Model]:
        """One page of your team's models whose cards say all of this, newest first. `text`: words that all stand on the card."""
        wanted = {"q": text, "base_model": base_model, "language": language, "task": task, "tags": ",".join(tags) or None}
        return await self._transport.page("/api/models/search", Model, **wanted, limit=limit, after=after)

    async def recommend(
        self, text: str | None = None, *, embedding: Sequence[float] | None = None, limit: int = 5
    ) -> Recommended:
        """The models that are most like a plain sentence, or a vector of the server's embedder. `by` says what compared them."""
        asked = {"text": text, "embedding": None if embedding is None else list(embedding)}
        body = {"limit": limit, **{name: value for name, value in asked.items() if value is not None}}
        return Recommended(await self._transport.json(Call("POST", "/api/models/recommend", body=body, again=True)))

    async def delete(self, model: str) -> None:
        """Remove a version and its files. Raises: InUse while it is in Production, needed, or answering."""
        await self._transport.json(Call("DELETE", await self._path(model)))

    async def transition(self, model: str, stage: str) -> Model:
        """Move a version to `None`, `Staging`, `Production` or `Archived`.

        Raises: EvaluationNeeded with the numbers, or with the id of the run that measures them in `details["job_id"]`;
        ApprovalNeeded where a second person must do the same.
        """
        body = {"model": model, "stage": stage}
        return Model(await self._transport.json(Call("POST", "/api/models/transition", body=body, again=True)))

    async def rollback(self, name: str) -> Model:
        """Put back into Production what was there before. Raises: WrongState where there is nothing to go back to."""
        return Model(await self._transport.json(Call("POST", "/api/models/rollback", body={"model_name": name})))

    async def gate(self) -> GateSettings:
        """What your team asks of a version before it goes to Production."""
        return await self._transport.get("/api/gate", GateSettings)

    async def set_gate(
        self, *, metric: str | None = None, margin: float | None = None, second_person: bool | None = None
    ) -> GateSettings:
        """Replace what your team decided; None is what the platform's settings say. For admins."""
        body = {"metric": metric, "margin": margin, "second_person": second_person}
        return GateSettings(await self._transport.json(Call("PUT", "/api/gate", body=body, again=True)))

    async def compare(self, model: str) -> Comparison:
        """A version beside its base and today's Production, and whether it may go there."""
        return await self._transport.get(f"{await self._path(model)}/compare", Comparison)

    async def files(self, model: str) -> tuple[ModelFile, ...]:
        """Its files, with sizes and checksums. Raises: ClientError where the server gives a name that is no plain file name."""
        return await listed(self._transport, f"{await self._path(model)}/files")

    async def exports(self, model: str) -> tuple[Exported, ...]:
        """Its finished exports, newest first, with what was proven of each."""
        each = self._transport.each(f"{await self._path(model)}/exports", Exported, limit=None)
        return tuple([exported async for exported in each])

    async def exported(self, model: str, form: str, precision: str | None = None) -> Exported:
        """Its newest export of this format, and of this precision where one is given. Raises: NotExported."""
        for found in await self.exports(model):
            if found.format == form and precision in {None, found.precision}:
                return found
        stored = f" as {precision}" if precision else ""
        raise NotExported(
            f"This version was not exported in the format {form}{stored} yet.", hint="Make it first: `model export`."
        )

    async def download(
        self,
        model: str,
        folder: Path,
        *,
        form: str | None = None,
        precision: str | None = None,
        on_progress: FileProgress | None = None,
    ) -> tuple[Path, ...]:
        """All files into `folder`. Each appears under its name only when whole and checked; a second call goes on.

        The files are the version's own, or with `form` those of its newest export of that format. Raises: NotExported.
        """
        if form is None:
            return await fetch_all(self._transport, f"{await self._path(model)}/files", folder, on_progress)
        found = await self.exported(model, form, precision)
        return await AsyncJobs(self._transport).download(found.job_id, folder, on_progress=on_progress)

    async def targets(self) -> tuple[DeployTarget, ...]:
        """Where your team can deploy models to."""
        return tuple([target async for target in self._transport.each("/api/models/targets", DeployTarget, limit=None)])

    async def deploy(
        self, model: str, target: str = "webhook", *, stage: str = "Production", precision: str | None = None
    ) -> Deployed:
        """Put a version's newest GGUF where it is served from, and tell endpoints. Again with the same file changes nothing.

        Raises: NotInProduction without `stage="any"`, NotExported, DeployRefused.
        """
        body = {"target": target, "stage": stage, **({} if precision is None else {"precision": precision})}
        return Deployed(await self._transport.json(Call("POST", f"{await self._path(model)}/deploy", body=body, again=True)))

    async def link(self, model: str, *, precision: str | None = None, seconds: int = 3600) -> Link:
        """A link to a version's newest GGUF that needs no key and opens for a while. Raises: NotExported."""
        body = {"seconds": seconds, **({} if precision is None else {"precision": precision})}
        return Link(await self._transport.json(Call("POST", f"{await self._path(model)}/links", body=body, again=True)))

    async def import_adapter(self, folder: Path, name: str, *, base_model: str | None = None) -> Model:
        """Make an adapter that was trained elsewhere a version: the files of `folder`, or one `.gguf`. It is in no stage, and
        was measured nowhere. Raises: Invalid (`unsafe_format`, `config_key`, `adapter_invalid`, ...), ClientError.
        """
        with tempfile.TemporaryDirectory() as scratch:
            packed = await asyncio.to_thread(packed_folder, folder, Path(scratch, "adapter.tar"))
            bytes_out = await outgoing(packed, None)
            headers = {"content-type": "application/x-tar", "content-length": str(bytes_out.size)}
            query = {"name": name, "base_model": base_model}
            call = Call("POST", "/api/models/import", query, headers=headers, content=bytes_out.chunks, work_s=600)
            return Model(await self._transport.once(call))

    async def evaluate(
        self, model: str, *, dataset: str | None = None, against: str | None = None, **fields: object
    ) -> Submitted:
        """Queue a measurement of a model on a dataset, by default the validation dataset that it was trained with.

        `against`: another model on the same base, measured on the same rows. `fields`: more of the run, e.g. `hardware`. What
        was measured stands on the model's card afterwards: `card.evaluations[0]`.
        """
        named = {"dataset": dataset, "against": against}
        given = {name: value for name, value in named.items() if value is not None}
        return await AsyncJobs(self._transport).submit({"kind": "evaluate", "model": model, **given, **fields})

    async def export(self, model: str, form: str = "merged", *, precision: str = "base", **fields: object) -> Submitted:
        """Queue an export of a model: `merged` into its base, as an `adapter`, as `gguf`, or as `gguf-adapter`.

        `client.jobs.download`, and later `client.models.download` with `form`, fetch what it made.
        """
        export = {"format": form, "precision": precision}
        return await AsyncJobs(self._transport).submit({"kind": "export", "model": model, "export": export, **fields})

    async def _id(self, model: str) -> str:
        return model if ids.is_id(model, ids.MODEL) else (await self.get(model)).id

    async def _path(self, model: str) -> str:
        return _path(await self._id(model))


class Models(Face):
    """`client.models`."""

    list = blocking(AsyncModels.list)
    each = iterating(AsyncModels.each)
    get = blocking(AsyncModels.get)
    search = blocking(AsyncModels.search)
    recommend = blocking(AsyncModels.recommend)
    delete = blocking(AsyncModels.delete)
    transition = blocking(AsyncModels.transition)
    rollback = blocking(AsyncModels.rollback)
    gate = blocking(AsyncModels.gate)
    set_gate = blocking(AsyncModels.set_gate)
    compare = blocking(AsyncModels.compare)
    files = blocking(AsyncModels.files)
    exports = blocking(AsyncModels.exports)
    exported = blocking(AsyncModels.exported)
    download = blocking(AsyncModels.download)
    targets = blocking(AsyncModels.targets)
    deploy = blocking(AsyncModels.deploy)
    link = blocking(AsyncModels.link)
    import_adapter = blocking(AsyncModels.import_adapter)
    evaluate = blocking(AsyncModels.evaluate)
    export = blocking(AsyncModels.export)


def _path(model: str) -> str:
    return f"/api/models/{quote(model, safe='')}"
