"""Allowed base models: which there are, and where their files lie."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from luthier.bases import rules
from luthier.bases.types import TINY, Base, BaseShape
from luthier.errors import BaseUnavailable, ModelNotAllowed, SetupError
from luthier.values import BaseSource

_PACKAGE = Path(__file__).parent
_SHIPPED = _PACKAGE / "tiny"


class Bases:
    """The allow-list: the catalog that ships, and what an admin added or pinned in `LUTHIER_BASES`."""

    def __init__(self, cache: Path, pins: str = "", aliases: str = "") -> None:
        """aliases: more names of allowed bases. Raises: SetupError."""
        self.cache = cache
        self._pins = rules.pins(pins)
        self._aliases = rules.aliases(aliases)
        self._seen: dict[tuple[str, bool], Base] = {}
        for base_id in self._aliases.values():
            if base_id not in self._allowed:
                raise SetupError(
                    f"LUTHIER_MODEL_ALIASES: {base_id} is not an allowed base.", hint=rules.refusal(base_id, self._allowed).hint
                )

    def list(self) -> list[Base]:
        """All allowed bases whose sizes are known; one that an admin added appears when it was fetched."""
        return [base for base_id in self._allowed if (base := self._base(base_id)) is not None]

    def get(self, base_id: str) -> Base:
        """The base of this id or alias. Nothing of `base_id` is ever used as a path or an address.

        Raises: ModelNotAllowed for all that is not on the list; BaseUnavailable for one that must be fetched first.
        """
        known = self._known(base_id)
        base = self._base(known)
        if base is None:
            raise BaseUnavailable(
                "This base model was allowed by an admin, but is not on this machine yet.",
                hint=f"Fetch it with `luthier bases fetch {known}`, or use {TINY}.",
                param="base_model",
            )
        return base

    def source(self, base: Base) -> BaseSource:
        """What a trainer needs to get this base by itself."""
        return self._source(base.id)

    def fetchable(self, base_id: str) -> BaseSource:
        """The source of an allowed base, fetched or not. Raises: ModelNotAllowed."""
        return self._source(self._known(base_id))

    def folder(self, base: Base) -> Path:
        """Where the files of this revision lie, or will lie after the fetch."""
        return self.cache / rules.folder_name(base.id) / base.revision

    def ready(self, base: Base) -> bool:
        """Whether the files lie on this machine now."""
        return _complete(self.folder(base))

    def commit(self, base: Base) -> str | None:
        """The commit whose files lie here, where the revision is a name like `main`; None before the fetch."""
        note = self.folder(base).with_name(f"{base.revision}.commit")
        return note.read_text("ascii").strip() if note.is_file() else None

    def tokenizer_folder(self, base: Base) -> Path | None:
        """Where tokenizer and chat template lie; always known for the shipped base, else None until the fetch."""
        if base.id == TINY:
            return _SHIPPED
        return self.folder(base) if self.ready(base) else None

    @cached_property
    def _allowed(self) -> dict[str, Mapping[str, Any]]:
        entries = json.loads((_PACKAGE / "catalog.json").read_text("utf-8"))
        allowed: dict[str, Mapping[str, Any]] = {entry["id"]: entry for entry in entries}
        for hub_id, commit in self._pins.items():
            allowed[hub_id] = {"license": "see its page", **allowed.get(hub_id, {}), "id": hub_id, "revision": commit}
        return allowed

    def _known(self, asked: str) -> str:
        if asked in self._allowed:
            return asked
        for base_id, entry in self._allowed.items():
            if asked in entry.get("aliases", ()):
                return base_id
        if asked in self._aliases:
            return self._aliases[asked]
        raise self._refusal(asked)

    def _refusal(self, asked: str) -> ModelNotAllowed:
        return rules.refusal(asked, self._allowed)

    def _base(self, base_id: str) -> Base | None:
        ready = _complete(self._folder(base_id))
        known = self._seen.get((base_id, ready))
        if known is None and (known := self._read(base_id, ready=ready)) is not None:
            # Kept, for each submit asks: a finished fetch is renamed into place, so what is there does not change.
            self._seen[base_id, ready] = known
        return known

    def _read(self, base_id: str, *, ready: bool) -> Base | None:
        entry = self._allowed[base_id]
        shape = self._shape(base_id, entry)
        if shape is None:
            return None
        about = {name: value for name, value in entry.items() if name != "shape"}
        lists = {name: tuple(about.get(name, ())) for name in ("languages", "aliases")}
        lists["aliases"] += tuple(name for name, meant in self._aliases.items() if meant == base_id)
        counted = {"parameters": rules.parameter_count(shape), "ready": ready}
        return Base.model_validate({**shape.model_dump(), **about, **lists, **counted})

    def _shape(self, base_id: str, entry: Mapping[str, Any]) -> BaseShape | None:
        if "shape" in entry:
            return BaseShape(**entry["shape"])
        config = (_SHIPPED if base_id == TINY else self._folder(base_id)) / "config.json"
        return rules.shape_of(json.loads(config.read_text("utf-8"))) if config.is_file() else None

    def _source(self, base_id: str) -> BaseSource:
        url = "luthier:tiny" if base_id == TINY else f"hub:{base_id}"
        return BaseSource(id=base_id, revision=self._allowed[base_id]["revision"], url=url)

    def _folder(self, base_id: str) -> Path:
        return self.cache / rules.folder_name(base_id) / self._allowed[base_id]["revision"]


def _complete(folder: Path) -> bool:
    # A fetch renames its finished folder into place, so what is there is whole.
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
