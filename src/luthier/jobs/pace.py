"""How much a supervisor does at a time, how often, and by which clocks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from luthier.billing.machine import gpus
from luthier.seams import Clock
from luthier.settings import Settings

_GATHER_S = 0.3
"""A client that submits a sweep needs less between two jobs."""


@dataclass(frozen=True)
class Pace:
    """How much at a time, and how often."""

    slots: int = 1
    tick_s: float = 0.5
    heartbeat_s: float = 10.0
    reap_after_s: float = 30.0
    reap_every_s: float = 5.0
    max_attempts: int = 4
    gang_size: int = 8
    gang_across_tenants: bool = False
    gather_s: float = 0.0
    gpus: int = 1
    """That one job trains on."""
    hardware: frozenset[str] = frozenset({"local-cpu", "local-gpu"})

    @classmethod
    def of(cls, settings: Settings) -> Pace:
        """As the settings say."""
        return cls(
            slots=settings.slots,
            tick_s=settings.tick_s,
            heartbeat_s=settings.heartbeat_s,
            reap_after_s=settings.reap_after_s,
            max_attempts=settings.max_attempts,
            gang_size=settings.gang_size,
            gang_across_tenants=settings.gang_across_tenants,
            gather_s=_GATHER_S,
            gpus=max(1, min(settings.gpus_per_job, gpus())),
        )


@dataclass(frozen=True)
class Clocks:
    """Time, as parameters."""

    now: Clock
    monotonic: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep
