"""How an event reads to people: one title, and a line for each thing that it says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.seams import News

_MOST_LINES = 24
_MOST_LINE = 300
_LEFT_OUT = frozenset({"from_state", "kind", "created_by"})
_TITLES = {
    "model.stage_changed": "{name}@{version}: from {from_stage} to {stage}",
    "model.deleted": "{name}@{version} was deleted",
    "promotion.asked": "{name}@{version} is wanted in Production by {by}: somebody else must promote it, too",
    "model.deployed": "{name}@{version} ({precision}) was deployed to {target}",
    "budget.alert": "{threshold} % of the budget for {period} are used",
    "drift.detected": "{name}@{version}: what it is asked has changed ({measures})",
    "spending.unusual": "Unusual spending on {day}: ${spent_usd}",
}


def title(news: News) -> str:
    """
    >>> from datetime import UTC, datetime
    >>> title(News("evt_1", "job.failed", datetime.now(UTC), {"job_id": "job_1", "name": "intents"}, datetime.now(UTC)))
    'Job intents (job_1): failed'
    """
    known = _TITLES.get(news.kind)
    if known is not None:
        try:
            return one_line(known.format_map(news.data))
        except KeyError:  # an older event says less
            pass
    subject, _, what = news.kind.partition(".")
    words = f"{subject} {what}".replace("_", " ").strip().capitalize()
    if subject == "job" and "job_id" in news.data:
        name = news.data.get("name")
        words = f"Job {name} ({news.data['job_id']}): {what}" if name else f"Job {news.data['job_id']}: {what}"
    return one_line(words)


def lines(news: News) -> list[str]:
    """What else the event says, `name: value`, without what says nothing."""
    return [one_line(f"{name}: {value}") for name, value in _flat(news.data) if name not in _LEFT_OUT][:_MOST_LINES]


def one_line(text: str) -> str:
    """`text` on one line of bounded length, without control characters: nobody's words begin a line of ours."""
    clean = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(clean.split())[:_MOST_LINE]


def _flat(data: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in data.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{before}{name} ")
        elif value is not None and value not in ("", []):
            found.append((f"{before}{name}".replace("_", " ") if before else name, value))
    return found
