"""`model exports`, `download --format`, `link`, `deploy` and `import`, against a real server."""

from __future__ import annotations

import json

import pytest

from luthier.faces.sdk.client import Client

from ...registry.adapters import files

DATA = b"GGUF" + bytes(range(256)) * 20
FILES = {"model.gguf": DATA, "Modelfile": b"FROM ./model.gguf\n"}


@pytest.fixture
def exported(world):
    model = world.model()
    world.export(model, export={"format": "gguf", "precision": "q8_0"})
    world.end_export(FILES)
    return model


def test_an_export_is_listed_and_fetched_by_its_format_and_goes_on_where_it_broke_off(terminal, world, exported, tmp_path):
    assert "q8_0" in terminal("model", "exports", "intents@1").out
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "model.gguf.part").write_bytes(DATA[:1000])  # what an earlier try left
    ended = terminal("model", "download", exported.id, "--format", "gguf", "--output", str(folder))
    assert (ended.code, ended.out.strip()) == (0, str(folder)), ended.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    (folder / "model.gguf").write_bytes(b"mine")
    assert terminal("model", "download", exported.id, "--format", "gguf", "--output", str(folder)).code == 2
    missing = terminal("model", "download", exported.id, "--format", "merged")
    assert missing.code != 0
    assert "was not exported" in missing.err


def test_a_part_of_another_file_is_not_gone_on_with(terminal, world, exported, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "model.gguf.part").write_bytes(b"x" * 1000)
    assert terminal("model", "download", exported.id, "--format", "gguf", "--output", str(folder)).code == 0
    assert (folder / "model.gguf").read_bytes() == DATA


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("download", "x", "--format", "zip"), "--format is one of"),
        (("download", "x", "--precision", "q8_0"), "--precision goes with --format"),
        (("deploy", "x", "--to", "y", "--stage", "Staging"), "--stage is one of"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_asked(terminal, fake, words, said):
    ended = terminal("model", *words)
    assert ended.code == 2
    assert said in ended.err
    assert not fake.asked


def test_a_model_is_deployed_and_linked(terminal, world, exported):
    assert "webhook" in terminal("model", "deploy", exported.id).err
    refused = terminal("model", "deploy", exported.id, "--to", "webhook")
    assert refused.code != 0
    assert "--stage any" in refused.err
    done = terminal("model", "deploy", exported.id, "--to", "webhook", "--stage", "any")
    assert done.code == 0, done.err
    assert "/links/" in done.out
    link = terminal("model", "link", exported.id, "--seconds", "60", "--json")
    assert json.loads(link.out)["bytes"] == len(DATA)


def test_an_adapter_that_is_imported_is_a_version_and_one_that_is_not_safe_is_refused(terminal, world, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name, data in {**files(), ".hidden": b"x"}.items():
        (folder / name).write_bytes(data)
    (folder / "checkpoint-3").mkdir()
    ended = terminal("model", "import", str(folder), "--name", "theirs")
    assert ended.code == 0, ended.err
    assert terminal("model", "show", "theirs@1", "--json").json["id"] == ended.out.strip()
    (folder / "optimizer.pt").write_bytes(b"x")
    refused = terminal("model", "import", str(folder), "--name", "theirs")
    assert refused.code != 0
    assert ".pt" in refused.err
    assert terminal("model", "import", str(tmp_path / "none"), "--name", "theirs").code != 0


def test_the_client_does_the_same(world, exported, tmp_path):
    with Client() as client:
        (found,) = client.models.exports(exported.id)
        assert (found.format, found.precision) == ("gguf", "q8_0")
        paths = client.models.download(exported.id, tmp_path / "out", form="gguf", precision="q8_0")
        assert sorted(path.name for path in paths) == ["Modelfile", "model.gguf"]
        assert client.models.deploy(exported.id, stage="any").kind == "webhook"
        assert [target.name for target in client.models.targets()] == ["webhook"]
        assert client.models.link(exported.id).sha256
