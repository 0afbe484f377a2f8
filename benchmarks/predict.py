"""`POST /predict` on two cores: new images, images that were asked before, and `mlflow models serve` on the same model.

    python benchmarks/predict.py [--seconds 20] [--cores 0,1] [--peer]

The model is the first document's small network for 784 pixels, with the weights that its seed gives: how fast an answer is
depends on its shape alone. The server, with its supervisor and its engine process, may use `--cores` and no other; requests come
from the rest of the machine, when they are due (`arrivals.py`), and their latency counts from then. Every new image is one that
nobody asked before; the known ones are the same 200 again and again. The peer has its own environment below .bench, with our
torch, and the same network as TorchScript; it answers with raw scores, and knows no key, no limit, no log and no cache.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import facts
import httpx
import psutil
from arrivals import Ask, arrive, most_per_s
from environments import BENCH, python_of_mlflow
from upload import server

from luthier import ids
from luthier.jobs.spec import RunSpec, Sources
from luthier.registry.types import Finished, Stage
from luthier.server.first import first_start
from luthier.settings import Settings
from luthier.values import BaseSource, Source
from luthier.wiring import build

RESULTS = Path(__file__).parent / "results"
NEW_PER_S, KNOWN_PER_S = 400.0, 1200.0
GOAL_P95_MS = 40.0
KNOWN = 200
MOST_CLOSED = 12_000
"""Enough for five seconds of clients that never wait."""
_INKED = 150
"""Pixels of a written digit that are not black, about."""

_EXPORT = """
import sys
from pathlib import Path
import mlflow, torch
from luthier.modeling.classifiers.saving import load
class Singles(torch.nn.Sequential):
    def forward(self, image):  # MLflow's server makes doubles of a body's numbers
        return super().forward(image.float())
module = Singles(load(Path(sys.argv[1])).module).eval()
traced = torch.jit.trace(module, torch.zeros(1, 784, dtype=torch.float64))
mlflow.pytorch.save_model(traced, sys.argv[2], serialization_format="pickle")
"""


@dataclass(frozen=True)
class Place:
    """A server that answers."""

    process: psutil.Process
    address: tuple[str, int]


def image(number: int) -> list[float]:
    """About what a scanned digit looks like; another one for each number."""
    draw = random.Random(number)
    pixels = [0.0] * 784
    for place in draw.sample(range(784), _INKED):
        pixels[place] = draw.randrange(1, 256) / 255
    return pixels


def prepare(data: Path) -> Path:
    """A platform whose classifier is in Production. Returns the classifier's folder."""
    platform = build(Settings(data=data))
    first_start(platform)
    admin = platform.accounts.authenticate((data / "admin.key").read_text("utf-8").strip())
    job_id = ids.new(ids.JOB)
    results = f"users/{admin.tenant_id}/jobs/{job_id}/attempts/1/results"
    folder = data / results / "final_model"
    folder.mkdir(parents=True)
    _save(folder)
    (data / results / "metrics.json").write_text("{}")
    (data / results / "evaluation.json").write_text(json.dumps({"rows": 10, "base": {"loss": 2.0}, "tuned": {"loss": 1.0}}))
    source = Source(id=ids.new(ids.DATASET), url="file:///nowhere", sha256="0" * 64)
    base = BaseSource(id="mnist-cnn", revision="luthier 1", url="classifier:mnist-cnn")
    spec = RunSpec(method="classifier", dataset=source.id, name="MNISTClassifier", sources=Sources(dataset=source, base=base))
    spec = spec.model_copy(update={"base_model": "mnist-cnn"})
    done = Finished(tenant_id=admin.tenant_id, created_by=admin.user_id, job_id=job_id, spec=spec, results=results)
    platform.registry.transition(admin, platform.registry.register(done).id, Stage.PRODUCTION)
    platform.close()
    return folder


def _save(folder: Path) -> None:
    import torch

    from luthier.modeling.classifiers.registry import entry_of, options_of
    from luthier.modeling.classifiers.saving import About, TorchClassifier
    from luthier.modeling.classifiers.types import Shape, TorchEntry

    torch.manual_seed(7)
    entry = entry_of("mnist-cnn")
    assert isinstance(entry, TorchEntry)
    options = options_of(entry, {})
    about = About(model="mnist-cnn", options=options.model_dump(), reads="images", pixels=784, classes=tuple("0123456789"))
    TorchClassifier(about, entry.build(options, Shape("images", 784, 10))).save(folder)


