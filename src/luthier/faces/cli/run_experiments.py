"""`run_experiments`: a random search for the settings of the image classifier; the best of its runs may be promoted."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.faces.cli.edge import connect, new_app, run, usage
from luthier.faces.cli.options import AsJson, with_ids
from luthier.faces.cli.shown import out, out_json, plain, table, talk

if TYPE_CHECKING:
    from luthier.faces.sdk.answers import Job, Model
    from luthier.faces.sdk.client import Client

STAGES = ("Staging", "Production")
_BAR = 20

app = new_app("Try settings of the image classifier by chance, and keep the best.")


@dataclass(frozen=True)
class Draw:
    """One point of the search."""

    learning_rate: float
    epochs: int
    batch_size: int
    hidden_size: int


@dataclass(frozen=True)
class Tried:
    """A draw, and what came of it."""

    draw: Draw
    job: Job
    model: Model | None

    @property
    def accuracy(self) -> float | None:
        """On held-out images; None where the run failed or nothing was held out."""
        evaluation = self.model.card.get("evaluation") if self.model else None
        return evaluation["tuned"]["metrics"].get("accuracy") if evaluation else None


def draws(count: int, seed: int) -> list[Draw]:
    """Points of the search. Learning rates are even over the orders of magnitude from 1e-4 to 1e-2.

    >>> draws(1, seed=1) == draws(3, seed=1)[:1]
    True
    """
    chance = random.Random(seed)
    return [
        Draw(
            learning_rate=float(f"{10 ** chance.uniform(-4, -2):.2g}"),
            epochs=chance.choice((3, 5, 10)),
            batch_size=chance.choice((32, 64, 128)),
            hidden_size=chance.choice((64, 128, 256)),
        )
        for _ in range(count)
    ]


def best_of(tried: Sequence[Tried]) -> Tried | None:
    """The most accurate; of equal ones the first."""
    measured = [one for one in tried if one.accuracy is not None]
    return max(measured, key=lambda one: one.accuracy or 0.0, default=None)


@app.command()
def search(
    num_runs: Annotated[int, typer.Option(min=1, max=100, help="How many settings are tried.")] = 10,
    dataset: Annotated[
        str | None, typer.Option(help="Images to learn from (id, name@version or name); the newest by default.")
    ] = None,
    validation: Annotated[str | None, typer.Option(help="Id of held-out images; the newest that are named so.")] = None,
    register_best: Annotated[bool, typer.Option("--register-best", help="Put the best version into --stage.")] = False,
    stage: Annotated[str, typer.Option(help=f"One of {', '.join(STAGES)}.")] = "Staging",
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same settings.")] = 42,
    as_json: AsJson = False,
) -> None:
    """Train the image classifier in settings drawn by chance, and compare them on held-out images.

    Each run that succeeds is a version of the model MNISTClassifier.
    """
    if stage not in STAGES:
        raise usage(f"--stage is one of {', '.join(STAGES)}, not {stage}.")
    common = {"dataset": dataset, "validation_dataset": validation, "seed": seed}
    with connect() as client:
        tried = _tried(client, draws(num_runs, seed), with_ids(client, common))
        best = best_of(tried)
        if register_best and best is not None and best.model is not None:
            client.models.transition(best.model.id, stage)
    if as_json:
        out_json({"runs": [_plain(one) for one in tried], "best": _plain(best) if best else None})
    else:
        out(
            table(
                ("RUN", "RATE", "EPOCHS", "BATCH", "HIDDEN", "STATE", "ACCURACY", ""), map(_row, range(1, len(tried) + 1), tried)
            )
        )
        _say_best(best, stage if register_best else None)
    if best is None:
        raise typer.Exit(1)


def _tried(client: Client, points: Sequence[Draw], common: dict[str, Any]) -> list[Tried]:
    """All are queued before the first is waited for: what shares a trainer may then share it."""
    given = {name: value for name, value in common.items() if value is not None}
    jobs = [client.jobs.train({**given, **asdict(point)}) for point in points]
    talk(f"Queued {len(jobs)} runs. Ctrl-C leaves them running; `tune list` shows them.")
    tried: list[Tried] = []
    for number, (point, job_id) in enumerate(zip(points, jobs, strict=True), 1):
        job = client.jobs.wait(job_id)
        tried.append(Tried(point, job, client.models.get(job.model_id) if job.model_id else None))
        talk(f"{number} of {len(jobs)}: {job.state}, {_accuracy(tried[-1])}")
    return tried


def _say_best(best: Tried | None, stage: str | None) -> None:
    if best is None or best.model is None:
        talk("No run was measured. Upload held-out images under a name like `mnist-test`, or name them by --validation.")
        return
    where = f", now in {stage}" if stage else "; --register-best puts it into a stage"
    talk(f"Best: {best.model.name}@{best.model.version}, {_accuracy(best)}{where}.")


def _accuracy(one: Tried) -> str:
    return "not measured" if one.accuracy is None else f"accuracy {one.accuracy:.4f}"


def _row(number: int, one: Tried) -> tuple[object, ...]:
    point, accuracy = one.draw, one.accuracy
    bar = "" if accuracy is None else "█" * round(accuracy * _BAR)
    told = None if accuracy is None else f"{accuracy:.4f}"
    return number, point.learning_rate, point.epochs, point.batch_size, point.hidden_size, one.job.state, told, bar


def _plain(one: Tried) -> dict[str, Any]:
    return {
        **asdict(one.draw),
        "job_id": one.job.id,
        "state": one.job.state,
        "accuracy": one.accuracy,
        "model": plain(one.model) if one.model else None,
    }


def main() -> None:
    """The command."""
    run(app)


if __name__ == "__main__":
    main()
