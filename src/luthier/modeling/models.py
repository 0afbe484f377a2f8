"""Which bases and adapters an engine process holds: one base for all adapters that stand on it, the oldest leave first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch

from luthier.errors import ModelNotAllowed, NotFound
from luthier.modeling.classifiers import on_base, saving
from luthier.modeling.classifiers.on_base import OnBase
from luthier.modeling.classifiers.saving import Classifier
from luthier.modeling.load import Device, LoadedBase, pick_device
from luthier.modeling.lora import Adapter
from luthier.modeling.passes import Answering, Loader, Passes
from luthier.modeling.torch_loader import TorchLoader

T = TypeVar("T")
_MEMORY_SHARE = 0.6
"""Of the device's memory, for the weights of bases; the rest is for caches, activations and others."""


@dataclass(frozen=True)
class Bounds:
    """How much stays loaded."""

    bases: int = 2
    adapters: int = 16
    """For each base, and as many classifiers."""
    classifiers: int = 16
    """That stand alone."""


@dataclass
class _Shelf:
    """A base and what stands on it, by model name; None is the bare base."""

    base: Answering
    adapters: OrderedDict[str, Any] = field(default_factory=OrderedDict[str, Any])
    classifiers: OrderedDict[Path, OnBase] = field(default_factory=OrderedDict[Path, OnBase])


class Models:
    """Not for two threads at once: the thread that computes owns it."""

    def __init__(self, device: Device = "auto", bounds: Bounds | None = None, loader: Loader | None = None) -> None:
        """loader: torch on that device, unless another is given."""
        self._device: Device = device
        self._loader: Loader = loader or TorchLoader(device)
        self._bounds = bounds or Bounds()
        self._shelves: OrderedDict[Path, _Shelf] = OrderedDict()
        self._sources: dict[str, tuple[Path, Path | None]] = {}
        self._classifiers: OrderedDict[Path, Classifier] = OrderedDict()
        self.listing: tuple[tuple[str, str | None], ...] = ()
        """Names that can be asked, each with the bare base it stands on if that has a name. Any thread may read it."""

    def load(self, name: str, base_folder: Path, adapter_folder: Path | None) -> None:
        """Make `name` answerable. Twice the same is once.

        Raises: BaseUnavailable, ModelNotAllowed, ArtifactCorrupt.
        """
        source = (base_folder.resolve(), adapter_folder and adapter_folder.resolve())
        if self._sources.get(name) == source:
            self.get(name)
            return
        self._forget(name)
        shelf = self._shelf(source[0])
        shelf.adapters[name] = source[1] and self._loader.adapter(shelf.base, source[0], source[1])
        self._sources[name] = source
        while len(shelf.adapters) > self._bounds.adapters:
            self._forget(next(iter(shelf.adapters)))
        self.listing = tuple(self._listed())

    def unload(self, folder: Path) -> None:
        """Let go of the adapter or classifier that was read from this folder; its base stays, and all others on it."""
        for name in [name for name, source in self._sources.items() if source[1] == folder.resolve()]:
            self._forget(name)
        for kept in (self._classifiers, *(shelf.classifiers for shelf in self._shelves.values())):
            kept.pop(folder, None)  # pyright: ignore[reportArgumentType]
        self.listing = tuple(self._listed())

    def get(self, name: str) -> tuple[Answering, Any]:
        """The base and the adapter of a loaded model, now the last to leave. Raises: NotFound."""
        if name not in self._sources:
            raise NotFound("model", hint="Load it with `POST /v1/load_lora_adapter`, then ask again.")
        folder = self._sources[name][0]
        self._shelves.move_to_end(folder)
        shelf = self._shelves[folder]
        shelf.adapters.move_to_end(name)
        return shelf.base, shelf.adapters[name]

    def in_torch(self, name: str) -> tuple[LoadedBase, Adapter | None]:
        """The same where torch computes. Raises: NotFound; ModelNotAllowed where something else does."""
        base, adapter = self.get(name)
        return _of_torch(base), adapter

    def passes(self, base: Answering) -> Passes:
        """How a base that `get` gave is asked."""
        return self._loader.passes(base)

    def folder_of(self, name: str) -> Path:
        """Where the base of a loaded model lies."""
        return self._sources[name][0]

    def classifier(self, folder: Path) -> Classifier:
        """One that stands alone, read at its first use. Raises: ArtifactCorrupt, BaseUnavailable."""
        return _kept(self._classifiers, folder, self._bounds.classifiers, lambda: saving.load(folder))

    def classifier_on(self, base_folder: Path, folder: Path) -> OnBase:
        """One on a base; it leaves with it. Raises: ArtifactCorrupt, BaseUnavailable, ModelNotAllowed."""
        shelf = self._shelf(base_folder.resolve())
        return _kept(shelf.classifiers, folder, self._bounds.adapters, lambda: on_base.load(folder, _of_torch(shelf.base)))

    def _listed(self) -> Iterator[tuple[str, str | None]]:
        for shelf in self._shelves.values():
            bare = next((name for name, adapter in shelf.adapters.items() if adapter is None), None)
            yield from ((name, None if adapter is None else bare) for name, adapter in shelf.adapters.items())

    def _shelf(self, folder: Path) -> _Shelf:
        if folder in self._shelves:
            self._shelves.move_to_end(folder)
            return self._shelves[folder]
        # Before, not after: two large bases at once may be one too many.
        arriving = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        while self._shelves and not self._has_room_for(arriving):
            self._evict(next(iter(self._shelves)))
        self._shelves[folder] = _Shelf(self._loader.base(folder))
        return self._shelves[folder]

    def _has_room_for(self, n_bytes: int) -> bool:
        held = sum(shelf.base.n_bytes for shelf in self._shelves.values())
        room = _MEMORY_SHARE * memory_bytes(pick_device(self._device))
        return len(self._shelves) < self._bounds.bases and held + n_bytes <= room

    def _evict(self, folder: Path) -> None:
        for name in list(self._shelves[folder].adapters):
            self._forget(name)
        del self._shelves[folder]

    def _forget(self, name: str) -> None:
        source = self._sources.pop(name, None)
        if source is not None:
            del self._shelves[source[0]].adapters[name]


def _of_torch(base: Answering) -> LoadedBase:
    if not isinstance(base, LoadedBase):
        raise ModelNotAllowed("This engine has no classifiers.", hint="Serve them with LUTHIER_ENGINE=transformers.")
    return base


def _kept(shelf: OrderedDict[Path, T], folder: Path, most: int, load: Callable[[], T]) -> T:
    if folder not in shelf:
        shelf[folder] = load()
        if len(shelf) > most:
            shelf.popitem(last=False)
    shelf.move_to_end(folder)
    return shelf[folder]


def memory_bytes(device: torch.device) -> int:
    """All memory of the device; of the machine where they are the same."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return psutil.virtual_memory().total
