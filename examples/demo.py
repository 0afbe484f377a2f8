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
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from demo_pictures import loss_curve, side_by_side
from demo_processes import Memory, fetched, platform, tiny_fingerprint
from rich.console import Console

from luthier import Client
from luthier.bases.service import Bases
from luthier.errors import LuthierError
from luthier.faces.cli.following import Bar, Lines, Seen
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
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    folder = Path(tempfile.mkdtemp(prefix="luthier-demo-"))
    began = time.monotonic()
    try:
        with Memory() as memory, platform(folder) as url:
            say(f"The platform runs at {url}, with its data in {folder}")
            with Client(base_url=url, api_key=(folder / "admin.key").read_text().strip()) as client:
                good = demo(client, folder, given.model)
            seconds, held = time.monotonic() - began, f"{memory.most_bytes / 2**20:,.0f} MiB"
            say(f"\nAll of it took {seconds:.0f} s and at most {held} of memory (build of the base, server, trainer, engine).")
        return 0 if good else 1
    except LuthierError as error:
        say(f"\n{error}", style="red")
        return 1
    except KeyboardInterrupt:
        say("\nStopped. Nothing is left running.")
        return 130
    finally:
        if given.keep:
            say(f"The data folder is kept: {folder}")
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


def say(text: str, **style: Any) -> None:
    """One line, as it is: no wrapping in the middle of an answer, no markup in what a model wrote."""
    out.print(text, soft_wrap=True, markup=False, **style)


def have_base(folder: Path, base: str) -> None:
    """Build or fetch the base; luthier/tiny is kept in the user's cache for the next demo."""
    bases = Bases(folder / "bases")
    target = bases.folder(bases.get(base))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "luthier/demo" / tiny_fingerprint()
    if base == TINY and (cache / "model.safetensors").is_file():
        shutil.copytree(cache, target)
        say("Built by an earlier run, and cached.")
        return
    if not fetched(base, folder):
        raise LuthierError(f"{base} is not to be had here.", hint=f"{TINY} needs no hub: python examples/demo.py")
    if base == TINY:
        keep(target, cache)
    say("Ready.")


def keep(built: Path, cache: Path) -> None:
    """Under its name only when it is whole, so that a demo which is stopped here leaves no half of a base."""
    arriving = cache.with_name(f".{cache.name}-{os.getpid()}")
    with contextlib.suppress(OSError):
        shutil.copytree(built, arriving)
        arriving.rename(cache)
    shutil.rmtree(arriving, ignore_errors=True)


def upload(client: Client, file: str, name: str) -> Any:
    dataset = client.datasets.upload(SUPPORT / f"{file}.jsonl", name=name)
    report = dataset.report
    lengths = report["lengths"]
    say(
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
        say(f"A broken file is refused: {refusal.message}")


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
    size = f"{estimate.steps} steps, about {estimate.seconds / 60:.1f} minutes, ${estimate.cost_usd}"
    say(f"{size}; needs {gigabytes['total']:.1f} of {gigabytes['available']:.1f} GB: {verdict}")
    submitted = client.jobs.submit(spec)
    say(f"Submitted {submitted.id}")
    losses = followed(client, submitted.id, estimate.steps)
    job = client.jobs.get(submitted.id)
    if job.state != "succeeded":
        error = job.error or {}
        raise LuthierError(f"The job is {job.state}: {error.get('message', '')}", hint=error.get("hint"))
    return job, losses


def followed(client: Client, job_id: str, steps: int) -> list[float]:
    """Show the run until it ends: a bar on a terminal, lines elsewhere. Returns the loss of every step."""
    seen = Seen(total_steps=steps)
    with Bar(out) if out.is_terminal else Lines(say) as view:
        for event in client.jobs.follow(job_id):
            seen.take(event)
            view.show(event, seen)
    return [loss for _, loss in seen.losses]


def show_evaluation(evaluation: dict[str, Any], losses: list[float]) -> bool:
    out.print(loss_curve(losses, width=60, height=8), end="")
    base, tuned = evaluation["base"], evaluation["tuned"]
    out.print(f"\n{'on ' + str(evaluation['rows']) + ' held-out rows':24} {'base':>10} {'tuned':>10}")
    for name, label in (("loss", "loss"), ("perplexity", "perplexity"), ("exact_match", "exact match")):
        say(f"{label:24} {base[name]:10.3f} {tuned[name]:10.3f}")
    out.print(side_by_side(evaluation["samples"][:3]))
    good = tuned["exact_match"] >= LEAST_TUNED and base["exact_match"] <= MOST_BASE
    if not good:
        out.print(f"[red]Not good enough: tuned must reach {LEAST_TUNED}, the base stay below {MOST_BASE}.[/red]")
    return good


def put_to_work(client: Client, job: Any, model: Any) -> None:
    moved = client.models.transition(model.id, "Production")
    say(f"{moved.name}@{moved.version} is in {moved.stage}; its card: {model.card['description']}")
    # As the training rows have it: a model is asked in the form in which it learned.
    system = json.loads((SUPPORT / "train.jsonl").open(encoding="utf-8").readline())["messages"][0]
    answer = client.chat.answer(moved.name, [system, {"role": "user", "content": QUESTION}], max_tokens=64)
    say(f"You:   {QUESTION}\nModel: {answer.text}")
    cost = client.billing.job_cost(job.id)
    say(f"The job cost ${cost.cost_usd} (local-cpu is $0.00 an hour; `tune pricing` shows the price book).")
    say("Open the platform with `make up`, then http://127.0.0.1:8000/docs")


if __name__ == "__main__":
    sys.exit(main())
