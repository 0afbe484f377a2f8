"""Bring a base model onto this machine, once, however many processes ask. `python -m luthier.modeling.fetch --help`."""

from __future__ import annotations

import argparse
import errno
import fcntl
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from luthier.bases.rules import folder_name
from luthier.errors import BaseUnavailable, LuthierError, StorageFull
from luthier.values import BaseSource

OnProgress = Callable[[float], None]
"""Hears the share that is done, 0 to 1, and at least every second while another process does the work. It may raise."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FULL = (errno.ENOSPC, errno.EDQUOT)


def fetch_base(source: tuple[str, str, str], cache: Path, on_progress: OnProgress, *, endpoint: str | None = None) -> Path:
    """The folder of the base `(id, revision, url)` below `cache`, complete; built or fetched if it is not there yet.

    A reader sees the whole folder or none. Where the revision is a name like `main`, the commit found by the first
    fetch is kept beside the folder, and every later fetch takes that one. The hub is the one that `HF_ENDPOINT` names.

    Raises: BaseUnavailable, ModelNotAllowed, StorageFull, and whatever `on_progress` raises.
    """
    base_id, revision, url = source
    folder = _place(base_id, revision, cache)
    if _complete(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _full_is_told(), _alone(folder.parent / f".{folder.name}.lock", on_progress):
        if _complete(folder):
            return folder
        if folder.exists() and any(folder.iterdir()):
            raise BaseUnavailable(
                "The files of this base model in the cache are incomplete.",
                hint=f"Remove the folder `{folder_name(base_id)}/{revision}` from the cache of base models; it is fetched anew.",
            )
        if url == "luthier:tiny":
            _build_tiny(folder, on_progress)
        elif url.startswith("hub:"):
            _from_hub(url.removeprefix("hub:"), revision, folder, on_progress, endpoint)
        else:
            raise BaseUnavailable("This kind of base model source is not known.", hint="Use luthier/tiny.", param="base_model")
    return folder


def cached_base(source: tuple[str, str], cache: Path) -> Path | None:
    """The folder of the base `(id, revision)` below `cache`, if it is there. Raises: BaseUnavailable for a bad name."""
    folder = _place(*source, cache)
    return folder if _complete(folder) else None


def _place(base_id: str, revision: str, cache: Path) -> Path:
    for part in base_id.split("/"):
        _safe(part)
    return cache / folder_name(base_id) / _safe(revision)


def _complete(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def _safe(name: str) -> str:
    if not _SAFE_NAME.fullmatch(name) or ".." in name:
        raise BaseUnavailable("The id or revision of this base model is not one that can be fetched.", param="base_model")
    return name


def _build_tiny(folder: Path, on_progress: OnProgress) -> None:
    from transformers.utils import logging

    from luthier.modeling.tiny import build_tiny

    logging.disable_progress_bar()  # its bar for the writing of one small file would stand in ours, and in logs
    build_tiny(folder, seed=0, on_progress=lambda step, steps, _loss: on_progress(step / steps))


def _from_hub(repo: str, revision: str, folder: Path, on_progress: OnProgress, endpoint: str | None) -> None:
    from luthier.modeling.hub import download

    note = folder.parent / f"{folder.name}.commit"
    pinned = note.read_text("ascii").strip() if note.is_file() else revision
    arriving = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        commit = download(repo, pinned, arriving, on_progress, endpoint)
        if not _COMMIT.fullmatch(revision):
            # The note before the folder: a folder whose commit nobody knows could not be fetched again.
            note.write_text(f"{commit}\n", "ascii")
        arriving.chmod(0o755)
        os.replace(arriving, folder)
    finally:
        shutil.rmtree(arriving, ignore_errors=True)


@contextmanager
def _alone(lock: Path, on_progress: OnProgress) -> Generator[None]:
    """One process at a time; the system lets go of the lock when its holder dies."""
    with lock.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                on_progress(0.0)
                time.sleep(0.2)
        yield


@contextmanager
def _full_is_told() -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull from error
        raise


def main(arguments: list[str] | None = None) -> int:
    """One JSON object a line on stdout: `{"progress": 0.25}` ..., then `{"done": true}` or `{"error": {...}}`."""
    parser = argparse.ArgumentParser(prog="python -m luthier.modeling.fetch", description=__doc__)
    for name in ("id", "revision", "url", "cache"):
        parser.add_argument(f"--{name}", required=True)
    given = parser.parse_args(arguments)
    source = BaseSource(id=given.id, revision=given.revision, url=given.url)
    told = -1

    def tell(done: float) -> None:
        nonlocal told
        if int(done * 100) > told:
            told = int(done * 100)
            _print({"progress": round(done, 4)})

    try:
        fetch_base((source.id, source.revision, source.url), Path(given.cache), tell)
    except LuthierError as error:
        _print({"error": {"code": error.error_code, "message": error.message, "hint": error.hint}})
        return 1
    _print({"done": True})
    return 0


def _print(line: object) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
