"""A large file on its way in: how fast it is taken, and how much memory the server and the check of the file need.

    python benchmarks/upload.py [--gigabytes 1 10] [--check-s 40]

Each size has a `luthier up` of its own on an empty folder, and is sent by the SDK, in parts (tus), over loopback: the file is
hashed, sent, hashed once more by the server, and kept. The check runs in a process of its own after that; it is watched until it
ends, or for `--check-s` seconds. Memory is the most that the kernel ever counted for a process (VmHWM), without the page cache.
The rows are chats of about 4 KB that all differ. There must be room for three times the largest file.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import facts
import psutil

from luthier import Client

RESULTS = Path(__file__).parent / "results"
GB = 10**9
WORDS = "the order left our house on monday and will be with you before the end of this week "


def write_rows(path: Path, size: int) -> None:
    """Chats until the file is nearly so large; none of them twice."""
    answer = (WORDS * 50)[:3900].encode()
    row = b'{"messages":[{"role":"user","content":"Where is order %d?"},{"role":"assistant","content":"%d: %s."}]}\n'
    with path.open("wb", buffering=16 * 2**20) as file:
        for number in itertools.count():
            written = file.write(row % (number, number, answer))
            if written * (number + 2) > size:
                return


@contextlib.contextmanager
def server(data: Path, **environment: str) -> Iterator[psutil.Process]:
    """A platform on an empty folder, when it answers."""
    command = [sys.executable, "-m", "luthier.server.main", "up", "--port", "0", "--data", str(data)]
    data.mkdir(exist_ok=True)
    with (data / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment})
    try:
        until = time.monotonic() + 60
        while not (data / "server.json").is_file():
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError((data / "server.log").read_text())
            time.sleep(0.05)
        yield psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def most_mib(process: psutil.Process) -> float:
    """The most memory that a process has had."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0


class Checks:
    """The processes that check a file, as they come and go."""

    def __init__(self, parent: psutil.Process) -> None:
        self._parent = parent
        self.most: dict[int, float] = {}

    def look(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in self._parent.children(recursive=True):
                if "luthier.datasets.validation" in child.cmdline() or child.ppid() in self.most:
                    self.most[child.pid] = max(self.most.get(child.pid, 0.0), most_mib(child))


def one_size(folder: Path, gigabytes: float, check_s: float) -> dict[str, Any]:
    """Send a file of this size to a fresh server."""
    path, data = folder / "rows.jsonl", folder / "data"
    write_rows(path, int(gigabytes * GB))
    with server(data) as process:
        url = json.loads((data / "server.json").read_text())["url"]
        with Client(base_url=url, api_key=(data / "admin.key").read_text().strip()) as client:
            before, began = most_mib(process), time.perf_counter()
            dataset = client.datasets.upload(path, name="rows")
            seconds = time.perf_counter() - began
            checks, state = Checks(process), dataset.state
            checked = time.perf_counter()
            while state == "validating" and time.perf_counter() - checked < check_s:
                checks.look()
                time.sleep(0.1)
                state = client.datasets.get(dataset.id).state
            report = client.datasets.get(dataset.id).get("report") or {}
            measured = {
                "bytes": path.stat().st_size,
                "seconds": round(seconds, 2),
                "mb_per_s": round(path.stat().st_size / seconds / 1e6, 1),
                "server_mib_before": round(before, 1),
                "server_mib": round(most_mib(process), 1),
                "check_mib": [round(mib, 1) for mib in checks.most.values()],
                "state": state,
                "watched_check_s": round(time.perf_counter() - checked, 1),
                "rows": report.get("rows"),
            }
    shutil.rmtree(data)
    path.unlink()
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1.0, 10.0])
    parser.add_argument("--check-s", type=float, default=40.0)
    parser.add_argument("--folder", type=Path, help="Where there is room; a temporary folder by default.")
    options = parser.parse_args()
    sizes: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for gigabytes in options.gigabytes:
            needed, free = 3 * gigabytes * GB, shutil.disk_usage(folder).free
            if free < needed:
                raise SystemExit(f"{gigabytes} GB need {needed / GB:.0f} GB of disk; {free / GB:.0f} are free.")
            sizes[f"{gigabytes:g} GB"] = one_size(Path(folder), gigabytes, options.check_s)
            print(json.dumps({f"{gigabytes:g} GB": sizes[f"{gigabytes:g} GB"]}), flush=True)
    record = {"at": f"{datetime.now(UTC):%Y-%m-%d}", "machine": facts.machine(), "sizes": sizes}
    target = RESULTS / f"{os.uname().machine}-{os.cpu_count()}cpu" / f"upload-{record['at']}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
