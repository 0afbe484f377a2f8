"""Slack's incoming webhooks (and what speaks like them)."""

from __future__ import annotations

import json
from collections.abc import Sequence

from luthier.backends.notifiers import wording
from luthier.backends.notifiers.posting import Posts
from luthier.backends.outbound import Guard
from luthier.seams import News, Reply

_NO_BREAK = "\u200b"
"""Has no width: keeps `@here` from being a mention."""


class SlackNotifier:
    """Posts plain text: nothing in it is a mention, a link or a format."""

    def __init__(self, guard: Guard | None = None) -> None:
        self._posts = Posts(guard)

    def check(self, address: str) -> None:
        """Raises: NotSendable."""
        self._posts.check(address)

    def send(self, news: News, address: str, secrets: Sequence[str]) -> Reply:  # noqa: ARG002  # the address is the secret
        """One POST."""
        text = "\n".join(map(escaped, [wording.title(news), *wording.lines(news)]))
        told = {"text": text, "mrkdwn": False, "parse": "none", "link_names": False, "unfurl_links": False, "unfurl_media": False}
        return self._posts.post(address, {}, json.dumps(told).encode(), news.sent_at)


def escaped(line: str) -> str:
    """A line as Slack shows it, letter by letter.

    >>> escaped("<!channel> & *all*")
    '&lt;!channel&gt; &amp; \\u200b*all\\u200b*'
    """
    text = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = text.replace("@", f"@{_NO_BREAK}")
    for mark in "*_~`":
        text = text.replace(mark, f"{_NO_BREAK}{mark}")
    return text
