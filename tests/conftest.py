"""For all tests: a disk that breaks on demand, and the page on which `make prove` writes what it measured."""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import hypothesis
import psutil
import pytest

ROOT = Path(__file__).parents[1]
_NUMBERS = itertools.count(1)
# Servers of the tests keep no trainer ready: one that nobody needs would take the processor from those that are looked at.
os.environ.setdefault("LUTHIER_WARM_TRAINERS", "0")
# The same examples in each run: whoever changes a line learns what the line did. New ones are looked for by `make prove`.
hypothesis.settings.register_profile("luthier", derandomize=True, database=None)
hypothesis.settings.load_profile("luthier")


@dataclass(frozen=True)
class Fault:
    """What breaks: the call of this kind with this number, on paths that contain `under`. `disk.c` explains the words."""

    call: str
    how: str
    at: int = 1
    errno: int = 0
    under: str = "/"

    def __str__(self) -> str:
        return f"{self.call}-{self.how}{self.errno or ''}-{self.at}"


class FaultyDisk:
    """Processes that are started with `environment` have a disk that breaks as `arm` last said."""

    def __init__(self, library: Path, folder: Path) -> None:
        self._plan = folder / "plan"
        self._hits = folder / "plan.hit"
        self.environment = {"LD_PRELOAD": str(library), "FAULT_PLAN": str(self._plan)}

    def arm(self, fault: Fault) -> None:
        arriving = self._plan.with_name("plan.new")
        arriving.write_text(self.plan(fault), "utf-8")
        arriving.replace(self._plan)

    def plan(self, fault: Fault) -> str:
        """What `arm` writes, for a process that arms itself. Forgets all hits so far."""
        self.disarm()
        return f"{next(_NUMBERS)} {fault.call} {fault.how} {fault.errno} {fault.at} {fault.under}\n"

    def disarm(self) -> None:
        self._plan.unlink(missing_ok=True)
        self._hits.unlink(missing_ok=True)

    def hits(self, pid: int | None = None) -> int:
        """How many calls it broke (or counted) since it was armed, in all processes or in one."""
        if not self._hits.exists():
            return 0
        return sum(pid is None or int(line) == pid for line in self._hits.read_text("utf-8").split())


@pytest.fixture(scope="session")
def _faulty_library(tmp_path_factory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None or platform.system() != "Linux":
        pytest.skip("the disk that breaks is a preloaded library: it needs Linux and a C compiler `cc`")
    library = tmp_path_factory.mktemp("library") / "disk.so"
    source = ROOT / "tests" / "faults" / "disk.c"
    subprocess.run([compiler, "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture
def disk(_faulty_library, tmp_path_factory) -> Iterator[FaultyDisk]:
    disk = FaultyDisk(_faulty_library, tmp_path_factory.mktemp("faults"))
    yield disk
    disk.disarm()


@pytest.fixture
def fault() -> type[Fault]:
    return Fault


class SmallDisk:
    """A file system of 16 MiB that only processes started with `inside` see at `path`; everybody else looks at `seen`."""

    BYTES = 16 * 2**20

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        mount = f'mount -t tmpfs -o size={self.BYTES} tmpfs "$0" && echo mounted && exec cat'
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._holder = subprocess.Popen(["unshare", "-m", "sh", "-c", mount, path], **pipes)
        if self._holder.stdout.readline() != b"mounted\n":
            self.close()
            pytest.skip("a small disk needs the right to mount one: root, and `unshare`")
        self.inside = ["nsenter", "-t", str(self._holder.pid), "-m"]
        self.seen = Path(f"/proc/{self._holder.pid}/root") / path.relative_to("/")

    def fill(self) -> None:
        """Until not one byte is left."""
        with (self.seen / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"0" * 4096)

    def empty(self) -> None:
        (self.seen / "ballast").unlink()

    def close(self) -> None:
        self._holder.communicate()


@pytest.fixture
def small_disk(tmp_path) -> Iterator[SmallDisk]:
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        pytest.skip("a small disk needs `unshare` and `nsenter`")
    disk = SmallDisk(tmp_path / "small")
    yield disk
    disk.close()


# -- a real Redis ---------------------------------------------------------------------------------------------------------


class Redis:
    """A server of its own on a free port, which can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._line = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._line, stdout=subprocess.DEVNULL)
        end = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < end, "redis-server does not listen"
                time.sleep(0.02)  # another process starts: there is nothing to step forward but real time

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)


@pytest.fixture(scope="session")
def own_redis(tmp_path_factory) -> Iterator[Redis]:
    if shutil.which("redis-server") is None:
        pytest.skip("there is no redis-server on PATH")
    redis = Redis(tmp_path_factory.mktemp("redis"))
    yield redis
    redis.stop()


@pytest.fixture
def redis_url(request) -> str:
    """That of LUTHIER_TEST_REDIS_URL, else of a server of our own. Names in it are to be random: it may be anybody's."""
    return os.environ.get("LUTHIER_TEST_REDIS_URL") or request.getfixturevalue("own_redis").url


# -- what `make prove` records --------------------------------------------------------------------------------------------

Record = Callable[[str, str, dict[str, object]], None]


@pytest.fixture
def record(request) -> Record:
    """Write figures to `docs/proofs/<page>.md`, in a full run only: `record(page, title, {what: figure})`."""

    def write(page: str, title: str, figures: dict[str, object]) -> None:
        if request.node.get_closest_marker("prove") is not None:
            path = ROOT / "docs" / "proofs" / f"{page}.md"
            path.write_text(_page(title, request.node, figures), "utf-8")

    return write


def _page(title: str, node: pytest.Item, figures: dict[str, object]) -> str:
    rows = "".join(f"| {what} | {_shown(figure)} |\n" for what, figure in figures.items())
    machine = f"{os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB of memory, {platform.system()}"
    when = f"{datetime.now(UTC):%Y-%m-%d}"
    return (
        f"# {title}\n\n"
        f"Measured on {when} with Python {platform.python_version()} on a machine with {machine}, other work beside it.\n\n"
        f"```bash\npytest -m prove {node.nodeid.split('[')[0]}   # `make prove` runs all\n```\n\n"
        f"| what | figure |\n|---|--:|\n{rows}"
    )


def _shown(figure: object) -> str:
    return f"{figure:,}" if isinstance(figure, int) else f"{figure:,.1f}" if isinstance(figure, float) else str(figure)
