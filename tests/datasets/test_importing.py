"""Row D48 of the catalogue of bad input, and datasets from a hub of our own on loopback."""

import json
from contextlib import contextmanager
from pathlib import Path

import pytest

from luthier.datasets.importing import Imports
from luthier.datasets.sources import Import, Sources
from luthier.datasets.types import Room
from luthier.errors import DatasetRejected, Invalid
from luthier.seams import Fetched, NotFetched

from .conftest import jsonl, rows

COMMIT = "a" * 40
HUB = "https://hub.example"
GOOD = jsonl(*({"question": f"{n}?", "answer": "b"} for n in range(12)))


class Files:
    """A fetcher of files that are given."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.asked: list[tuple[str, int]] = []

    @contextmanager
    def fetch(self, url: str, *, max_bytes: int, redirects: int = 0):
        self.asked.append((url, redirects))
        data = self.files.get(url)
        if data is None:
            raise NotFetched("the server answered with status 404")
        yield Fetched(len(data), (data[at : at + 100] for at in range(0, len(data), 100)))


def listing(*names: str, sha: str = COMMIT) -> bytes:
    return json.dumps({"sha": sha, "siblings": [{"rfilename": name} for name in names]}).encode()


def hub(*names: str, revision: str = "main", **files: bytes) -> Files:
    found = {f"{HUB}/api/datasets/openai/gsm8k/revision/{revision}": listing(*names)}
    return Files(found | {f"{HUB}/datasets/openai/gsm8k/resolve/{COMMIT}/{name}": GOOD for name in names} | files)


def imports(datasets, files: Files) -> Imports:
    room = Room(Path("unused"), max_upload_bytes=10**6, inline_upload_bytes=10**5)
    return Imports(datasets, None, files, Sources(files, HUB + "/"), room)  # all of these are small: nothing is delivered later


def refusal(datasets, alice, files: Files, **wanted) -> Invalid:
    with pytest.raises(Invalid) as refused:
        imports(datasets, files).take(alice, Import(**wanted))
    assert refused.value.error_code == "source"
    return refused.value


MAP = "prompt=question,completion=answer"


def test_a_hub_dataset_is_fetched_at_its_commit_and_says_where_it_is_from(datasets, alice):
    files = hub("README.md", ".gitattributes", "data/train-00000-of-00001.jsonl", "data/test.jsonl", "dataset_infos.json")
    made = imports(datasets, files).take(alice, Import(source="openai/gsm8k", map=MAP))
    assert (made.name, made.version, made.rows) == ("gsm8k", 1, 12)
    assert made.report.origin == f"hub:openai/gsm8k@{COMMIT}/data/train-00000-of-00001.jsonl"
    assert files.asked[1][0] == f"{HUB}/datasets/openai/gsm8k/resolve/{COMMIT}/data/train-00000-of-00001.jsonl"
    again = imports(datasets, files).take(alice, Import(source="openai/gsm8k", file="data/test.jsonl", map=MAP, name="gsm8k"))
    assert (again.version, again.report.origin) == (2, f"hub:openai/gsm8k@{COMMIT}/data/test.jsonl")


def test_a_revision_is_asked_for_as_it_is_named(datasets, alice):
    files = hub("a.parquet", revision="refs%2Fconvert%2Fparquet")
    with pytest.raises(DatasetRejected):  # the rows need a mapping
        imports(datasets, files).take(alice, Import(source="openai/gsm8k", revision="refs/convert/parquet"))
    for wrong in ("../main", "a b", "", "a..b"):
        refusal(datasets, alice, files, source="openai/gsm8k", revision=wrong or "/")


def test_which_file_must_be_clear(datasets, alice):
    told = refusal(datasets, alice, hub("a.jsonl", "b.jsonl"), source="openai/gsm8k")
    assert "a.jsonl, b.jsonl" in str(told.hint)
    assert "no such file" in refusal(datasets, alice, hub("a.jsonl"), source="openai/gsm8k", file="../../etc/passwd").message
    assert "no files of data" in refusal(datasets, alice, hub("README.md"), source="openai/gsm8k").message


def test_d48_loader_scripts_are_not_run(datasets, alice):
    assert "loader script" in refusal(datasets, alice, hub("gsm8k.py", "README.md"), source="openai/gsm8k").message


@pytest.mark.parametrize(
    "source",
    [
        "file:///etc/passwd",
        "s3://other-bucket/a",
        "gs://other/a",
        "http://example.org/a.jsonl",
        "/etc/passwd",
        "a/b/c",
        "../x",
        "a b",
    ],
)
def test_d48_other_sources_are_refused_and_nothing_is_asked(datasets, alice, source):
    files = hub("a.jsonl")
    refusal(datasets, alice, files, source=source)
    assert files.asked == []


@pytest.mark.parametrize("answer", [b"", b"[]", b"<html>", listing(sha="main"), b'{"sha": 1}', b"[" * 100_000])
def test_a_hub_that_answers_nonsense(datasets, alice, answer):
    refusal(datasets, alice, Files({f"{HUB}/api/datasets/x/revision/main": answer}), source="x")


def test_an_address_is_fetched_without_redirects_and_its_keys_are_not_kept(world, datasets, alice):
    url = "https://example.org/data/sums.jsonl?key=secret#part"
    files = Files({url: jsonl(*rows())})
    made = imports(datasets, files).take(alice, Import(source=url))
    assert (made.name, made.report.origin) == ("sums", "https://example.org/data/sums.jsonl")
    assert files.asked == [(url, 0)]
    assert "status 404" in refusal(datasets, alice, files, source="https://example.org/none").message
    assert len([name for name in world.files() if name.endswith("upload")]) == 1
