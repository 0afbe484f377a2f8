"""What an attempt works with, and what each kind of run begins with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from luthier.jobs.directory import AttemptDirectory, CheckpointRef
from luthier.jobs.spec import RunSpec
from luthier.modeling.fetch import fetch_base
from luthier.training.fitting import LoadedBases
from luthier.training.journal import Journal
from luthier.training.materials import FetchUrl, base_source
from luthier.training.ranks import ALONE, Ranks
from luthier.training.token_cache import TokenCache
from luthier.training.watch import Watch
from luthier.values import BaseSource


@dataclass(frozen=True)
class Run:
    """What an attempt works with."""

    spec: RunSpec
    attempt: AttemptDirectory
    watch: Watch
    journal: Journal
    workspace: Path
    bases: Path
    fetch_url: FetchUrl
    loaded: LoadedBases
    resumed: tuple[CheckpointRef, Path] | None
    ranks: Ranks = ALONE
    tokens: TokenCache | None = None
    """Where tokenised rows are kept for later runs."""

    def progress(self, done: float) -> None:
        """Tell how far a phase is, and leave if that is wanted. Raises: Stopping, Fenced."""
        self.watch.check()
        self.journal.progress(done)

    @property
    def source(self) -> BaseSource:
        return base_source(self.spec)


def fetch_base_of(run: Run) -> Path:
    source = run.source
    run.journal.phase("fetching base", f"Fetching the base model {source.id}.")
    folder = run.ranks.led(lambda: fetch_base((source.id, source.revision, source.url), run.bases, run.progress))
    link = run.workspace / "base"
    link.symlink_to(folder, target_is_directory=True)
    return link
