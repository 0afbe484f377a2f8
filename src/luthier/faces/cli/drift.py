"""`tune drift`: whether what models are asked is still like what they learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from luthier.faces.cli.edge import connect, usage
from luthier.faces.cli.options import AsJson
from luthier.faces.cli.shown import dollars, out, out_json, table, talk

if TYPE_CHECKING:
    from luthier.faces.sdk.drift_answers import DriftMeasure, DriftOfModel, DriftStatus, DriftWindow

_SHADES = " ▁▂▃▄▅▆▇█"
Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only the model of this name.", show_default=False)]
ShareOf = Annotated[
    float | None,
    typer.Option("--share", min=0, max=1, help="Sample this share of its requests; 0: none, and forget what is kept."),
]
Run = Annotated[bool, typer.Option("--run", help="Print only the run that would train it again, as a configuration.")]


def add_to(app: typer.Typer) -> None:
    """Make the verb of this file a command of `app`."""
    app.command()(drift)


def drift(name: Name = None, share: ShareOf = None, run: Run = False, as_json: AsJson = False) -> None:
    """What was found for the versions that are watched. Exit status 1 where one has drifted."""
    if name is None and (share is not None or run):
        raise usage("Which model? Name it: tune drift NAME --share 0.1")
    with connect() as client:
        if share is not None and name is not None:
            watched = client.drift.watch(name, share)
            talk(f"{watched.share:.1%} of the requests of {name} are sampled from now on.")
        found = client.drift.status(name)
    if run:
        _show_run(found)
        return
    if as_json:
        out_json(found)
    else:
        _show(found.data, whole=name is not None)
    if share is None and any(each.state == "drifted" for each in found.data):
        raise typer.Exit(1)


def _show_run(found: DriftStatus) -> None:
    windows = [each.windows[0] for each in found.data if each.windows]
    known = next((window.retrain for window in windows if window.get("retrain")), None)
    if known is None or not known.get("run"):
        why = known.why_not if known else "It has not drifted."
        raise usage(f"There is no run to propose. {why}")
    out_json(known["run"])


def _show(found: tuple[DriftOfModel, ...], *, whole: bool) -> None:
    if not found:
        talk("Nothing is watched yet. Start with: tune drift NAME --share 0.1")
        return
    out(table(("MODEL", "STATE", "SHARE", "WAITING", "WINDOW", "SAMPLES", "DRIFTED"), [_row(each) for each in found]))
    for each in found:
        if each.get("why"):
            talk(f"{each.name}@{each.version} has nothing to be compared with. {each.why}")
        if each.windows:
            _show_window(each.name, each.windows[0], measures=whole)


def _show_window(name: str, window: DriftWindow, *, measures: bool) -> None:
    if measures and window.measures:
        rows = [
            (m.name, m.test, _number(m.get("psi")), f"{m.p:.2g}", _bars(m), "yes" if m.drifted else "") for m in window.measures
        ]
        out("\n" + table(("MEASURE", "TEST", "PSI", "P", "BEFORE | NOW", "DRIFTED"), rows))
    retrain = window.get("retrain")
    if retrain and retrain.get("run"):
        talk(f"To train it again on the newest rows takes about {dollars(retrain.cost_usd)}:")
        talk(f"tune drift {name} --run > run.yaml, then tune start --config run.yaml")
    elif retrain:
        talk(f"What it takes to train it again is not known. {retrain.why_not}")


def _row(each: DriftOfModel) -> tuple[object, ...]:
    window = each.windows[0] if each.windows else None
    drifted = ", ".join(m.name for m in sorted(window.measures, key=lambda m: m.p) if m.drifted) if window else ""
    state = each.state.replace("_", " ")
    last = (window.number, window.samples) if window else (None, None)
    return (f"{each.name}@{each.version}", state, f"{each.share:.0%}", each.waiting, *last, drifted or None)


def _bars(measure: DriftMeasure) -> str:
    """Both histograms in little, each bar by its share of the highest."""
    return " | ".join(_bar(measure[side]) for side in ("reference", "live")) if measure["live"] else ""


def _bar(counts: Sequence[int]) -> str:
    """
    >>> _bar([0, 2, 4])
    ' ▄█'
    """
    most = max(counts, default=0) or 1
    return "".join(_SHADES[round(count / most * (len(_SHADES) - 1))] for count in counts)


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"
