"""Renderers that are asked for again and again: reading a tokenizer takes a second, using it a millisecond."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

from luthier.datasets.rendering import Renderer

_MOST = 32


class Renderers:
    """The renderer of a folder, read once. A folder's files never change: its name has the revision, or the model's id."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Path, Renderer] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, folder: Path) -> Renderer:
        """Raises: what `Renderer.load` raises."""
        with self._lock:
            renderer = self._kept.pop(folder, None) or Renderer.load(folder)
            self._kept[folder] = renderer
            if len(self._kept) > _MOST:
                self._kept.popitem(last=False)
        return renderer
