"""`make demo`: what a user does, from an empty data folder to a fine-tuned model that answers, through the REST door.

python examples/demo.py [--model luthier/tiny] [--keep]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from demo_pictures import loss_curve, side_by_side
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from luthier import Client
from luthier.errors import LuthierError
from luthier.jobs.yaml12 import read_yaml

HERE = Path(__file__).parent
SUPPORT = HERE / "support"
QUESTION = "Hello, I would like my money back for the browser version. This is urgent. Ana"
TINY = "luthier/tiny"
LEAST_TUNED, MOST_BASE = 0.80, 0.05
out = Console(width=min(100, max(60, Console().width)), highlight=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=TINY, help="base model: luthier/tiny, or an allowed hub id")
    parser.add_argument("--keep", action="store_true", help="keep the data folder")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="luthier-demo-"))
    began = time.monotonic()
    try:
        with serving(folder) as (client, memory):
            good = demo(client, folder, given.model)
            seconds = time.monotonic() - began
            held = f"{memory.most_bytes / 2**20:,.0f} MiB"
            out.print(f"\nAll of it took {seconds:.0f} s and at most {held} of memory (server, trainer, engine).")
        return 0 if good else 1
    except LuthierError as error:
        out.print(f"\n[red]{error}[/red]")
        return 1
    except KeyboardInterrupt:
        out.print("\nStopped. Nothing is left running.")
        return 130
    finally:
        if given.keep:
            out.print(f"The data folder is kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def demo(client: Client, folder: Path, base: str) -> bool:
    """The five steps. Returns whether the tuned model is as much better as it must be."""
    step(1, f"The base model {base}")
    have_base(folder, base)
    step(2, "The data")
    train, held_out = upload(client, "train", "support"), upload(client, "heldout", "support-held-out")
    show_refusal(client, folder)
    step(3, "Estimate and train")
    job, losses = fine_tune(client, base, train.id, held_out.id)
    step(4, "Is it better than its base?")
    model = client.models.get(job.model_id)
    good = show_evaluation(model.card["evaluation"], losses)
    step(5, "Into production")
    put_to_work(client, job, model)
    return good


def step(number: int, title: str) -> None:
    out.print(f"\n[bold]{number}. {title}[/bold]")


def have_base(folder: Path, base: str) -> None:
    """Build or fetch the base; luthier/tiny is kept in the user's cache for the next demo."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "luthier/bases/luthier--tiny/1"
    target = folder / "bases/luthier--tiny/1"
    if base == TINY and (cache / "model.safetensors").is_file():
        shutil.copytree(cache, target)
        out.print("Built by an earlier run, and cached.")
        return
    command = [sys.executable, "-m", "luthier.server.main", "bases", "fetch", base, "--data", str(folder)]
    if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode != 0:
        raise LuthierError(f"{base} is not to be had here.", hint=f"{TINY} needs no hub: python examples/demo.py")
    if base == TINY:
        with contextlib.suppress(OSError):
            shutil.copytree(target, cache, dirs_exist_ok=True)
    out.print("Ready.")


def upload(client: Client, file: str, name: str) -> Any:
    dataset = client.datasets.upload(SUPPORT / f"{file}.jsonl", name=name)
    report = dataset.report
    lengths = report["lengths"]
    out.print(
        f"{name}: {report['rows']} rows, {report['tokens']:,} tokens ({report['loss_tokens']:,} to learn from), "
        f"median {lengths['median']}, longest {lengths['max']}; {report['duplicates']} duplicates, {report['errors']} refused"
    )
    return dataset


def show_refusal(client: Client, folder: Path) -> None:
    """A file with a bad row is refused as a whole, before it costs anything."""
    rows = (SUPPORT / "train.jsonl").read_text("utf-8").splitlines()[:3]
    bad = folder / "bad.jsonl"
    bad.write_text("\n".join([rows[0], rows[1][:-20], rows[2]]) + "\n", "utf-8")
    try:
        client.datasets.upload(bad, name="broken")
    except LuthierError as refusal:
        out.print(f"A broken file is refused: {refusal.message}")


def fine_tune(client: Client, base: str, dataset: str, held_out: str) -> tuple[Any, list[float]]:
    spec = {
        **read_yaml((SUPPORT / "run.yaml").read_bytes()),
        "base_model": base,
        "dataset": dataset,
        "validation_dataset": held_out,
    }
    estimate = client.jobs.estimate(spec)
    gigabytes = {name: estimate.memory[f"{name}_bytes"] / 1e9 for name in ("total", "available")}
    verdict = "fits" if estimate.fits else "does not fit"
    out.print(f"{estimate.steps} steps, about {estimate.seconds / 60:.1f} minutes, ${estimate.cost_usd};", end=" ")
    out.print(f"needs {gigabytes['total']:.1f} of {gigabytes['available']:.1f} GB: {verdict}")
    submitted = client.jobs.submit(spec)
    out.print(f"Submitted {submitted.id}")
    losses = followed(client, submitted.id, estimate.steps)
    job = client.jobs.get(submitted.id)
    if job.state != "succeeded":
        error = job.error or {}
        raise LuthierError(f"The job is {job.state}: {error.get('message', '')}", hint=error.get("hint"))
    return job, losses


