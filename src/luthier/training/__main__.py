"""`python -m luthier.training <job-url> [<job-url> ...]`: the one command that every executor runs, and that a person can run.

Several jobs that share a base model train together, in one pass over it; each has its own attempt, control, log and end.
Exit status: 0 when the last word stands in `attempts/<n>/status.json`, 1 when it could not be written, 75 when
another trainer owns the attempt, 78 when the directory cannot be used as it is. torch is not imported before that is known,
unless the process was started with `--warm`, before its jobs were (`warm.py`).
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from luthier.backends.storage.local import LocalStorage
from luthier.errors import SetupError, StorageFull
from luthier.jobs.directory import EXIT_FENCED, EXIT_SETUP, AttemptDirectory, CheckpointRef, Failure, JobDirectory
from luthier.jobs.spec import RunSpec
from luthier.seams import BadName
from luthier.training import ranks
from luthier.training.checkpoints import first_whole
from luthier.training.failures import Fenced
from luthier.training.journal import CHUNK_BYTES, Journal
from luthier.training.opening import Opened, open_run, read_spec, resume_candidates
from luthier.training.watch import POLL_S, FencedStorage, Watch, watching

if TYPE_CHECKING:
    from luthier.training.fitting import LoadedBases
    from luthier.training.gang import Work
    from luthier.training.ranks import Ranks
    from luthier.training.token_cache import TokenCache
    from luthier.training.warm import Ready

EXIT_NO_LAST_WORD = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Train the job at the given address and return the exit status."""
    arguments = _arguments(argv)
    try:
        return _train_when_told(arguments) if arguments.warm else _train(arguments, arguments.jobs)
    except SetupError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_SETUP
    except StorageFull as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_NO_LAST_WORD
    except OSError as error:
        sys.stderr.write(f"The job directory cannot be read or written: {type(error).__name__}.\n")
        return EXIT_NO_LAST_WORD
    except Fenced:
        return EXIT_FENCED


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m luthier.training", description="Train job directories.")
    parser.add_argument("jobs", metavar="job-url", nargs="*", help="a job directory: a path, or file:///...")
    parser.add_argument("--bases", metavar="URL", help="folder that caches base models (default: ~/.cache/luthier/bases)")
    parser.add_argument("--parent-pipe", metavar="FD", type=int, help="save and exit when this file descriptor reaches its end")
    parser.add_argument(
        "--poll-s", metavar="S", type=float, default=POLL_S, help="how often control.json is read (default: %(default)s)"
    )
    parser.add_argument("--warm", action="store_true", help="get ready, and be told in the parent's pipe what to train")
    parser.add_argument("--like", metavar="job-url", help="with --warm: a job of the kind that will come; its base is loaded")
    parser.add_argument("--max-memory-mb", metavar="MB", type=int, default=1024, help="with --warm: what may be loaded ahead")
    arguments = parser.parse_args(argv)
    if arguments.warm == bool(arguments.jobs):
        parser.error("name the jobs to train, or wait for them with --warm")
    if arguments.warm and arguments.parent_pipe is None:
        parser.error("--warm needs --parent-pipe: the order comes through it")
    return arguments


def _train_when_told(arguments: argparse.Namespace) -> int:
    """Get ready before the jobs are known, then train them like any others."""
    from luthier.training import warm

    bases, most_bytes = _bases(arguments), arguments.max_memory_mb * 2**20
    order, ready = warm.wait_for_order(
        arguments.parent_pipe, lambda: warm.get_ready(_spec_like(arguments.like), bases, most_bytes)
    )
    warm.speak_into(order.log)
    return _train(arguments, order.jobs, ready)


def _spec_like(url: str | None) -> RunSpec | None:
    """The spec of a job that is not ours; None where it cannot be read, or is gone."""
    try:
        return None if url is None else read_spec(open_run(JobDirectory(LocalStorage(local_path(url)), "")).spec_bytes)
    except (SetupError, OSError, BadName):
        return None


def _train(arguments: argparse.Namespace, urls: Sequence[str], ready: Ready | None = None) -> int:
    """All jobs in one process. What is wrong with one is told, and the others go on."""
    jobs = list(dict.fromkeys(urls))
    bases = _bases(arguments)
    members: list[Member] = []
    refused: list[int] = []
    alone = len(jobs) == 1
    for url in jobs:
        try:
            members.append(_open(url, _watch_of(arguments.poll_s, alone=alone), alone=alone, first=not members))
        except SetupError:
            if alone:
                raise
            sys.stderr.write(f"{Path(url).name} cannot be trained: its run.yaml or control.json cannot be used.\n")
            refused.append(EXIT_SETUP)
        except Fenced:
            refused.append(EXIT_FENCED)
        except (OSError, StorageFull) as error:
            if alone:
                raise
            sys.stderr.write(f"{Path(url).name} cannot be trained: its directory cannot be written ({type(error).__name__}).\n")
            refused.append(EXIT_NO_LAST_WORD)
    watching([member.watch for member in members], arguments.parent_pipe)
    return statuses_of([*refused, *_run(members, bases, ready)])


@dataclass(frozen=True)
class Member:
    """One attempt that this process owns."""

    opened: Opened
    spec: RunSpec | None
    """None where `run.yaml` was tampered with."""
    attempt: AttemptDirectory
    watch: Watch
    journal: Journal
    workspace: Path


MakeWatch = Callable[[Opened], Watch]


