"""Between rows and values, and what is locked in a row."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime

from luthier.notifications.store import DeliveryRow, EndpointRow
from luthier.notifications.types import Channel, Delivery, DeliveryState, Endpoint
from luthier.secret_box import SecretBox


@dataclass(frozen=True)
class Sealed:
    """What nobody but the sender reads of an endpoint."""

    address: str
    secret: str | None
    earlier: str | None = None
    """The secret before this one, which signs too until then (seconds since 1970)."""
    earlier_until_s: float = 0

    def secrets(self, at: datetime) -> tuple[str, ...]:
        """What signs at this moment, the newest first."""
        earlier = self.earlier if at.timestamp() < self.earlier_until_s else None
        return tuple(each for each in (self.secret, earlier) if each is not None)

    def rotated(self, secret: str, until: datetime) -> Sealed:
        """With a new secret, and the one that signed so far until then."""
        return Sealed(self.address, secret, self.secret, until.timestamp())


def lock(box: SecretBox, sealed: Sealed, endpoint_id: str) -> str:
    return box.lock(json.dumps(vars(sealed)), endpoint_id)


def unlock(box: SecretBox, row: EndpointRow) -> Sealed:
    return Sealed(**json.loads(box.unlock(row.locked, row.id)))


def address_hash(address: str) -> str:
    """To find the same address again without having it."""
    return hashlib.sha256(address.encode()).hexdigest()


def endpoint_of(row: EndpointRow) -> Endpoint:
    return Endpoint(
        id=row.id,
        channel=Channel(row.channel),
        url=row.shown,
        kinds=tuple(json.loads(row.kinds)),
        description=row.description,
        enabled=row.enabled,
        disabled_reason=row.disabled_reason,
        created_by=row.created_by,
        created_at=row.created_at,
    )


def delivery_of(row: DeliveryRow) -> Delivery:
    return Delivery(
        id=row.id,
        event_id=row.event_id,
        kind=row.kind,
        state=DeliveryState(row.state),
        attempts=row.attempts,
        last_status=row.last_status,
        last_error=row.last_error,
        created_at=row.created_at,
        next_at=row.next_at,
        delivered_at=row.delivered_at,
    )
