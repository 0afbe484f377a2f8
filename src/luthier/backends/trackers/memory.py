"""A tracker in memory: for tests, and the example of what the seam asks for."""

from __future__ import annotations

from dataclasses import dataclass, field

from luthier.seams import TrackedRun, TrackedVersion, TrackerUnavailable


@dataclass
class MemoryTracker:
    """Holds what it was told. `down` makes it as dead as a server can be."""

    runs: dict[str, TrackedRun] = field(default_factory=dict[str, TrackedRun])
    """By run id."""
    versions: dict[tuple[str, str], TrackedVersion] = field(default_factory=dict[tuple[str, str], TrackedVersion])
    """By name and key."""
    down: bool = False
    asked: int = 0

    def put_run(self, run: TrackedRun, run_id: str | None) -> str:
        self._answer()
        known = next((known for known, kept in self.runs.items() if kept.key == run.key), None)
        run_id = run_id if run_id in self.runs else known or f"run{len(self.runs) + 1}"
        self.runs[run_id] = run
        return run_id

    def put_version(self, version: TrackedVersion) -> None:
        self._answer()
        self.versions[version.name, version.key] = version

    def drop_version(self, name: str, key: str) -> None:
        self._answer()
        self.versions.pop((name, key), None)

    def production(self, name: str) -> int | None:
        """The number of the version with the alias."""
        return next((each.number for (named, _), each in self.versions.items() if named == name and _serves(each)), None)

    def _answer(self) -> None:
        self.asked += 1
        if self.down:
            raise TrackerUnavailable("down")


def _serves(version: TrackedVersion) -> bool:
    return version.stage == "Production"
