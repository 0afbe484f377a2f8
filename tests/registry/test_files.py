"""What is downloaded or loaded is what was registered, or it is refused."""

import hashlib
import io
import os
import tarfile
import time

import psutil
import pytest

from luthier.errors import ArtifactCorrupt, NotFound
from luthier.registry.bundles import Seals, one_file
from luthier.registry.types import Stage
from luthier.values import ModelFile


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()  # the job's results may share the file
    path.write_bytes(data)


def test_a_file_is_read_from_its_first_byte(world, registry, alice):
    model = world.model(alice)
    file, stream = registry.open(alice, model.id, "adapter_model.safetensors")
    with stream:
        assert stream.read() == world.weights
    assert file.bytes == len(world.weights)


@pytest.mark.parametrize(
    "name", ["../metadata.json", "/etc/passwd", "metadata.json", "", "..%2fmetadata.json", "adapter_model.safetensors\0"]
)
def test_only_the_models_own_files_have_a_name(world, registry, alice, name):
    with pytest.raises(NotFound):
        registry.open(alice, world.model(alice).id, name)


@pytest.mark.parametrize("harm", [flipped, lambda path: path.unlink(), lambda path: path.write_bytes(b"short")])
def test_a_file_that_changed_is_refused_before_its_first_byte(world, registry, alice, harm):
    model = world.model(alice)
    harm(world.weights_path(model, alice))
    for read in (
        lambda: registry.open(alice, model.id, "adapter_model.safetensors"),
        lambda: registry.archive(alice, model.id),
        lambda: registry.weights(alice, model),
    ):
        with pytest.raises(ArtifactCorrupt) as refused:
            read()
        assert refused.value.details == {"file": "adapter_model.safetensors"}
        assert str(world.folder) not in str(refused.value)


def test_a_link_in_place_of_a_file_is_not_followed(world, registry, alice):
    model = world.model(alice)
    path = world.weights_path(model, alice)
    path.unlink()
    path.symlink_to("/etc/hostname")
    with pytest.raises(ArtifactCorrupt):
        registry.open(alice, model.id, "adapter_model.safetensors")


def test_the_archive_is_a_plain_tar_of_the_announced_size(world, registry, alice):
    model = world.model(alice)
    with (archive := registry.archive(alice, model.id)).stream:
        data = archive.stream.read()
    assert (archive.name, archive.size) == (f"{model.id}.tar", len(data))
    assert archive.sha256 == hashlib.sha256(data).hexdigest()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = {member.name: member for member in tar.getmembers()}
        files = {f"{model.id}/{file.name}": file.bytes for file in registry.files(alice, model.id)}
        assert {name: member.size for name, member in members.items()} == files
        weights = tar.extractfile(f"{model.id}/adapter_model.safetensors")
        assert weights is not None
        assert weights.read() == world.weights


def test_an_archive_is_the_same_bytes_each_time_and_from_each_place(world, registry, alice):
    model = world.model(alice)
    with registry.archive(alice, model.id).stream as once, registry.archive(alice, model.id).stream as again:
        data = once.read()
        for first in (0, 1, 511, 512, 700, len(data) - 1500, len(data) - 1):
            again.seek(first)
            assert again.read(700) == data[first : first + 700]
        assert again.seek(0, 2) == len(data)
        assert again.read() == b""


def test_an_archive_that_nobody_reads_holds_no_file_open(world, registry, alice):
    model = world.model(alice)
    before = len(psutil.Process().open_files())
    stream = registry.archive(alice, model.id).stream
    assert len(psutil.Process().open_files()) == before + 3
    stream.close()
    assert len(psutil.Process().open_files()) == before
    flipped(world.weights_path(model, alice))
    with pytest.raises(ArtifactCorrupt):
        registry.archive(alice, model.id)
    assert len(psutil.Process().open_files()) == before


