"""Compiling the kernels: once for each machine, by any number of processes, and never at the price of a crash."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from luthier.modeling import kernels_build

CC = shutil.which("cc")
needs_compiler = pytest.mark.skipif(CC is None, reason="there is no C compiler here")

USE = """
import json, pathlib, torch
from luthier.modeling import kernels
torch.set_num_threads(2)
x = torch.ones(64, 32) @ torch.eye(32)
native = kernels.library() is not None
y = kernels.rms_norm(x, torch.full((32,), 2.0), 0.0)
y = y @ torch.eye(32)
maps = pathlib.Path("/proc/self/maps")
mapped = {line.split()[-1] for line in maps.read_text().splitlines()} if maps.exists() else set()
print(json.dumps({"native": native, "sum": y.sum().item(), "mapped": sorted(mapped)}))
"""


def a_compiler(folder: Path, body: str) -> str:
    """A compiler of the machine's version, whose work is `body`."""
    script = folder / "a-compiler"
    script.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec "{CC}" --version\n{body}\n')
    script.chmod(0o700)
    return str(script)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the compiled library, made where new files are writable by the group."""
    folder = tmp_path_factory.mktemp("kernels") / "cache"
    before = os.umask(0o002)
    try:
        assert kernels_build.load(folder) is not None
    finally:
        os.umask(before)
    return folder


@pytest.fixture
def cache(built, tmp_path) -> Path:
    """A copy of its own for each test: a loaded file stays loaded under its path."""
    folder = tmp_path / "cache"
    shutil.copytree(built, folder)
    return folder


@pytest.fixture
def no_work(tmp_path) -> str:
    return a_compiler(tmp_path, "exit 1")


def the_library(folder: Path) -> Path:
    (library,) = folder.iterdir()  # and nothing else is left there
    return library


@needs_compiler
def test_the_second_load_compiles_nothing(cache, no_work):
    before = the_library(cache).stat().st_mtime_ns
    assert kernels_build.load(cache, no_work) is not None
    assert the_library(cache).stat().st_mtime_ns == before


@needs_compiler
def test_only_its_owner_may_write_the_library(built):
    assert [path.stat().st_mode & 0o777 for path in (built, the_library(built))] == [0o700, 0o700]


def test_without_a_compiler_there_is_no_library(tmp_path):
    assert kernels_build.load(tmp_path, compiler="no-such-cc") is None


@needs_compiler
@pytest.mark.parametrize("body", ["exit 1", "kill -9 $$", "exit 0"], ids=["refuses", "dies", "makes nothing"])
def test_a_compiler_that_fails_leaves_nothing_behind(tmp_path, body):
    folder = tmp_path / "cache"
    assert kernels_build.load(folder, a_compiler(tmp_path, body)) is None
    assert list(folder.iterdir()) == []


@needs_compiler
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.9999])
def test_half_a_library_is_not_loaded(cache, no_work, share):
    library = the_library(cache)
    content = library.read_bytes()
    library.write_bytes(content[: int(len(content) * share)])
    assert kernels_build.load(cache, no_work) is None


@needs_compiler
def test_a_library_with_a_wrong_bit_is_compiled_again(cache):
    library = the_library(cache)
    content = bytearray(library.read_bytes())
    content[len(content) // 2] ^= 1
    library.write_bytes(content)
    assert kernels_build.load(cache) is not None
    assert the_library(cache).read_bytes() != content


@needs_compiler
@pytest.mark.parametrize("bit", [0o020, 0o002])
def test_a_folder_that_others_can_write_is_not_trusted(cache, bit):
    cache.chmod(0o700 | bit)
    before = the_library(cache).stat().st_mtime_ns
    assert kernels_build.load(cache) is None
    assert the_library(cache).stat().st_mtime_ns == before


@needs_compiler
def test_a_library_that_others_can_write_is_not_loaded(cache, no_work):
    the_library(cache).chmod(0o770)
    assert kernels_build.load(cache, no_work) is None


@needs_compiler
def test_a_place_that_is_no_folder_gives_no_library(tmp_path):
    (tmp_path / "file").touch()
    assert kernels_build.load(tmp_path / "file") is None
    assert kernels_build.load(tmp_path / "file" / "cache") is None


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> tuple[Path, list[dict]]:
    """What two processes saw that started at once with an empty cache."""
    home = tmp_path_factory.mktemp("home")
    command = [sys.executable, "-c", USE]
    environment = {**os.environ, "HOME": str(home), "OMP_NUM_THREADS": "2"}
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    return home, [json.loads(output) for output in outputs]


@needs_compiler
def test_two_processes_may_compile_at_once(two_processes):
    home, seen = two_processes
    assert [(each["native"], each["sum"]) for each in seen] == [(True, 64 * 32 * 2.0)] * 2
    assert the_library(home / ".cache" / "luthier" / "kernels").is_file()


@needs_compiler
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="this system does not say what a process has loaded")
def test_torch_and_the_kernels_share_one_pool_of_threads(two_processes):
    home, (seen, _) = two_processes
    assert any(path.startswith(str(home)) for path in seen["mapped"])
    runtimes = {path for path in seen["mapped"] if "libgomp" in path or "libomp" in path or "libiomp" in path}
    assert len(runtimes) == 1
    assert Path(torch.__file__).parent.parent in Path(runtimes.pop()).parents  # the one that torch brought along
