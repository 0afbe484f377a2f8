"""Models into service elsewhere, over HTTP: targets, deployments, the news of them, and links without a key."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
from sqlalchemy import select

from luthier.backends.targets.folder import FolderTarget
from luthier.errors import SetupError
from luthier.notifications.outbox import EventRow
from luthier.registry.deploys import Deploys, Place, file_name_of, targets_of
from luthier.registry.types import Stage

DATA = b"GGUF" + bytes(range(256)) * 8


def refused(answer, status, code):
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    return answer.json()["error"]


@pytest.fixture
def folder(world, tmp_path):
    """A platform that knows a folder of the caller's team, and one of another team."""
    served = tmp_path / "served"
    served.mkdir()
    before, platform = world.platform.transfers, world.platform
    places = {
        "serverless-llm": Place("folder", FolderTarget(served)),
        "theirs": Place("folder", FolderTarget(served), (world.stranger.tenant_id,)),
    }
    deploys = Deploys(platform.database, before.exports, before.links, places, "https://luthier.example", platform.now)
    world.app.state.platform = dataclasses.replace(platform, transfers=dataclasses.replace(before, deploys=deploys))
    return served


@pytest.fixture
def exported(world):
    model = world.model()
    world.export(model, export={"format": "gguf", "precision": "q8_0"})
    world.end_export({"model.gguf": DATA, "Modelfile": b"FROM ./model.gguf\n"})
    return model


def test_a_version_is_deployed_with_its_entry_and_endpoints_are_told(world, folder, exported):
    assert world.ask("GET", "/api/models/targets").json()["data"] == [
        {"name": "serverless-llm", "kind": "folder"},
        {"name": "webhook", "kind": "webhook"},
    ]
    path = f"/api/models/{exported.id}/deploy"
    refused(world.ask("POST", path, json={"target": "serverless-llm"}), 409, "not_in_production")
    assert not (folder / "models").exists()
    done = world.ask("POST", path, json={"target": "serverless-llm", "stage": "any"}).json()
    assert (done["path"], done["commit"], done["precision"]) == ("models/intents.gguf", None, "q8_0")
    assert (folder / "models/intents.gguf").read_bytes() == DATA
    (entry,) = json.loads((folder / "config/models.json").read_text())["models"]
    assert (entry["sha256"], entry["team"]) == (hashlib.sha256(DATA).hexdigest(), world.actor.tenant_id)
    with world.platform.database.read(world.actor.tenant_id) as session:
        told = json.loads(session.scalars(select(EventRow.data).where(EventRow.kind == "model.deployed")).one())
    assert (told["name"], told["target"], told["by"]) == ("intents", "serverless-llm", world.actor.user_id)
    link = urlsplit(told["url"])
    assert link.netloc == "luthier.example"
    assert world.client.get(f"{link.path}?{link.query}").content == DATA


def test_what_cannot_be_deployed_is_refused_with_its_reason(world, folder, exported):
    bare = world.model(name="bare")
    any_stage = {"target": "serverless-llm", "stage": "any"}
    refused(world.ask("POST", f"/api/models/{bare.id}/deploy", json=any_stage), 409, "not_exported")
    path = f"/api/models/{exported.id}/deploy"
    refused(world.ask("POST", path, json={**any_stage, "target": "nowhere"}), 404, "not_found")
    refused(world.ask("POST", path, json={**any_stage, "target": "theirs"}), 404, "not_found")
    refused(world.ask("POST", path, json={**any_stage, "precision": "q4_k_m"}), 409, "not_exported")
    theirs = world.model(world.stranger, "theirs")
    refused(world.ask("POST", f"/api/models/{theirs.id}/deploy", json=any_stage), 404, "not_found")
    folder.rmdir()
    error = refused(world.ask("POST", path, json=any_stage), 409, "deploy_refused")
    assert "its folder is missing" in error["message"]
    assert str(folder) not in json.dumps(error)


def test_the_webhook_needs_no_setting(world, exported):
    with world.platform.database.write(world.actor.tenant_id) as session:
        from luthier.registry import store

        store.by_id(session, exported.id).stage = Stage.PRODUCTION
    done = world.ask("POST", f"/api/models/{exported.id}/deploy", json={}).json()
    assert (done["kind"], done["path"], done["stage"]) == ("webhook", None, "Production")


def test_a_link_needs_no_key_and_opens_one_file_alone(world, exported):
    """M06"""
    made = world.ask("POST", f"/api/models/{exported.id}/links", json={"seconds": 60}).json()
    url = urlsplit(made["url"])
    where = f"{url.path}?{url.query}"
    whole = world.client.get(where)
    assert (whole.status_code, whole.content) == (200, DATA)
    assert made["sha256"] == whole.headers["etag"].strip('"')
    part = world.client.get(where, headers={"range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, DATA[4:8])
    other = world.stranger.tenant_id
    for changed in (
        where.replace("model.gguf", "Modelfile"),
        where.replace(world.actor.tenant_id, other),
        where.replace("until=", "until=9"),
        where[:-1] + ("0" if where[-1] != "0" else "1"),
        url.path,
    ):
        refused(world.client.get(changed), 403, "forbidden")
    assert world.client.get(f"{where}&x=1").status_code == 422
    assert world.client.post(where).status_code == 405
    job_id = url.path.split("/")[3]
    assert world.ask("DELETE", f"/api/jobs/{job_id}").status_code == 204
    refused(world.client.get(where), 410, "deleted")


def test_a_link_expires(world, exported):
    made = world.platform.transfers.links.made
    found = world.platform.transfers.exports.newest(world.actor, exported.id, "gguf")
    path, _ = made(world.platform.transfers.deploys.linked(found), timedelta(seconds=-2))
    assert "expired" in refused(world.client.get(path), 403, "forbidden")["message"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: {kind: ftp, path: /x}", "a.kind"),
        ("a: {kind: git}", "a.path"),
        ("a: {kind: git, path: /x, force: true}", "a.force"),
        ("webhook: {kind: folder, path: /x}", "there already"),
        ("a: [", "LUTHIER_DEPLOY_TARGETS"),
    ],
)
def test_a_file_of_targets_that_says_nonsense_stops_the_start(tmp_path, text, said):
    path = tmp_path / "targets.yaml"
    path.write_text(text)
    with pytest.raises(SetupError, match=said):
        targets_of(path)
    with pytest.raises(SetupError, match="cannot be read"):
        targets_of(tmp_path / "none")


def test_the_file_of_targets_names_them(tmp_path):
    path = tmp_path / "targets.yaml"
    path.write_text("serverless-llm: {kind: git, path: /srv/llm, push: true, teams: [team_1]}\n")
    (spec,) = targets_of(path).values()
    assert (spec.kind, str(spec.path), spec.push, spec.teams) == ("git", "/srv/llm", True, ("team_1",))
    assert (file_name_of("..."), file_name_of("a/../b")) == ("model", "a-..-b")
