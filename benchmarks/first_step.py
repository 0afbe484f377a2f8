"""How long a small job waits for its first step: from the submit to the step, with and without a trainer that waits for it.

    python benchmarks/first_step.py [--rounds 15] [--bases data/bases]

Two whole platforms (`luthier up`, its supervisor, real trainers) with the same data train jobs of one step on `luthier/tiny`, in
turn: one with LUTHIER_WARM_TRAINERS=0, the other with 1. A step counts when its event is written. Each job is submitted a random
moment after the one before, for a supervisor looks twice a second; the warm platform is asked when its next trainer is ready.
`--bases` is a cache of base models to take luthier/tiny from; without it the first job builds it, which takes minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import facts
import psutil

from luthier import Client

RESULTS = Path(__file__).parent / "results"
WAIT_S = 900
ENDS = ("succeeded", "failed", "stopped", "cancelled")


@dataclass
class House:
    """One platform."""

    data: Path
    client: Client
    dataset: str = ""

    def first_step(self) -> dict[str, float]:
        """Seconds of one job: to the first word of its trainer, to its first step, and to its end."""
        spec = {"base_model": "luthier/tiny", "dataset": self.dataset, "name": "first", "train": {"max_steps": 1}}
        submitted = time.time()
        job = self.client.jobs.submit(spec).id
        ended = wait_until(lambda: (found := self.client.jobs.get(job)).state in ENDS and found, "the job ends")
        if ended.state != "succeeded":
            raise RuntimeError(f"the job {ended.state}: {ended.error}")
        at: dict[str, float] = {}
        for event in self.client.jobs.events(job):
            at.setdefault(event.kind, moment(event.at) - submitted)
        return {"trainer_s": at["state"], "first_step_s": at["step"], "end_s": moment(ended.finished_at) - submitted}

    def trainers_ready(self) -> int:
        log = self.data / "trainers" / "warm.log"
        return log.read_text("utf-8").count("Ready after") if log.exists() else 0

    def waiting_mib(self) -> float:
        """What the trainer that waits holds."""
        for process in psutil.process_iter(["cmdline"]):
            line = process.info["cmdline"] or []
            if "--warm" in line and any(str(self.data) in word for word in line):
                return process.memory_info().rss / 2**20
        return 0.0


def moment(told: str) -> float:
    return datetime.fromisoformat(told).timestamp()


def wait_until(happened: Any, what: str) -> Any:
    until = time.monotonic() + WAIT_S
    while not (found := happened()):
        if time.monotonic() > until:
            raise RuntimeError(f"waited {WAIT_S} s until {what}")
        time.sleep(0.05)
    return found


@contextlib.contextmanager
def house(data: Path, warm: int, rows: Path, bases: Path | None) -> Iterator[House]:
    """A platform on `data` that has trained one job: base and kernels are in the cache."""
    command = [sys.executable, "-m", "luthier.server.main", "up", "--port", "0", "--data", str(data)]
    data.mkdir()
    if bases is not None:
        shutil.copytree(bases, data / "bases")
    with (data / "server.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "LUTHIER_WARM_TRAINERS": str(warm)})
    try:
        wait_until(lambda: (data / "server.json").is_file() or server.poll() is not None, "the server answers")
        url = json.loads((data / "server.json").read_text("utf-8"))["url"]
        with Client(base_url=url, api_key=(data / "admin.key").read_text("utf-8").strip()) as client:
            here = House(data, client)
            here.dataset = client.datasets.upload(rows, name="rows").id
            here.first_step()
            yield here
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)


def measured(folder: Path, rounds: int, bases: Path | None) -> tuple[dict[str, list[dict[str, float]]], float]:
    rows = folder / "rows.jsonl"
    with rows.open("w", encoding="utf-8") as file:
        for number in range(60):
            said = [{"role": "user", "content": f"Say colour {number}"}, {"role": "assistant", "content": f"blue {number % 4}"}]
            file.write(json.dumps({"messages": said}) + "\n")
    found: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    mib = 0.0
    moments = random.Random(0)
    with (
        house(folder / "cold", 0, rows, bases) as cold,
        house(folder / "warm", 1, rows, folder / "cold" / "bases") as warm,
    ):
        for number in range(rounds):
            for name, here in (("cold", cold), ("warm", warm)):
                wait_until(lambda: warm.trainers_ready() == number + 1, "a trainer waits")  # noqa: B023
                mib = max(mib, warm.waiting_mib())
                time.sleep(moments.uniform(0.5, 1.0))
                found[name].append(here.first_step())
            print(
                f"{number + 1:3}  " + "  ".join(f"{name} {each[-1]['first_step_s']:.2f} s" for name, each in found.items()),
                flush=True,
            )
    return found, mib


def spread(values: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--bases", type=Path)
    given = parser.parse_args()
    began = facts.machine()
    with tempfile.TemporaryDirectory() as folder:
        found, mib = measured(Path(folder), given.rounds, given.bases)
    figures = {
        f"{name}_{what}": spread([each[what] for each in found[name]])
        for name in found
        for what in ("trainer_s", "first_step_s", "end_s")
    }
    for name, values in figures.items():
        print(f"{name:18} median {values['median']:6.2f}   ({values['min']:.2f} to {values['max']:.2f})")
    print(f"a trainer that waits holds {mib:.0f} MiB")
    target = RESULTS / facts.machine_name()
    target.mkdir(parents=True, exist_ok=True)
    record = {"rounds": given.rounds, "machine": began, "waiting_mib": round(mib), "figures": figures}
    (target / f"first-step-{datetime.now(UTC):%Y-%m-%d}.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
