"""The courier: a thread that tells what the outbox holds. It stands beside the supervisor and never in its tick."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from luthier.notifications.queue import DeliveryQueue, Errand
from luthier.notifications.rows import Sealed
from luthier.notifications.types import Channel
from luthier.seams import News, Notifier, Reply

_LOG = logging.getLogger("luthier.notifications")
_ERRAND_S = 15.0
_FORGET_EVERY_S = 3600.0


class Courier:
    """Sends to at most `hands` endpoints at a time, one event after the other to each.

    A dead one holds a hand for ten seconds: most hands are kept for those that answered when they were last told something.
    """

    def __init__(
        self, queue: DeliveryQueue, notifiers: Mapping[Channel, Notifier], *, hands: int = 64, poll_s: float = 0.5
    ) -> None:
        self._queue = queue
        self._notifiers = notifiers
        self._hands = hands
        self._poll_s = poll_s
        self._forgot_at = float("-inf")

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set; what is under way then is finished, which takes ten seconds at most."""
        running: dict[Future[None], Errand] = {}
        with ThreadPoolExecutor(self._hands, thread_name_prefix="courier") as pool:
            while not stop.is_set():
                failing = sum(errand.failing for errand in running.values())
                errands = self._next(self._hands - len(running), self._hands // 4 - failing)
                running |= {pool.submit(self._go, errand): errand for errand in errands}
                if not running:
                    stop.wait(self._poll_s)
                    continue
                for each in wait(running, timeout=self._poll_s, return_when=FIRST_COMPLETED).done:
                    del running[each]
                    _log_fall(each.exception())

    def round(self) -> int:
        """Everything that is to be sent now, once and one after the other. Returns how many errands. For tests."""
        errands = self._next(self._hands, self._hands)
        for errand in errands:
            self._go(errand)
        return len(errands)

    def _next(self, most: int, failing: int) -> list[Errand]:
        try:
            if time.monotonic() - self._forgot_at > _FORGET_EVERY_S:
                self._forgot_at = time.monotonic()
                self._queue.forget_old()
            if most == 0 or not self._queue.has_work():
                return []
            self._queue.spread()
            return self._queue.claim(most, failing)
        except Exception:  # noqa: BLE001  # the edge of the thread: if it fell, nobody would be told anything any more
            _LOG.exception("the outbox cannot be read now")
            return []

    def _go(self, errand: Errand) -> None:
        notifier, ends = self._notifiers[errand.channel], time.monotonic() + _ERRAND_S
        for delivery_id, news in errand.news.items():
            reply = _sent(notifier, news, errand.sealed)
            if not self._queue.note(errand, delivery_id, reply) or time.monotonic() > ends:
                break
        self._queue.give_back(errand)


def _sent(notifier: Notifier, news: News, sealed: Sealed) -> Reply:
    try:
        return notifier.send(news, sealed.address, sealed.secrets(news.sent_at))
    except Exception:  # noqa: BLE001  # the edge to a notifier: an attempt that is not counted is made again for ever
        _LOG.exception("a delivery fell, and counts as an attempt")
        return Reply(error="internal_error")


def _log_fall(error: BaseException | None) -> None:
    if error is not None:
        _LOG.error("what became of a delivery was not noted: it will be sent again", exc_info=error)
