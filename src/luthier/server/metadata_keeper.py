"""The thread that keeps `users/<tenant_id>/metadata/` up to date, and the rebuild of all of it."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path

from luthier.accounts.types import Actor, Member, Role, User
from luthier.billing.rules import period_of
from luthier.billing.types import Price
from luthier.server import metadata
from luthier.server.rounds import rounds
from luthier.wiring import Platform

_PAUSE_S = 15.0
_OVERLAP = timedelta(seconds=30)
"""A row has its id before its transaction is committed: what was missed then is seen in a later round."""


class MetadataKeeper:
    """Writes the files of those teams of which something changed, and of them those that are different now."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._since = platform.now()
        self._seen: tuple[list[Price], str] | None = None
        self._written: dict[str, bytes] = {}
        """The sha256 of each file as it was written last."""

    def round(self) -> int:
        """Bring the files of changed teams up to date: of all of them at first, at a new price, in a new month.

        Returns how many teams were looked at.
        """
        now, since = self._platform.now(), self._since - _OVERLAP
        seen = (self._platform.billing.prices(), period_of(now))
        count = self._write(None if seen != self._seen else self._changed(since))
        self._since, self._seen = now, seen
        return count

    def rebuild(self) -> int:
        """Bring the files of every team up to date. Returns how many teams there are."""
        return self._write(None)

    def _changed(self, since: datetime) -> set[str]:
        return self._platform.audit.teams_since(since) | self._platform.notifications.teams_since(since)

    def _write(self, only: set[str] | None) -> int:
        if only is not None and not only:
            return 0
        accounts = self._platform.accounts
        users = {user.id: user for user in accounts.users.list()}
        logins = accounts.users.last_logins()
        teams = [team for team in accounts.teams.every() if only is None or team.id in only]
        for team in teams:
            actor = Actor(team.id, "", Role.VIEWER)
            members = [(member, users[member.user_id]) for member in accounts.teams.members(actor) if member.user_id in users]
            self._replace(team.id, metadata.files(self._facts(actor, members, logins, suspended=team.suspended_at is not None)))
        return len(teams)

    def _facts(
        self, actor: Actor, members: list[tuple[Member, User]], logins: Mapping[str, datetime], *, suspended: bool
    ) -> metadata.Team:
        platform = self._platform
        report = platform.billing.report(actor, period_of(platform.now()), lambda job_ids: platform.jobs.names(actor, job_ids))
        return metadata.Team(
            members=members,
            last_logins=logins,
            suspended=suspended,
            report=report,
            prices=platform.billing.prices(),
            jobs=platform.jobs.listing(actor),
            datasets=platform.datasets.listing(actor),
            models=platform.registry.listing(actor),
        )

    def _replace(self, tenant_id: str, files: Mapping[str, Iterator[bytes]]) -> None:
        for short, parts in files.items():
            name, digest = f"users/{tenant_id}/metadata/{short}", hashlib.sha256()
            with tempfile.NamedTemporaryFile() as file:
                for part in parts:
                    digest.update(part)
                    file.write(part)
                file.flush()
                if self._written.get(name) != digest.digest():  # what is there is not read: it may be anybody's
                    self._platform.storage.put_file(name, Path(file.name))
                    self._written[name] = digest.digest()


def describing(platform: Platform, pause_s: float = _PAUSE_S) -> AbstractContextManager[None]:
    """Write the files of every team, then those of teams in which something changed, while the block runs."""
    return rounds("metadata", MetadataKeeper(platform).round, pause_s)
