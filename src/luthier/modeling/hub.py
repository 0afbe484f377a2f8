"""What is taken from a model hub: safetensors, JSON and tokenizer files of one commit, checked, and nothing else."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # of httpx or httpx2: the one that this version of the hub library speaks
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm import tqdm

from luthier.errors import BaseUnavailable
from luthier.modeling.base_config import check_config

_ANSWER_S = 10
"""How long the hub may take for its first answer."""

_WANTED = re.compile(
    r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json|(generation_)?config\.json"
    r"|tokenizer\.(json|model)|(tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template)\.json"
    r"|merges\.txt|chat_template\.jinja"
)


@dataclass(frozen=True)
class _File:
    name: str
    size: int
    sha256: str | None
    """Known for large files only; small ones are covered by the commit."""


@dataclass(frozen=True)
class _Commit:
    sha: str
    files: tuple[_File, ...]


def download(repo: str, revision: str, folder: Path, on_bytes: Callable[[float], None], endpoint: str | None = None) -> str:
    """Fetch the wanted files of `repo` at `revision` into `folder`; `on_bytes` hears the share that is there (0 to 1).

    Returns the commit that they are from. Raises: BaseUnavailable, ModelNotAllowed for a config that asks to run code.
    """
    with _hub_errors(repo):
        commit = _resolve(repo, revision, endpoint)
        _check_list(repo, commit)
        total = sum(file.size for file in commit.files) or 1
        done = 0
        # The config first: a model that is refused is refused before its gigabytes came.
        for file in sorted(commit.files, key=lambda file: (file.name != "config.json", file.size)):
            before = done
            meter = _meter(lambda count, before=before: on_bytes(min(1.0, (before + count) / total)))
            hf_hub_download(
                repo,
                file.name,
                revision=commit.sha,
                local_dir=folder,
                endpoint=endpoint,
                etag_timeout=_ANSWER_S,
                tqdm_class=meter,
            )
            _check_file(folder / file.name, file)
            if file.name == "config.json":
                check_config(folder, weights=False)
            done += file.size
            on_bytes(min(1.0, done / total))
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the hub library's notes about its downloads
    return commit.sha


def _resolve(repo: str, revision: str, endpoint: str | None) -> _Commit:
    info = HfApi(endpoint=endpoint).model_info(repo, revision=revision, timeout=_ANSWER_S, files_metadata=True)
    if not re.fullmatch(r"[0-9a-f]{40}", info.sha or ""):
        raise _unavailable(repo, "the hub named no commit")
    files = [
        _File(entry.rfilename, entry.size or 0, entry.lfs.sha256 if entry.lfs else None)
        for entry in info.siblings or []
        if _WANTED.fullmatch(entry.rfilename)
    ]
    return _Commit(str(info.sha), tuple(files))


def _check_list(repo: str, commit: _Commit) -> None:
    names = {file.name for file in commit.files}
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise _unavailable(repo, "it has no config.json, or no weights as safetensors")
    if "tokenizer.json" not in names:
        raise _unavailable(repo, "it has no tokenizer.json")


def _check_file(path: Path, file: _File) -> None:
    if file.size and path.stat().st_size != file.size:
        raise _unavailable(file.name, f"{path.stat().st_size} bytes came of {file.size}")
    if file.sha256 is not None:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != file.sha256:
            raise _unavailable(file.name, "its checksum does not match")


def _meter(on_count: Callable[[int], None]) -> type[Any]:
    """A progress bar class for the hub library that draws nothing and tells how many bytes came."""

    class Meter(tqdm):  # pyright: ignore[reportMissingTypeArgument, reportUntypedBaseClass]
        def __init__(self, *args: Any, **given: Any) -> None:
            # `name` is the hub library's own; a bar that is disabled does not count, so this one counts for itself.
            given.pop("name", None)
            super().__init__(*args, **{**given, "disable": True})
            self._count = 0

        def update(self, n: float | None = 1) -> None:
            self._count += int(n or 0)
            on_count(self._count)

    return Meter


@contextmanager
def _hub_errors(repo: str) -> Generator[None]:
    """The hub library's many errors as one of ours that says what to do."""
    try:
        yield
    except GatedRepoError:
        raise _unavailable(repo, "its owner wants its licence accepted first", "Accept it on the hub and set HF_TOKEN.") from None
    except RevisionNotFoundError:
        raise _unavailable(repo, "this revision does not exist there") from None
    except RepositoryNotFoundError:
        raise _unavailable(repo, "the hub does not know it, or it is private") from None
    except (HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise _unavailable(repo, "the model hub cannot be reached, or answered with an error") from error


def _unavailable(what: str, why: str, hint: str | None = None) -> BaseUnavailable:
    return BaseUnavailable(
        f"{what} could not be fetched: {why}.",
        hint=hint or "Try again later, or use luthier/tiny, which is built on this machine and needs no hub.",
        param="base_model",
    )
