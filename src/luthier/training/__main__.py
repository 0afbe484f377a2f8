"""`python -m luthier.training <job-url>`: the one command that every executor runs, and that a person can run on a folder.

Exit status: 0 when the last word stands in `attempts/<n>/status.json`, 75 when another trainer owns the attempt, 78 when
the directory cannot be used as it is. torch is not imported before that is known.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from luthier.backends.storage.local import LocalStorage
from luthier.errors import SetupError
from luthier.jobs.directory import EXIT_FENCED, EXIT_SETUP, CheckpointRef, Failure, JobDirectory
from luthier.training.checkpoints import first_whole
from luthier.training.failures import Fenced
from luthier.training.journal import Journal
from luthier.training.opening import Opened, open_run, read_spec, resume_candidates
from luthier.training.watch import POLL_S, FencedStorage, Watch


def main(argv: Sequence[str] | None = None) -> int:
    """Train the job at the given address and return the exit status."""
    arguments = _arguments(argv)
    try:
        return _train(arguments)
    except SetupError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_SETUP
    except Fenced:
        return EXIT_FENCED


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m luthier.training", description="Train one job directory.")
    parser.add_argument("jobs", metavar="job-url", nargs="+", help="a job directory: a path, or file:///...")
    parser.add_argument("--bases", metavar="URL", help="folder that caches base models (default: ~/.cache/luthier/bases)")
    parser.add_argument("--parent-pipe", metavar="FD", type=int, help="save and exit when this file descriptor reaches its end")
    parser.add_argument(
        "--poll-s", metavar="S", type=float, default=POLL_S, help="how often control.json is read (default: %(default)s)"
    )
    return parser.parse_args(argv)


def _train(arguments: argparse.Namespace) -> int:
    jobs: list[str] = arguments.jobs
    if len(jobs) > 1:
        raise SetupError(f"{len(jobs)} job directories were given; this version trains one.", hint="Start one process for each.")
    root = local_path(jobs[0])
    opened = open_run(JobDirectory(LocalStorage(root), ""))
    spec = None if opened.tampered else read_spec(opened.spec_bytes)
    if spec is not None and opened.control is not None and spec.sources is None:
        raise SetupError(
            "run.yaml has no `sources`.", hint="The platform writes them at submit; a run by hand has no control.json."
        )
    bases = local_path(arguments.bases) if arguments.bases else _default_bases()

    watch = Watch(opened.job.control, opened.number, poll_s=arguments.poll_s)
    job = JobDirectory(FencedStorage(opened.job.storage, watch), "")
    attempt = job.attempt(opened.number)
    if not attempt.own({"pid": os.getpid(), "host": platform.node(), "started_at": datetime.now(UTC).isoformat()}):
        sys.stderr.write(f"Attempt {opened.number} belongs to another trainer.\n")
        return EXIT_FENCED
    watch.start(arguments.parent_pipe)
    journal = Journal(attempt, lambda: datetime.now(UTC), keep_log=opened.control is None)
    if spec is None:
        return _refuse_tampered(journal)

    workspace = root / "attempts" / str(opened.number) / "work"
    workspace.mkdir(parents=True)
    try:
        resumed = _begin(opened, journal, workspace)
        from luthier.training.attempt import Run, run_attempt  # torch from here on

        return run_attempt(Run(spec, attempt, watch, journal, workspace, bases, _fetch_url, resumed))
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def _begin(opened: Opened, journal: Journal, workspace: Path) -> tuple[CheckpointRef, Path] | None:
    """The first word, and the checkpoint to go on from."""
    folder = workspace / "resume"
    candidates = resume_candidates(opened)
    ref = first_whole(opened.job, candidates, folder)
    journal.begin(ref)
    if candidates and ref != candidates[0]:
        where = "the beginning" if ref is None else f"step {ref.step} of attempt {ref.attempt}"
        message = f"The checkpoint of step {candidates[0].step} does not verify; going on from {where}."
        journal.event("warning", message, level="warning")
    return None if ref is None else (ref, folder)


def _refuse_tampered(journal: Journal) -> int:
    message = "run.yaml is not the file that was submitted: its sha256 differs."
    failure = Failure(code="spec_tampered", message=message, hint="Submit the run again; a submitted run.yaml is never edited.")
    journal.begin(None)
    journal.state("failed", f"{message} {failure.hint}", failure)
    return 0


def local_path(url: str) -> Path:
    """The folder of a path or a file:// URL. Raises: SetupError for any other scheme."""
    if "://" not in url:
        return Path(url)
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise SetupError("Only file:// addresses can be read by this version.", hint="Give a path or file:///...")
    return Path(unquote(parts.path))


def _fetch_url(url: str, target: Path) -> None:
    path = local_path(url)
    LocalStorage(path.parent).fetch_file(path.name, target)


def _default_bases() -> Path:
    try:
        return Path.home() / ".cache" / "luthier" / "bases"
    except RuntimeError:
        raise SetupError("There is no home folder to cache base models in.", hint="Name one with --bases.") from None


if __name__ == "__main__":
    sys.exit(main())
