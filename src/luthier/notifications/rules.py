"""When a delivery is tried again, when it is given up, and what an endpoint is told. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlsplit

from luthier.notifications.types import Channel, DeliveryState
from luthier.seams import Reply

BACKOFF_S = (5, 300, 1800, 7200, 18_000, 36_000)
"""After the first attempt, the second, ...; 17.6 hours in all."""
SECRETS_OVERLAP = timedelta(days=1)
"""For so long a replaced secret signs beside the new one: a receiver is changed by people, in their hours."""
MOST_ENDPOINTS = 100
_MOST_WAIT_S = 86_400.0
_UNWELCOME_STATUSES = frozenset({401, 404})
_UNWELCOME_MOST = 5
_GONE = 410
_HOPELESS = frozenset({"blocked_address", "bad_url", "bad_address", "no_secret"})
_MOST_REST_S = 300.0


@dataclass(frozen=True)
class Verdict:
    """What becomes of a delivery after an attempt, and of its endpoint."""

    state: DeliveryState
    wait_s: float = 0.0
    """Until the next attempt at this delivery."""
    rest_s: float = 0.0
    """In which nothing is sent to this endpoint: who does not answer one event does not answer the next."""
    disable: str | None = None
    """Why the endpoint is told nothing more."""


def verdict(reply: Reply, attempts: int, failures: int) -> Verdict:
    """`attempts` at this delivery with this one, `failures` of its endpoint in a row before it.

    >>> verdict(Reply(500, "refused"), 1, 0).wait_s
    5
    """
    if reply.told:
        return Verdict(DeliveryState.DELIVERED)
    if reply.status == _GONE:
        return Verdict(DeliveryState.DEAD, disable="It answered 410: it wants no more.")
    rest = max(min(BACKOFF_S[0] * 2.0 ** min(failures, 16), _MOST_REST_S), min(reply.retry_after_s or 0.0, _MOST_WAIT_S))
    unwelcome = reply.status in _UNWELCOME_STATUSES and attempts >= _UNWELCOME_MOST
    if reply.error in _HOPELESS or unwelcome or attempts > len(BACKOFF_S):
        return Verdict(DeliveryState.DEAD, rest_s=rest)
    wait = max(BACKOFF_S[attempts - 1], min(reply.retry_after_s or 0.0, _MOST_WAIT_S))
    return Verdict(DeliveryState.WAITING, wait_s=wait, rest_s=rest)


def wants(kinds: Iterable[str], kind: str) -> bool:
    """Whether an endpoint that asked for `kinds` is told of this one.

    >>> wants(("job.*",), "job.failed"), wants(("job.failed",), "job.queued"), wants(("*",), "budget.alert")
    (True, False, True)
    """
    return any(each in ("*", kind) or (each.endswith(".*") and kind.startswith(each[:-1])) for each in kinds)


def shown(channel: Channel, address: str) -> str:
    """An address without what lets its reader post to it: a Slack address is a secret, and so may be a query.

    >>> shown(Channel.SLACK, "https://hooks.slack.com/services/T0/B0/x"), shown(Channel.WEBHOOK, "https://a.example/in?key=1")
    ('https://hooks.slack.com/...', 'https://a.example/in?...')
    """
    if channel is Channel.EMAIL:
        return address
    parts = urlsplit(address)
    if channel is Channel.SLACK:
        return f"{parts.scheme}://{parts.netloc}/..."
    return f"{parts.scheme}://{parts.netloc}{parts.path}" + ("?..." if parts.query else "")