def test_a_download_goes_on_when_the_model_is_deleted_meanwhile(world, registry, alice):
    model = world.model(alice)
    with (archive := registry.archive(alice, model.id)).stream:
        first = archive.stream.read(100)
        registry.delete(alice, model.id)
        assert hashlib.sha256(first + archive.stream.read()).hexdigest() == archive.sha256


def test_what_was_read_through_lately_and_not_written_since_is_not_read_again(world, registry, alice, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(world.weights)
    record = ModelFile(name="file", bytes=len(world.weights), sha256=hashlib.sha256(world.weights).hexdigest())
    clock, read = [0.0], []

    def sealed() -> str:
        with one_file(record, lambda file: path.open("rb")) as bundle:
            tell = bundle.digest
            bundle.digest = lambda refuse: read.append(1) or tell(refuse)
            return seals.sealed(bundle, lambda file: ArtifactCorrupt("changed"))

    seals = Seals(lambda: clock[0])
    assert [sealed(), sealed()] == [record.sha256] * 2
    assert len(read) == 2  # written a moment ago: another write could look the same
    old = time.time() - 60
    os.utime(path, (old, old))
    assert [sealed(), sealed()] == [record.sha256] * 2
    assert len(read) == 3
    clock[0] = 601.0
    sealed()
    assert len(read) == 4
    flipped(path)
    os.utime(path, (old, old))
    with pytest.raises(ArtifactCorrupt):
        sealed()


def test_engines_load_a_local_copy_that_is_made_once(world, registry, alice):
    model = world.model(alice)
    folder = registry.weights(alice, model)
    assert (folder / "adapter_model.safetensors").read_bytes() == world.weights
    assert registry.weights(alice, model) == folder
    assert [path.name for path in folder.parent.iterdir()] == [model.id]


def test_a_lost_database_loses_no_model(world, registry, alice, bob):
    first, second, third = world.model(alice), world.model(alice), world.model(bob)
    world.promoted(alice, first)
    second = world.promoted(alice, second)
    first = registry.get(alice, first.id)
    world.lose_the_database()
    registry = world.registry
    assert registry.reindex() == 3
    assert [registry.get(alice, model.id) for model in (first, second)] == [first, second]
    assert registry.get(bob, third.id) == third
    assert registry.resolve(alice, "intents").id == second.id
    assert registry.reindex() == 0
    assert world.model(alice).version == "3"


def test_reindex_brings_back_nothing_that_was_deleted_or_is_not_whole(world, registry, alice):
    deleted, broken, kept = world.model(alice), world.model(alice), world.model(alice)
    metadata = world.storage.read(f"users/team_alice/models/{deleted.id}/metadata.json")
    registry.delete(alice, deleted.id)
    world.storage.write(f"users/team_alice/models/{deleted.id}/metadata.json", metadata)
    assert registry.reindex() == 0
    world.storage.delete(f"users/team_alice/models/{deleted.id}")
    world.weights_path(broken, alice).write_bytes(b"short")
    world.lose_the_database()
    assert world.registry.reindex() == 1
    assert [model.id for model in world.registry.list(alice).data] == [kept.id]


def test_a_folder_that_names_another_team_is_not_brought_back(world, registry, alice):
    model = world.model(alice)
    metadata = world.storage.read(f"users/team_alice/models/{model.id}/metadata.json")
    world.storage.delete("users/team_alice/models")
    world.storage.write(f"users/team_bob/models/{model.id}/metadata.json", metadata)
    world.lose_the_database()
    assert world.registry.reindex() == 0


def test_of_two_that_say_they_are_in_production_the_newer_one_is(world, registry, alice):
    first, second = world.model(alice), world.model(alice)
    world.promoted(alice, first)
    stale = world.storage.read(f"users/team_alice/models/{first.id}/metadata.json")
    world.promoted(alice, second)
    world.storage.write(f"users/team_alice/models/{first.id}/metadata.json", stale)  # as if the process had died in between
    world.lose_the_database()
    assert world.registry.reindex() == 2
    assert world.registry.resolve(alice, "intents").id == second.id
    assert world.registry.get(alice, first.id).stage is Stage.ARCHIVED
