"""Signed webhooks: https://www.standardwebhooks.com."""

from __future__ import annotations

import json
from collections.abc import Sequence

from luthier import signatures
from luthier.backends.notifiers.posting import Posts
from luthier.backends.outbound import Guard
from luthier.seams import News, Reply
from luthier.values import rfc3339


class WebhookNotifier:
    """Posts `{"type", "timestamp", "data"}`, the same bytes at each attempt, signed anew."""

    def __init__(self, guard: Guard | None = None) -> None:
        self._posts = Posts(guard)

    def check(self, address: str) -> None:
        """Raises: NotSendable."""
        self._posts.check(address)

    def send(self, news: News, address: str, secrets: Sequence[str]) -> Reply:
        """One POST. A webhook without a secret is none: nobody could tell who sent it."""
        if not secrets:
            return Reply(error="no_secret")
        told = {"type": news.kind, "timestamp": rfc3339(news.at), "data": news.data}
        body = json.dumps(told, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
        stamp = int(news.sent_at.timestamp())
        headers = {
            "webhook-id": news.id,
            "webhook-timestamp": str(stamp),
            "webhook-signature": " ".join(signatures.signature(each, news.id, stamp, body) for each in secrets),
        }
        return self._posts.post(address, headers, body, news.sent_at)
