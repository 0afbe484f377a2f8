"""A model's files: taken over from a job's results, verified when they are read, bundled for a download."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from luthier.errors import ArtifactCorrupt
from luthier.jobs.artifacts import corrupt, hashed, opened
from luthier.registry import rules
from luthier.registry.bundles import ONE_FILE, TAR, Bundle, Download, Seals, one_file, tar
from luthier.registry.copies import Copies
from luthier.registry.markdown import markdown
from luthier.registry.types import StoredModel
from luthier.seams import NotStored, Storage
from luthier.values import ModelFile

MOST_CACHED_BYTES = 16 * 2**30
"""Of adapters on which engines load: a few hundred of some ten million weights."""
_AGAIN = "Train it again from its job, or restore the data folder from a backup."


def root_of(tenant_id: str, model_id: str) -> str:
    """Storage name of a model's folder."""
    return f"users/{tenant_id}/models/{model_id}"


def card_name(model_id: str) -> str:
    """Storage name of a model's card."""
    return f"model_registry/{model_id}.json"


class ModelFiles:
    """The folders of all models in one storage, and local copies of them, from which engines load."""

    def __init__(
        self,
        storage: Storage,
        cache: Path,
        *,
        most_cached_bytes: int = MOST_CACHED_BYTES,
        unload: Callable[[Path], None] = lambda _: None,
    ) -> None:
        """cache: the folder of the copies. unload: tells an engine to let go of what it loaded from one of them."""
        self._storage = storage
        self.copies = Copies(cache, storage, most_cached_bytes)
        self._unload = unload
        self._seals = Seals()

    def results(self, folder: str, name: str) -> dict[str, Any]:
        """A JSON file of a job's results, `{}` where there is none. Raises: ArtifactCorrupt."""
        try:
            found = json.loads(self._storage.read(f"{folder}/{name}"))
        except NotStored:
            return {}
        except ValueError:
            raise ArtifactCorrupt(f"The job's {name} cannot be read.", hint="Train again.") from None
        return found if isinstance(found, dict) else {}

    def take(self, final_model: str, root: str, method: str) -> tuple[ModelFile, ...]:
        """Copy an adapter, or a classifier, into a model's `weights/`; safe to repeat.

        Raises: ArtifactCorrupt where it is not complete.
        """
        names = {name.rpartition("/")[2]: name for name in self._storage.names(final_model)}
        missing = rules.missing_files(method, {short: self._storage.size(name) or 0 for short, name in names.items()})
        if missing:
            raise ArtifactCorrupt(f"The job's results hold no {' and no '.join(missing)}.", hint="Train again.")
        taken: list[ModelFile] = []
        with self.copies.scratch("taking") as scratch:
            for short, name in sorted(names.items()):
                local = Path(scratch, short)
                self._storage.fetch_file(name, local)
                with local.open("rb") as stream:
                    digest, size = hashed(stream)
                self._storage.put_file(f"{root}/weights/{short}", local)
                taken.append(ModelFile(name=short, bytes=size, sha256=digest))
        return tuple(taken)

    def write(self, stored: StoredModel, config: dict[str, Any]) -> None:
        """Write `config.json`, `README.md`, `metadata.json` and the card. Metadata last: it is what makes the folder a model."""
        root = root_of(stored.tenant_id, stored.id)
        card = {**stored.card.model_dump(mode="json"), "stage": stored.stage}
        self._storage.write(card_name(stored.id), _json(card))
        self._storage.write(f"{root}/README.md", markdown(stored.card, stored.stage).encode())
        if config:
            self._storage.write(f"{root}/config.json", _json(config))
        self._storage.write(f"{root}/metadata.json", _json(stored.model_dump(mode="json")))

    def url(self, root: str) -> str:
        """Where the files of a model lie, for a trainer."""
        return f"{self._storage.url}/{root}/weights"

    def found(self) -> Iterator[StoredModel]:
        """Every model whose folder is complete. A `metadata.json` that names another folder than its own does not count."""
        for name in self._storage.names("users"):
            parts = name.split("/")
            if len(parts) == 5 and parts[2] == "models" and parts[4] == "metadata.json":
                try:
                    stored = StoredModel.model_validate_json(self._storage.read(name))
                except (NotStored, ValueError):
                    continue
                if (stored.tenant_id, stored.id) == (parts[1], parts[3]) and self._complete(stored):
                    yield stored

    def opened(self, root: str, file: ModelFile) -> BinaryIO:
        """One file at its first byte, after all of it was compared with its checksum. Raises: ArtifactCorrupt."""
        return self._download(file.name, ONE_FILE, one_file(file, partial(self._unread, f"{root}/weights"))).stream

    def archive(self, folder: str, name: str, files: Sequence[ModelFile]) -> Download:
        """All files of the storage's `folder` as one tar, below `name/`; verified, and open before this returns.

        Raises: ArtifactCorrupt.
        """
        return self._download(f"{name}.tar", TAR, tar(name, files, partial(self._unread, folder)))

    def single(self, folder: str, name: str, file: ModelFile) -> Download:
        """One file of the storage's `folder` under another name; verified, and open before this returns.

        Raises: ArtifactCorrupt.
        """
        return self._download(name, ONE_FILE, one_file(file, partial(self._unread, folder)))

    def _download(self, name: str, media_type: str, bundle: Bundle) -> Download:
        with ExitStack() as opening:
            opening.enter_context(bundle)
            sha256 = self._seals.sealed(bundle, partial(corrupt, how="has changed", hint=_AGAIN))
            opening.pop_all()
        return Download(name, media_type, bundle.size, sha256, cast(BinaryIO, bundle))

    def _unread(self, folder: str, file: ModelFile) -> BinaryIO:
        return opened(self._storage, folder, file, _AGAIN)

    def local(self, root: str, model_id: str, files: Sequence[ModelFile]) -> Path:
        """A local folder with a model's verified files; made once. Raises: ArtifactCorrupt."""
        return self.fetched(f"{root}/weights", model_id, files)

    def fetched(self, stored: str, key: str, files: Sequence[ModelFile]) -> Path:
        """A local folder, named `key`, with verified files of the folder `stored`; made once. Raises: ArtifactCorrupt."""
        return self.copies.fetched(stored, key, files, _AGAIN)

    def remove(self, tenant_id: str, model_id: str) -> None:
        """Remove folder, card and local copy, also out of the engine's memory; fine if they are gone."""
        self._storage.delete(root_of(tenant_id, model_id))
        self._storage.delete(card_name(model_id))
        self.copies.remove(model_id)
        self._unload(self.copies.at(model_id))

    def _complete(self, stored: StoredModel) -> bool:
        root = root_of(stored.tenant_id, stored.id)
        return all(self._storage.size(f"{root}/weights/{file.name}") == file.bytes for file in stored.files)


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
