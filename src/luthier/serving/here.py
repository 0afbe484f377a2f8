"""Bases that lie on this machine."""

from __future__ import annotations

from pathlib import Path

from luthier.bases.service import Bases
from luthier.bases.types import Base
from luthier.errors import BaseUnavailable


def folder_of(bases: Bases, base: Base) -> Path:
    """Where it lies. Raises: BaseUnavailable, saying how to fetch it."""
    if not bases.ready(base):
        raise BaseUnavailable(
            f"The base model {base.id} is not on this machine.",
            hint=f"Fetch it with `luthier bases fetch {base.id}`, or train on it: a job fetches it by itself.",
        )
    return bases.folder(base)
