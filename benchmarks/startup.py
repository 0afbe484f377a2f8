"""How fast and how light the platform starts: `luthier up` to its first answered request, its memory, and `tune --help`.

    python benchmarks/startup.py [--rounds 5]

Figures are medians over rounds, of whole processes, on an empty data folder (first start, with migration) and on a used one.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil

RESULTS = Path(__file__).parent / "results"


def start(data: Path) -> tuple[float, float]:
    """Seconds from process start to the first answer of /health, and MiB of memory then (of the API process alone)."""
    began = time.perf_counter()
    server = subprocess.Popen(
        [sys.executable, "-m", "luthier.server.main", "up", "--port", "0", "--data", str(data)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        answered = wait_for(data / "server.json", server)
        seconds = answered - began
        return seconds, psutil.Process(server.pid).memory_info().rss / 2**20
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)


def wait_for(address: Path, server: subprocess.Popen[bytes]) -> float:
    while server.poll() is None:
        try:
            httpx.get(json.loads(address.read_text())["url"] + "/health").raise_for_status()
            return time.perf_counter()
        except (OSError, ValueError, httpx.HTTPError):
            time.sleep(0.01)
    raise RuntimeError("the server ended before it answered")


def help_seconds() -> float:
    began = time.perf_counter()
    subprocess.run([Path(sys.executable).with_name("tune"), "--help"], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def measured(rounds: int) -> dict[str, dict[str, float]]:
    first, again, memory, helped = [], [], [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            first.append(start(Path(folder))[0])
            seconds, mebibytes = start(Path(folder))
        again.append(seconds)
        memory.append(mebibytes)
        helped.append(help_seconds())
    figures = {"first_start_s": first, "start_s": again, "api_rss_mib": memory, "tune_help_s": helped}
    return {
        name: {"median": round(statistics.median(v), 3), "min": round(min(v), 3), "max": round(max(v), 3)}
        for name, v in figures.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    figures = measured(rounds)
    for name, values in figures.items():
        print(f"{name:16} median {values['median']:8.3f}   ({values['min']:.3f} to {values['max']:.3f})")
    folder = RESULTS / f"{platform.machine()}-{psutil.cpu_count()}cpu"
    folder.mkdir(parents=True, exist_ok=True)
    record = {"rounds": rounds, "python": platform.python_version(), "figures": figures}
    (folder / f"startup-{datetime.now(UTC):%Y-%m-%d}.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
