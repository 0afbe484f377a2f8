"""Options that commands share. An id may stand by itself or behind its flag: `tune status X`, `tune status --job-id X`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier import ids
from luthier.faces.cli.edge import usage
from luthier.faces.cli.shown import clean

if TYPE_CHECKING:
    from luthier.faces.sdk.client import Client

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
DatasetArgument = Annotated[
    str | None,
    typer.Argument(metavar="[DATASET]", help="An id, name@version, or a name: its newest version.", show_default=False),
]
DatasetOption = Annotated[str | None, typer.Option("--dataset-id", help="The same, as a flag.")]


def the_job(argument: str | None, option: str | None) -> str:
    """The one job that was named. Raises: usage."""
    return _an_id(_one(argument, option, "--job-id"), ids.JOB, "job")


def the_dataset(argument: str | None, option: str | None) -> str:
    """The one dataset that was named: an id, or what `client.datasets.id_of` understands. Raises: usage."""
    ref = _one(argument, option, "--dataset-id")
    is_id = ref.startswith(f"{ids.DATASET}_") or any(ids.is_id(ref, kind) for kind in (ids.JOB, ids.MODEL))
    return _an_id(ref, ids.DATASET, "dataset") if is_id else _a_name(ref, ids.DATASET, "dataset")


def the_model(argument: str | None, option: str | None) -> str:
    """The one model that was named, in any way that the server understands. Raises: usage."""
    return _a_name(_one(argument, option, "--model-id"), ids.MODEL, "model")


def with_ids(client: Client, spec: Mapping[str, Any]) -> dict[str, Any]:
    """A run whose datasets are named by their ids, as the server wants it. Raises: NotFound."""
    named = {field: spec[field] for field in ("dataset", "validation_dataset") if isinstance(spec.get(field), str)}
    return {**spec, **{field: client.datasets.id_of(ref) for field, ref in named.items()}}


def _one(argument: str | None, option: str | None, flag: str) -> str:
    if argument is not None and option is not None and argument != option:
        raise usage(f"One is named by itself and another one behind {flag}: name one.")
    found = argument if option is None else option
    if found is None:
        raise usage(f"Which one? Name it, by itself or behind {flag}.")
    return found


def _a_name(ref: str, prefix: str, noun: str) -> str:
    if not ref or ref != ref.strip() or ref.startswith("-") or ".." in ref or not ref.isprintable():
        raise usage(f"A {noun} is named by its id ({prefix}_...), its name, or name@version; `{_LISTS[noun]}` shows them.")
    return ref


def _an_id(text: str, prefix: str, noun: str) -> str:
    if not ids.is_id(text, prefix):
        raise usage(f"This is not the id of a {noun}: that is {prefix}_ and 26 letters and digits, as `{_LISTS[noun]}` shows it.")
    return text


_LISTS = {"job": "tune list", "dataset": "dataset list", "model": "model list"}


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
