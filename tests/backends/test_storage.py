"""The contract of `seams.Storage`, run on every backend."""

import os
import threading
from pathlib import Path

import pytest

from luthier.backends.storage.local import LocalStorage
from luthier.errors import StorageFull
from luthier.seams import NotStored


@pytest.fixture(params=["local"])
def storage(request, tmp_path: Path):
    return LocalStorage(tmp_path / "root")


def test_what_was_written_is_read_and_replaced(storage):
    storage.write("users/a/x.json", b"one")
    storage.write("users/a/x.json", b"two")
    assert (storage.read("users/a/x.json"), storage.size("users/a/x.json")) == (b"two", 3)


def test_what_is_not_there_is_told_apart_from_empty(storage):
    storage.write("empty", b"")
    assert (storage.read("empty"), storage.size("empty"), storage.size("nothing")) == (b"", 0, None)
    with pytest.raises(NotStored):
        storage.read("nothing")
    with pytest.raises(NotStored):
        storage.read("empty/below")


def test_one_of_many_creators_wins(storage):
    won = []
    barrier = threading.Barrier(8)

    def create(number: int) -> None:
        barrier.wait()
        if storage.create("attempts/1/owner.json", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert storage.read("attempts/1/owner.json") == str(won[0]).encode()


def test_a_new_folder_comes_with_its_files_and_only_once(storage):
    storage.place("users/a/jobs/1", {"run.yaml": b"spec", "status.json": b""})
    assert list(storage.names("users")) == ["users/a/jobs/1/run.yaml", "users/a/jobs/1/status.json"]
    assert (storage.read("users/a/jobs/1/run.yaml"), storage.size("users/a/jobs/1/status.json")) == (b"spec", 0)
    with pytest.raises(FileExistsError):
        storage.place("users/a/jobs/1", {"other": b"", "run.yaml": b"another"})
    assert storage.read("users/a/jobs/1/run.yaml") == b"spec"
    with pytest.raises(ValueError, match="storage name"):
        storage.place("users/../b", {"run.yaml": b""})


def test_a_reader_never_sees_a_part(storage):
    bodies = {bytes([65 + number]) * 200_000 for number in range(2)}
    storage.write("status.json", min(bodies))
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            for body in bodies:
                storage.write("status.json", body)

    writer = threading.Thread(target=write)
    writer.start()
    seen = {storage.read("status.json") for _ in range(300)}
    done.set()
    writer.join()
    assert seen <= bodies


def test_an_open_stream_keeps_the_bytes_it_was_opened_on(storage):
    storage.write("weights", b"old")
    with storage.open("weights") as stream:
        storage.write("weights", b"new")
        assert stream.read() == b"old"


def test_names_are_sorted_whole_and_without_temporaries(storage):
    for name in ("b/2", "b/1/deep", "a"):
        storage.write(name, b"")
    assert list(storage.names("b")) == ["b/1/deep", "b/2"]
    assert list(storage.names("nowhere")) == []


def test_append_and_delete(storage):
    storage.append("job.log", b"a\n")
    storage.append("job.log", b"b\n")
    assert storage.read("job.log") == b"a\nb\n"
    storage.write("tree/leaf", b"")
    for name in ("job.log", "tree", "nothing"):
        storage.delete(name)
    assert list(storage.names("tree")) == []


def test_files_go_in_and_out_whole(storage, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"weights")
    storage.put_file("models/m/adapter", source)
    storage.fetch_file("models/m/adapter", tmp_path / "work/adapter")
    assert (tmp_path / "work/adapter").read_bytes() == b"weights"
    with pytest.raises(NotStored):
        storage.fetch_file("models/m/missing", tmp_path / "x")


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "a//b", "", ".", "a/./b", "a\x00b", "a/"])
def test_a_name_that_leads_elsewhere_is_refused(storage, name):
    for act in (storage.read, storage.delete, lambda given: storage.write(given, b"x")):
        with pytest.raises(ValueError, match="storage name"):
            act(name)


def test_links_and_pipes_are_not_objects(tmp_path):
    storage = LocalStorage(tmp_path / "root")
    (tmp_path / "secret").write_text("secret")
    storage.write("dir/ok", b"")
    (storage.root / "dir/link").symlink_to(tmp_path / "secret")
    (storage.root / "linked").symlink_to(tmp_path)
    os.mkfifo(storage.root / "dir/pipe")
    for name in ("dir/link", "dir/pipe", "dir"):
        with pytest.raises(NotStored):
            storage.read(name)
    with pytest.raises(ValueError, match="symbolic link"):
        storage.read("linked/secret")
    assert list(storage.names("linked")) == []


def test_a_name_longer_than_any_file_has_is_not_stored(tmp_path):
    storage = LocalStorage(tmp_path / "root")
    assert storage.size("x" * 300) is None
    with pytest.raises(NotStored):
        storage.read("x" * 300)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_told_and_leaves_the_old_bytes(tmp_path):
    storage = LocalStorage(tmp_path / "root")
    storage.write("dir/status.json", b"old")
    (storage.root / "dir/full").symlink_to("/dev/full")
    with pytest.raises(StorageFull):
        storage.append("dir/full", b"x" * 100_000)
    assert storage.read("dir/status.json") == b"old"
