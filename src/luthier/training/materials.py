"""What a run is made of, brought into its working directory: the base model and the data, each checked against its pin."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import BinaryIO, TypeVar

from luthier.datasets.formats import BadRow, Example, Labelled, Pair, Prompt, Rated, read_rows
from luthier.datasets.rendering import Renderer
from luthier.errors import RenderingDiffers
from luthier.graders.types import judges_of
from luthier.jobs.directory import JobDirectory
from luthier.jobs.spec import RunSpec
from luthier.seams import NotStored
from luthier.training.checkpoints import sha256_of
from luthier.training.failures import AttemptFailed
from luthier.values import BaseSource, ModelSource, Source

Row = TypeVar("Row", bound=Example | Pair | Rated | Prompt | Labelled)
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
FetchUrl = Callable[[str, Path], None]
"""Bring the bytes at a URL into a local file. Raises: NotStored, ValueError."""


def base_source(spec: RunSpec) -> BaseSource:
    """The pinned base. A run by hand takes the pin from the shipped catalog. Raises: AttemptFailed."""
    return spec.sources.base if spec.sources is not None else _shipped(spec.base_model)


def judge_sources(spec: RunSpec) -> dict[str, BaseSource]:
    """The pinned bases that judge and are not trained, by the names that the grader has for them. Raises: AttemptFailed."""
    if spec.sources is not None:
        return dict(spec.sources.judges)
    named = {judge.model: _shipped(judge.model) for judge in judges_of(spec.grpo.grader)} if spec.grpo else {}
    return {name: source for name, source in named.items() if source.id != base_source(spec).id}


def _shipped(name: str) -> BaseSource:
    for entry in json.loads(files("luthier.bases").joinpath("catalog.json").read_text("utf-8")):
        if name in (entry["id"], *entry.get("aliases", ())):
            url = "luthier:tiny" if entry["id"] == "luthier/tiny" else f"hub:{entry['id']}"
            return BaseSource(id=entry["id"], revision=entry["revision"], url=url)
    raise AttemptFailed(
        "base_unavailable", "The catalog has no base model of this id.", "`luthier bases list` shows all; try `luthier/tiny`."
    )


def renderer_of(base: Path, source: BaseSource) -> Renderer:
    """How rows and questions become tokens. Raises: AttemptFailed (`rendering_differs`) where that is not what was submitted."""
    renderer = Renderer.load(base)
    if source.rendering_sha256 not in {None, renderer.fingerprint}:
        differs = RenderingDiffers(f"The base model {source.id}")
        raise AttemptFailed("rendering_differs", differs.message, differs.hint or "")
    return renderer


def fetch_data(job: JobDirectory, name: str, source: Source | None, fetch_url: FetchUrl, target: Path) -> None:
    """Bring one data file to `target`. Without a source (by hand) `name` is a file of the job directory, or a file:// URL.

    Raises: AttemptFailed (`bad_data`) where it is missing or not the file that was submitted.
    """
    try:
        if source is not None:
            fetch_url(source.url, target)
        elif "://" in name:
            fetch_url(name, target)
        else:
            job.storage.fetch_file(job.name(name), target)
    except (NotStored, ValueError):
        hint = "By hand, `dataset` is the name of a file beside run.yaml, or a file:// URL. On the platform, submit again."
        raise AttemptFailed("bad_data", "The data file is not where the run says.", hint) from None
    if source is not None and sha256_of(target) != source.sha256:
        raise AttemptFailed(
            "bad_data", "The data file is not the one that was submitted: its sha256 differs.", "Upload it again, then submit."
        )


def fetch_model(job: JobDirectory, name: str, source: ModelSource | None, fetch_url: FetchUrl, folder: Path) -> None:
    """Bring the files of a model into `folder`. Without a source (by hand) `name` is a folder of the job directory.

    Raises: AttemptFailed (`artifact_corrupt`) where one is missing or not the file that was registered.
    """
    folder.mkdir(parents=True)
    try:
        if source is None:
            for path in job.storage.names(job.name(name)):
                job.storage.fetch_file(path, folder / path.rpartition("/")[2])
            return
        for file in source.files:
            target = folder / _plain(file.name)
            fetch_url(f"{source.url}/{file.name}", target)
            if sha256_of(target) != file.sha256:
                raise _corrupt("is not the one that was registered: its sha256 differs")
    except (NotStored, ValueError):
        raise _corrupt("is not where it was stored") from None


def _plain(name: str) -> str:
    if not _PLAIN_NAME.fullmatch(name):
        raise _corrupt("has a name that is no plain file name")
    return name


def _corrupt(how: str) -> AttemptFailed:
    hint = "Train the model again from its job, or restore the data folder from a backup; then submit again."
    return AttemptFailed("artifact_corrupt", f"A file of the model {how}.", hint)


def rows_of_file(path: Path, kind: type[Row], on_progress: Callable[[float], None]) -> Iterator[Row]:
    """The rows of a data file in order. Raises: AttemptFailed (`bad_data`) naming the first line that cannot be used."""
    size = max(1, path.stat().st_size)
    with path.open("rb") as stream, bad_rows_told():
        for row in read_rows(stream, kind):
            on_progress(_position(stream) / size)
            yield row


@contextmanager
def bad_rows_told() -> Generator[None]:
    """A row that cannot be used ends the attempt. Raises: AttemptFailed (`bad_data`) naming its line."""
    try:
        yield
    except BadRow as bad:
        where = f"Line {bad.line}: " if bad.line is not None else ""
        raise AttemptFailed("bad_data", f"{where}{bad.message} ({bad.code})", bad.hint) from None


def _position(stream: BinaryIO) -> int:
    return 0 if stream.closed else stream.tell()