def followed(client: Client, job_id: str, steps: int) -> list[float]:
    """Draw the run's progress until it ends, and return the loss of every step."""
    losses: dict[int, float] = {}
    done = TextColumn("{task.completed:.0f}/{task.total:.0f}")
    columns = (TextColumn("{task.description:40}"), BarColumn(bar_width=20), done, TimeRemainingColumn())
    with Progress(*columns, console=out) as progress:
        task = progress.add_task("waiting for a trainer", total=steps)
        for event in client.jobs.follow(job_id):
            if event.kind == "step":
                losses.update({step: loss for step, loss, *_ in event.data.get("steps", [])})
                speed = event.data.get("tokens_per_second") or 0
                progress.update(
                    task, completed=event.step, description=f"loss {event.data.get('loss', 0):.3f}   {speed:,.0f} tokens/s"
                )
            elif event.kind in {"phase", "state"}:
                progress.update(task, description=event.message[:40])
    return [losses[step] for step in sorted(losses)]


def show_evaluation(evaluation: dict[str, Any], losses: list[float]) -> bool:
    out.print(loss_curve(losses, width=60, height=8), end="")
    base, tuned = evaluation["base"], evaluation["tuned"]
    out.print(f"\n{'on ' + str(evaluation['rows']) + ' held-out rows':24} {'base':>10} {'tuned':>10}")
    for name, label in (("loss", "loss"), ("perplexity", "perplexity"), ("exact_match", "exact match")):
        out.print(f"{label:24} {base[name]:10.3f} {tuned[name]:10.3f}")
    out.print(side_by_side(evaluation["samples"][:3]))
    good = tuned["exact_match"] >= LEAST_TUNED and base["exact_match"] <= MOST_BASE
    if not good:
        out.print(f"[red]Not good enough: tuned must reach {LEAST_TUNED}, the base stay below {MOST_BASE}.[/red]")
    return good


def put_to_work(client: Client, job: Any, model: Any) -> None:
    moved = client.models.transition(model.id, "Production")
    out.print(f"{moved.name}@{moved.version} is in {moved.stage}; its card: {model.card['description']}")
    answer = client.chat.answer(moved.name, [{"role": "user", "content": QUESTION}], max_tokens=64)
    out.print(f"You:   {QUESTION}\nModel: {answer.text}")
    cost = client.billing.job_cost(job.id)
    out.print(f"The job cost ${cost.cost_usd} (local-cpu is $0.00 an hour; `tune pricing` shows the price book).")
    out.print("Open the platform with `make up`, then http://127.0.0.1:8000/docs")


class Memory(threading.Thread):
    """The most memory that the server and all its children held at one time, looked at twice a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self.ended = threading.Event()
        self.most_bytes = 0

    def run(self) -> None:
        while not self.ended.wait(0.5):
            with contextlib.suppress(psutil.Error):
                top = psutil.Process(self._pid)
                self.most_bytes = max(
                    self.most_bytes, sum(held_bytes(process) for process in [top, *top.children(recursive=True)])
                )


def held_bytes(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return process.memory_info().rss
    return 0


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[Client, Memory]]:
    """`luthier up` on `folder`, and a client of it; stopped in every case."""
    command = [sys.executable, "-m", "luthier.server.main", "up", "--port", "0", "--data", str(folder)]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    memory = Memory(server.pid)
    memory.start()
    try:
        url = address(folder, server)
        out.print(f"The platform runs at {url}, with its data in {folder}")
        with Client(base_url=url, api_key=(folder / "admin.key").read_text().strip()) as client:
            yield client, memory
    finally:
        memory.ended.set()
        server.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(timeout=90)


def address(folder: Path, server: subprocess.Popen[bytes]) -> str:
    until = time.monotonic() + 60
    while time.monotonic() < until and server.poll() is None:
        with contextlib.suppress(OSError, ValueError):
            return str(json.loads((folder / "server.json").read_text())["url"])
        time.sleep(0.05)
    raise LuthierError("The platform did not start.", hint=(folder / "server.log").read_text(errors="replace")[-1000:])


if __name__ == "__main__":
    sys.exit(main())
