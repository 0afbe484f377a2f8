"""What is noted of requests beside their answers."""

from __future__ import annotations

from dataclasses import dataclass

from luthier.billing.tokens import TokenMeter
from luthier.serving.drift.buffer import Observer


@dataclass(frozen=True)
class Notes:
    """What a request used, and some of what was asked."""

    meter: TokenMeter
    observer: Observer
