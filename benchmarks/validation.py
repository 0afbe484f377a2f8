"""How fast a large file of chat rows is checked: by us, and by others that read the same rows in the same minutes.

    python benchmarks/validation.py [--rows 1000000] [--rounds 3]

In each round, in turn: our check, as an upload gets it (a process with its limits, from its start to its end); Python's own
`json` and orjson, which only read each line; and `together.lib.utils.files.check_file`. Two times are told of ours. The
structure: each row is read and its form, roles, keys and order are checked, its texts are searched for secrets and personal
data, it is written as it is stored, and exact duplicates and contradictions of all rows are found. What was found until then
is shown to the user at once; there is no quicker check that leaves something of it out. The whole report follows: near
duplicates of 200,000 rows and the tokens of about 32 MiB of them.

Speeds are medians over the rounds. Memory is the largest sum over all processes of what each holds (PSS: a page that several
share counts once), read ten times a second. The first finding is about line 1,001: when the server would show it while it
checks an upload (`first_finding_s`, from the start of the check), and when `dataset validate` says it (`command_s`, from the
start of the command).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import chat_rows
import environments
import facts
import psutil

import luthier
from luthier.datasets.sandbox import Ruler, Sandbox, Task
from luthier.datasets.types import Report

RESULTS = Path(__file__).parent / "results"
TINY = Path(luthier.__file__).parent / "bases" / "tiny"
READ = """
import sys, time
{loads}
began = time.perf_counter()
with open(sys.argv[1], "rb") as lines:
    for line in lines:
        loads(line)
print(time.perf_counter() - began)
"""
PEER = """
import sys, time
from together.lib.utils.files import check_file
began = time.perf_counter()
assert check_file(sys.argv[1])["is_check_passed"]
print(time.perf_counter() - began)
"""


@dataclass
class Took:
    """One run."""

    seconds: float
    first_finding_s: float | None = None
    memory_mib: float = 0.0
    whole_s: float | None = None


def ours(path: Path) -> Took:
    """As the server checks an upload."""
    first: list[float] = []
    began = time.perf_counter()

    def hear(report: Report) -> None:
        if report.findings and not first:
            first.append(time.perf_counter() - began)

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        task = Task(path, Path(folder) / "rows", Path(folder))
        checked = Sandbox().check(task, Ruler("luthier/tiny", TINY, 1024), hear=hear)
        whole = time.perf_counter() - began
    if checked is None or checked.report.errors:
        raise RuntimeError(f"the file is good, but the report is {checked}")
    parts = checked.seconds
    return Took(whole - (parts["all"] - parts["structure"]), first[0], whole_s=whole)


def command_s(path: Path) -> float:
    """Until `dataset validate` says what it found first; then it is ended, with all that it started."""
    began = time.perf_counter()
    command = [str(Path(sys.executable).with_name("dataset")), "validate", str(path)]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert running.stderr is not None
    said = any(f"line {chat_rows.ODD + 1}:" in line for line in running.stderr)
    seconds = time.perf_counter() - began
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    if not said:
        raise RuntimeError("the command found nothing")
    return seconds


def theirs(code: str, path: Path, python: str = sys.executable) -> Took:
    """In a process of its own; its start and imports do not count."""
    done = subprocess.run([python, "-c", code, str(path)], capture_output=True, text=True, check=True)
    return Took(float(done.stdout))


@contextlib.contextmanager
def memory(took: list[float]) -> Generator[None]:
    """The most that our children held at once, in MiB."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            held = 0
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    held += process.memory_full_info().pss
            took.append(held / 2**20)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def measured(run: Callable[[], Took]) -> Took:
    held = [0.0]
    with memory(held):
        took = run()
    took.memory_mib = max(held)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    peer = environments.python_of_together()
    path = environments.BENCH / f"chats-{given.rows}.jsonl"
    if not path.is_file():
        chat_rows.write(path, given.rows)
    runs: dict[str, Callable[[], Took]] = {
        "structure": lambda: ours(path),
        "json": lambda: theirs(READ.format(loads="from json import loads"), path),
        "orjson": lambda: theirs(READ.format(loads="from orjson import loads"), path),
        "together": lambda: theirs(PEER, path, peer),
    }
    began, found = facts.machine(), {name: list[Took]() for name in runs}
    for number in range(given.rounds):
        for name, run in runs.items():
            found[name].append(measured(run))
            took = found[name][-1]
            print(f"{number + 1:3} {name:14} {took.seconds:7.2f} s {took.memory_mib:7.0f} MiB", flush=True)
    commands = [command_s(path) for _ in range(given.rounds)]
    found["whole report"] = [Took(took.whole_s or took.seconds, memory_mib=took.memory_mib) for took in found["structure"]]
    record(path, began, found, commands, facts.versions(peer))


def record(path: Path, began: object, found: dict[str, list[Took]], commands: list[float], versions: dict[str, str]) -> None:
    """Print the medians and keep them with all runs."""
    megabytes = path.stat().st_size / 1e6
    speeds = {name: round(megabytes / statistics.median(took.seconds for took in each), 1) for name, each in found.items()}
    firsts = [took.first_finding_s for took in found["structure"] if took.first_finding_s]
    figures = {
        "megabytes": round(megabytes),
        "mb_per_second": speeds,
        "times_as_fast_as": {name: round(speeds["structure"] / speeds[name], 2) for name in ("json", "orjson", "together")},
        "memory_mib": {name: round(max(took.memory_mib for took in each)) for name, each in found.items()},
        "first_finding_s": round(max(firsts), 2),
        "command_s": round(max(commands), 2),
    }
    print(json.dumps(figures, indent=2))
    target = RESULTS / facts.machine_name()
    target.mkdir(parents=True, exist_ok=True)
    runs = {name: [asdict(took) for took in each] for name, each in found.items()}
    kept = {"machine": began, "figures": figures, "together": versions.get("together"), "commands_s": commands, "runs": runs}
    (target / f"validation-{datetime.now(UTC):%Y-%m-%d}.json").write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
