"""Luthier. `luthier.Client` and `luthier.AsyncClient` are the way in from Python; they load on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luthier.faces.sdk.client import AsyncClient as AsyncClient
    from luthier.faces.sdk.client import Client as Client

__all__ = ["AsyncClient", "Client"]


def __getattr__(name: str) -> Any:
    # Every process of the platform imports this package: it must not pay for a client that it does not use. By name,
    # not by `import`, because an import here would lie below every layer and reach the topmost one.
    if name in __all__:
        return getattr(importlib.import_module("luthier.faces.sdk.client"), name)
    raise AttributeError(f"module 'luthier' has no attribute {name!r}")
