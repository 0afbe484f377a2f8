"""One POST through the guarded way out: ten seconds, 64 KiB of answer, no redirect."""

from __future__ import annotations

import email.utils
from collections.abc import Mapping
from datetime import datetime

from luthier.backends.outbound import Guard, NotReached, Outbound
from luthier.seams import NotSendable, Reply

_TOTAL_S = 10.0
_MOST_REPLY_BYTES = 64 * 1024


class Posts:
    """Posts to addresses that users gave."""

    def __init__(self, guard: Guard | None = None) -> None:
        self._outbound = Outbound(guard or Guard(connect_s=_TOTAL_S, total_s=_TOTAL_S))

    def check(self, url: str) -> None:
        """Raises: NotSendable."""
        try:
            self._outbound.check(url)
        except NotReached as error:
            raise NotSendable(str(error)) from None

    def post(self, url: str, headers: Mapping[str, str], body: bytes, now: datetime) -> Reply:
        """What came back; whatever goes wrong is in it."""
        try:
            with self._outbound.asked(
                "POST", url, headers={"content-type": "application/json", **headers}, body=body
            ) as response:
                if len(response.read(_MOST_REPLY_BYTES + 1)) > _MOST_REPLY_BYTES:
                    return Reply(response.status, "reply_too_large")
                wait = _wait_s(response.getheader("retry-after"), now)
                if 300 <= response.status < 400:
                    return Reply(response.status, "redirect")
                return Reply(response.status, None if 200 <= response.status < 300 else "refused", wait)
        except NotReached as error:
            return Reply(error=error.code)


def _wait_s(value: str | None, now: datetime) -> float | None:
    """Seconds of a `Retry-After`, which is a number of them or a date."""
    if value is None or not value.isascii() or len(value) > 64:
        return None
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, (email.utils.parsedate_to_datetime(value) - now).total_seconds())
    except (ValueError, TypeError):
        return None
