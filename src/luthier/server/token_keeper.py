"""The round that writes served tokens, beside the API."""

from __future__ import annotations

from contextlib import AbstractContextManager

from luthier.billing.tokens import ROUND_S, TokenMeter
from luthier.server.rounds import rounds


def metering(meter: TokenMeter) -> AbstractContextManager[None]:
    """Write what was served since the last round while the block runs; what is left then, `TokenMeter.close` writes."""
    return rounds("token-meter", meter.keep, ROUND_S)