def _watch_of(poll_s: float, *, alone: bool) -> MakeWatch:
    # A fenced attempt that hangs ends its process; in a gang that would end the others, and it can write nothing anyway.
    exit_now = os._exit if alone else _go_on
    return lambda opened: Watch(opened.job.control, opened.number, poll_s=poll_s, exit_now=exit_now)


def _go_on(status: int) -> None:
    del status


def _open(url: str, make_watch: MakeWatch, *, alone: bool, first: bool) -> Member:
    """Own the attempt. Raises: SetupError where no trainer could use the directory; Fenced where another one has it."""
    root = local_path(url)
    if (root / "control.json").is_symlink():  # a storage sees no file there, and that would be a run by hand
        raise SetupError("control.json is a link.", hint="The supervisor writes it as a plain file; start the job again.")
    opened = open_run(JobDirectory(LocalStorage(root), ""))
    spec = None if opened.tampered else read_spec(opened.spec_bytes)
    if spec is not None and opened.control is not None and spec.sources is None:
        raise SetupError(
            "run.yaml has no `sources`.", hint="The platform writes them at submit; a run by hand has no control.json."
        )
    watch = make_watch(opened)
    here = ranks.place()
    storage = FencedStorage(opened.job.storage, watch) if here.leads else ranks.Silent(opened.job.storage, watch)
    attempt = JobDirectory(storage, "").attempt(opened.number)
    try:
        owned = attempt.own({"pid": os.getpid(), "host": platform.node(), "started_at": datetime.now(UTC).isoformat()})
    except BadName:
        raise SetupError(
            "attempts/ holds a link.", hint="A job directory has plain folders only; submit the run again."
        ) from None
    if not owned:
        sys.stderr.write(f"Attempt {opened.number} belongs to another trainer.\n")
        raise Fenced
    # What the process prints is the log of a job alone; those of a gang keep their own. By hand, people see the first.
    by_hand = opened.control is None
    journal = Journal(
        attempt, lambda: datetime.now(UTC), keep_log=by_hand or not alone, say=here.leads and (first if by_hand else alone)
    )
    work = "work" if here.leads else f"work-{here.number}"
    return Member(opened, spec, attempt, watch, journal, root / "attempts" / str(opened.number) / work)


def _run(members: Sequence[Member], bases: Path, ready: Ready | None) -> list[int]:
    trainable = [(member, member.spec) for member in members if member.spec is not None]
    statuses = [_refuse_tampered(member) for member in members if member.spec is None]
    if not trainable:
        return statuses
    from luthier.training.fitting import LoadedBases  # torch from here on
    from luthier.training.gang import train_together

    here, specs = ranks.place(), [spec for _, spec in trainable]
    if not here.leads and not ranks.can_share(specs):
        return [0]
    loaded = LoadedBases() if ready is None else ready.take(trainable[0][1])
    with ranks.opened(here, specs) as together:
        made = train_together([_attempt(member, spec, (bases, loaded), together) for member, spec in trainable])
    # What the first says is the word of all; torchrun has to hear that another one failed.
    failed = not here.leads and trainable[0][0].journal.status.state == "failed"
    return [*statuses, *([EXIT_NO_LAST_WORD] if failed else made)]


def _attempt(member: Member, spec: RunSpec, stock: tuple[Path, LoadedBases], together: Ranks) -> Work[int]:
    from luthier.training.attempt import run_attempt
    from luthier.training.run import Run

    try:
        member.workspace.mkdir(parents=True)
        # Given back before the last word when the disk is full: a chunk of events and the status are written anew beside the old.
        (member.workspace / "room").write_bytes(os.urandom(2 * CHUNK_BYTES))
        resumed = _begin(member.opened, member.journal, member.workspace)
        where = (member.attempt, member.watch, member.journal, member.workspace)
        run = Run(spec, *where, stock[0], _fetch_url, stock[1], resumed, together, _token_cache(member.opened))
        return (yield from run_attempt(run))
    except Fenced:
        return EXIT_FENCED
    except (OSError, StorageFull, BadName) as error:
        sys.stderr.write(f"The attempt could not begin: {type(error).__name__}.\n")
        return EXIT_NO_LAST_WORD
    finally:
        shutil.rmtree(member.workspace, ignore_errors=True)


def _token_cache(opened: Opened) -> TokenCache | None:
    from luthier.training.token_cache import TokenCache

    told = opened.control.tokens if opened.control else None
    return None if told is None else TokenCache(local_path(told.url), told.most_bytes)


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


def _refuse_tampered(member: Member) -> int:
    message = "run.yaml is not the file that was submitted: its sha256 differs."
    failure = Failure(code="spec_tampered", message=message, hint="Submit the run again; a submitted run.yaml is never edited.")
    try:
        member.journal.begin(None)
        member.journal.state("failed", f"{message} {failure.hint}", failure)
    except Fenced:
        return EXIT_FENCED
    except (OSError, StorageFull, BadName):
        return EXIT_NO_LAST_WORD
    return 0


def statuses_of(statuses: Sequence[int]) -> int:
    """One exit status for the process: that of its jobs where they agree, else 0, for each has said its own last word.

    >>> statuses_of([75]), statuses_of([0, 75])
    (75, 0)
    """
    distinct = set(statuses)
    return distinct.pop() if len(distinct) == 1 else 0


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


def _bases(arguments: argparse.Namespace) -> Path:
    if arguments.bases:
        return local_path(arguments.bases)
    try:
        return Path.home() / ".cache" / "luthier" / "bases"
    except RuntimeError:
        raise SetupError("There is no home folder to cache base models in.", hint="Name one with --bases.") from None


if __name__ == "__main__":
    sys.exit(main())
