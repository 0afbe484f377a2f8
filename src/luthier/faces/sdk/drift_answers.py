"""What is answered about drift."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from luthier.faces.sdk.answers import Answer


class DriftMeasure(Answer):
    """One comparison of a window with what the version learned."""

    name: str
    kind: str
    test: str
    by: str | None
    psi: float | None
    statistic: float
    p: float
    drifted: bool
    bins: tuple[float | str, ...]
    reference: tuple[int, ...]
    live: tuple[int, ...]


class DriftWindow(Answer):
    """Sampled requests that were compared, once."""

    _parts: ClassVar[Mapping[str, type[Answer]]] = {"measures": DriftMeasure}

    number: int
    samples: int
    drifted: bool
    measures: tuple[DriftMeasure, ...]
    closed_at: str


class DriftOfModel(Answer):
    """One version in use: `off`, `collecting`, `no_reference`, `steady` or `drifted`."""

    _parts: ClassVar[Mapping[str, type[Answer]]] = {"windows": DriftWindow}

    model_id: str
    name: str
    version: str
    state: str
    share: float
    waiting: int
    why: str | None
    windows: tuple[DriftWindow, ...]


class DriftStatus(Answer):
    """Versions that are watched, those that drifted first."""

    _parts: ClassVar[Mapping[str, type[Answer]]] = {"data": DriftOfModel}

    thresholds: Answer
    data: tuple[DriftOfModel, ...]


class Watched(Answer):
    """What is sampled of a model's requests."""

    name: str
    share: float
    own: bool


class Sampled(Answer):
    """What is kept of one request."""

    at: str
    observation: Answer
