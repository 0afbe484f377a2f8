"""Options that commands share. An id may stand by itself or behind its flag: `tune status X`, `tune status --job-id X`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from luthier import ids
from luthier.faces.cli.edge import usage
from luthier.faces.cli.shown import clean

AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]
Limit = Annotated[int, typer.Option(min=1, max=200, help="Most entries to show.")]
After = Annotated[str | None, typer.Option(help="Go on behind this `next_cursor` of an earlier answer.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Force = Annotated[bool, typer.Option("--force", help="Replace files that are there already.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Stay and watch until the job has ended.")]
Raw = Annotated[bool, typer.Option("--raw", help="Do not remove terminal escape sequences.")]

JobArgument = Annotated[str | None, typer.Argument(metavar="[JOB]", help="The job's id.", show_default=False)]
JobOption = Annotated[str | None, typer.Option("--job-id", help="The same, as a flag.")]
ModelArgument = Annotated[
    str | None, typer.Argument(metavar="[MODEL]", help="An id, a name, or name@version.", show_default=False)
]
ModelOption = Annotated[str | None, typer.Option("--model-id", "--model", help="The same, as a flag.")]
DatasetArgument = Annotated[str | None, typer.Argument(metavar="[DATASET]", help="The dataset's id.", show_default=False)]
DatasetOption = Annotated[str | None, typer.Option("--dataset-id", help="The same, as a flag.")]


def the_job(argument: str | None, option: str | None) -> str:
    """The one job that was named. Raises: usage."""
    return _an_id(_one(argument, option, "--job-id"), ids.JOB, "job")


def the_dataset(argument: str | None, option: str | None) -> str:
    """The one dataset that was named. Raises: usage."""
    return _an_id(_one(argument, option, "--dataset-id"), ids.DATASET, "dataset")


def the_model(argument: str | None, option: str | None) -> str:
    """The one model that was named, in any way that the server understands. Raises: usage."""
    ref = _one(argument, option, "--model-id")
    if not ref or ref != ref.strip() or ref.startswith("-") or ".." in ref or not ref.isprintable():
        raise usage("A model is named by its id (model_...), its name, or name@version; `model list` shows them.")
    return ref


def _one(argument: str | None, option: str | None, flag: str) -> str:
    if argument is not None and option is not None and argument != option:
        raise usage(f"One is named by itself and another one behind {flag}: name one.")
    found = argument if option is None else option
    if found is None:
        raise usage(f"Which one? Name it, by itself or behind {flag}.")
    return found


def _an_id(text: str, prefix: str, noun: str) -> str:
    if not ids.is_id(text, prefix):
        raise usage(f"This is not the id of a {noun}: that is {prefix}_ and 26 letters and digits, as `{_LISTS[noun]}` shows it.")
    return text


_LISTS = {"job": "tune list", "dataset": "dataset list"}


def sure(question: str, *, yes: bool) -> None:
    """Ask, where somebody is there to answer; a script has decided already. Raises: Abort."""
    if not yes and sys.stdin.isatty():
        ask(question)


def ask(question: str) -> None:
    """Go on only after a yes. Not `typer.confirm`: it writes a blank to stdout, which belongs to data. Raises: Abort."""
    sys.stderr.write(f"{clean(question)} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise typer.Abort
