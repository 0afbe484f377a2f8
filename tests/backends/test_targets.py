"""Targets: a folder and a git repository in serverless-llm's layout. One contract, then what each is besides."""

from __future__ import annotations

import io
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from luthier.backends.targets.folder import FolderTarget
from luthier.backends.targets.git import GitTarget
from luthier.seams import Deployable, NotDeployed

ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
ABOUT = {"version": "1", "model_id": "model_1", "base_model": "luthier/tiny", "sha256": "0" * 64, "team": "team_a"}


def a_model(data: bytes = b"GGUF one", name: str = "intents", file_name: str = "intents.gguf", **about: str) -> Deployable:
    return Deployable(name, file_name, {**ABOUT, **about}, io.BytesIO(data), len(data))


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "init.defaultBranch=main")
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *words], env=ENVIRONMENT, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture(params=["folder", "git"])
def place(request, tmp_path):
    """A target that is ready, and its folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "README.md").write_text("theirs\n")
    if request.param == "folder":
        return FolderTarget(folder), folder
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "theirs")
    return GitTarget(folder, ENVIRONMENT), folder


def entries(folder: Path) -> list[dict]:
    return json.loads((folder / "config/models.json").read_text())["models"]


def test_file_and_entry_lie_where_serverless_llm_looks(place):
    target, folder = place
    assert target.deploy(a_model()).path == "models/intents.gguf"
    assert (folder / "models/intents.gguf").read_bytes() == b"GGUF one"
    assert entries(folder) == [{"name": "intents", "path": "models/intents.gguf", **ABOUT}]
    target.deploy(a_model(b"GGUF two", "other", "other.gguf"))
    target.deploy(a_model(b"GGUF new", version="2"))
    assert [(entry["name"], entry["version"]) for entry in entries(folder)] == [("other", "1"), ("intents", "2")]
    assert (folder / "models/intents.gguf").read_bytes() == b"GGUF new"
    assert (folder / "README.md").read_text() == "theirs\n"
    assert sorted(path.name for path in (folder / "models").iterdir()) == ["intents.gguf", "other.gguf"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"about": {**ABOUT, "team": "team_b"}}, "another team"),
        ({"name": "Intents", "about": ABOUT}, "another model's file"),
    ],
)
def test_a_name_that_is_taken_is_refused_and_nothing_is_touched(place, change, said):
    target, folder = place
    target.deploy(a_model())
    with pytest.raises(NotDeployed, match=said):
        target.deploy(replace(a_model(b"GGUF evil"), **change))
    assert (folder / "models/intents.gguf").read_bytes() == b"GGUF one"
    assert len(entries(folder)) == 1


@pytest.mark.parametrize("text", ["{", "[]", '{"models": 3}'])
def test_a_config_that_cannot_be_read_is_left_as_it_is(place, text):
    target, folder = place
    (folder / "config").mkdir()
    (folder / "config/models.json").write_text(text)
    if isinstance(target, GitTarget):
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "-m", "broken")
    with pytest.raises(NotDeployed):
        target.deploy(a_model())
    assert (folder / "config/models.json").read_text() == text
    assert not (folder / "models").exists()


def test_a_link_in_the_target_leads_nowhere(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "models").symlink_to(tmp_path)
    with pytest.raises(NotDeployed, match="is a link"):
        FolderTarget(folder).deploy(a_model())
    assert not (tmp_path / "intents.gguf").exists()


@pytest.mark.parametrize("target", [FolderTarget, lambda folder: GitTarget(folder, ENVIRONMENT)])
def test_a_target_that_is_not_there_is_not_made(target, tmp_path):
    with pytest.raises(NotDeployed, match="is missing"):
        target(tmp_path / "gone").deploy(a_model())
    assert not (tmp_path / "gone").exists()


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    git(folder, "commit", "--quiet", "--allow-empty", "-m", "first")
    return folder


def test_a_deployment_is_one_commit_and_the_same_again_is_none(repository):
    first = GitTarget(repository, ENVIRONMENT).deploy(a_model())
    assert first.commit == git(repository, "rev-parse", "HEAD")
    assert git(repository, "show", "--stat", "--format=%s%n%an", "HEAD").splitlines()[:2] == [
        "Add fine-tuned model: intents",
        "Luthier",
    ]
    assert GitTarget(repository, ENVIRONMENT).deploy(a_model()) == replace(first, pushed=False)
    assert git(repository, "rev-list", "--count", "HEAD") == "2"


def test_no_hook_of_the_repository_is_run(repository, tmp_path):
    hook = repository / ".git/hooks/pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\nexit 1\n")
    hook.chmod(0o755)
    assert GitTarget(repository, ENVIRONMENT).deploy(a_model()).commit
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("dirty", ["tracked", "staged", "in our place"])
def test_a_repository_with_changes_is_left_alone(repository, dirty):
    (repository / "theirs").write_text("1")
    git(repository, "add", "theirs")
    if dirty != "staged":
        git(repository, "commit", "--quiet", "-m", "theirs")
    if dirty == "tracked":
        (repository / "theirs").write_text("2")
    if dirty == "in our place":
        (repository / "config").mkdir()
        (repository / "config/models.json").write_text("{}")
    before = git(repository, "status", "--porcelain")
    with pytest.raises(NotDeployed, match="not committed"):
        GitTarget(repository, ENVIRONMENT).deploy(a_model())
    assert git(repository, "status", "--porcelain") == before


def test_a_folder_that_is_no_repository_or_only_lies_in_one_is_refused(repository, tmp_path):
    (tmp_path / "plain").mkdir()
    with pytest.raises(NotDeployed, match="no git repository"):
        GitTarget(tmp_path / "plain", ENVIRONMENT).deploy(a_model())
    (repository / "within").mkdir()
    with pytest.raises(NotDeployed, match="lies within"):
        GitTarget(repository / "within", ENVIRONMENT).deploy(a_model())


def test_a_push_reaches_the_remote_and_one_that_fails_leaves_no_commit(repository, tmp_path):
    remote = tmp_path / "remote.git"
    git(tmp_path, "init", "--quiet", "--bare", str(remote))
    target = GitTarget(repository, ENVIRONMENT, push=True)
    before = git(repository, "rev-parse", "HEAD")
    with pytest.raises(NotDeployed, match=r"`git push` ended with status \d+"):
        target.deploy(a_model())
    assert git(repository, "rev-parse", "HEAD") == before
    assert git(repository, "status", "--porcelain") == ""
    git(repository, "remote", "add", "origin", str(remote))
    git(repository, "push", "--quiet", "--set-upstream", "origin", "main")
    done = target.deploy(a_model())
    assert done.pushed
    assert git(remote, "rev-parse", "main") == done.commit