def measured(place: Place, seconds: float, ask: Callable[[int], Ask], per_s: float) -> dict[str, Any]:
    """At the goal's rate, with the processor's time that an answer took; and how many a second 16 clients get who never wait."""
    before = busy(place.process)
    answers = arrive(place.address, per_s, seconds, ask)
    spent = {
        name: round((after - before.get(name, 0.0)) * 1000 / per_s / seconds, 2) for name, after in busy(place.process).items()
    }
    most = most_per_s(place.address, min(5.0, seconds), 16, lambda number: ask(10_000_000 + number))
    return {**answers.figures(), "cpu_ms_per_answer": spent, "most_per_s": most}


def busy(process: psutil.Process) -> dict[str, float]:
    """Seconds of processor time of a server and of what it started, by what they are."""
    found = {"server": sum(process.cpu_times()[:2])}
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            name = "engine" if "luthier.modeling.server" in child.cmdline() else "others"
            found[name] = found.get(name, 0.0) + sum(child.cpu_times()[:2])
    return found


def ours(data: Path, process: psutil.Process, seconds: float) -> dict[str, Any]:
    """New images, then known ones."""
    url = httpx.URL(json.loads((data / "server.json").read_text())["url"])
    place = Place(process, (url.host, url.port or 80))
    heads = (("x-api-key", (data / "admin.key").read_text().strip()), ("content-type", "application/json"))

    def ask(number: int) -> Ask:
        return Ask("POST", "/predict", heads, json.dumps({"image": image(number)}).encode())

    known = [ask(number) for number in range(KNOWN)]
    arrive(place.address, 50, KNOWN / 50, lambda number: known[number])  # the engine starts, and each is asked once
    new = [ask(KNOWN + number) for number in range(int(NEW_PER_S * seconds) + MOST_CLOSED)]
    return {
        "new": measured(place, seconds, lambda _: new.pop(), NEW_PER_S),
        "known": measured(place, seconds, lambda number: known[number % KNOWN], KNOWN_PER_S),
    }


def theirs(folder: Path, seconds: float, cores: str) -> dict[str, Any]:
    """`mlflow models serve` of the same network, on the same cores."""
    python = python_of_mlflow()
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch, "model")
        subprocess.run([python, "-c", _EXPORT, str(folder), str(model)], check=True, capture_output=True)
        address = ("127.0.0.1", 5078)
        new = [_to_mlflow(KNOWN + number) for number in range(int(NEW_PER_S * seconds) + MOST_CLOSED + 100)]
        with _serving(python, model, address, cores) as process:
            arrive(address, 20, 2, lambda _: new.pop())
            return measured(Place(process, address), seconds, lambda _: new.pop(), NEW_PER_S)


def _to_mlflow(number: int) -> Ask:
    body = json.dumps({"inputs": [image(number)]}).encode()
    return Ask("POST", "/invocations", (("content-type", "application/json"),), body)


@contextlib.contextmanager
def _serving(python: str, model: Path, address: tuple[str, int], cores: str) -> Iterator[psutil.Process]:
    command = ["taskset", "-c", cores, python, "-m", "mlflow", "models", "serve", "-m", str(model), "--env-manager", "local"]
    command += ["--host", address[0], "--port", str(address[1]), "--workers", "2"]
    environment = {**os.environ, "PATH": f"{Path(python).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        until = time.monotonic() + 90
        while not _answers(address):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError("`mlflow models serve` did not start")
            time.sleep(0.3)
        yield psutil.Process(process.pid)
    finally:
        os.killpg(process.pid, 15)
        process.wait(timeout=30)


def _answers(address: tuple[str, int]) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"http://{address[0]}:{address[1]}/ping", timeout=2, trust_env=False).is_success
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--cores", default="0,1")
    parser.add_argument("--peer", action="store_true", help="`mlflow models serve` too; its environment takes minutes once.")
    options = parser.parse_args()
    cores = {int(each) for each in options.cores.split(",")}
    mine = os.sched_getaffinity(0)
    record: dict[str, Any] = {"at": f"{datetime.now(UTC):%Y-%m-%d}", "machine": facts.machine(), "cores": options.cores}
    record |= {"seconds": options.seconds, "goals": {"new_per_s": NEW_PER_S, "known_per_s": KNOWN_PER_S, "p95_ms": GOAL_P95_MS}}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        saved = prepare(data)
        os.sched_setaffinity(0, cores)  # what is started from here on inherits it
        with server(data) as process:
            os.sched_setaffinity(0, mine - cores or mine)
            record |= ours(data, process, options.seconds)
        if options.peer:
            record["mlflow"] = theirs(saved, options.seconds, options.cores)
    print(json.dumps(record, indent=1))
    if options.peer:
        BENCH.mkdir(exist_ok=True)
        target = RESULTS / facts.machine_name() / f"predict-{record['at']}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
