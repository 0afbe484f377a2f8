"""Decisions about drift: when a window is judged, what is compared in it, and when a difference counts. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from luthier.serving.drift import statistics
from luthier.serving.drift.observing import token_counts
from luthier.serving.drift.statistics import Found
from luthier.serving.drift.types import DriftState, Measure, ModelDrift, Observation, Thresholds, Window

TOKENS = "tokens"
_MOST_TEXTS = 200
"""Of either side: a permutation test looks at all pairs of them."""
_SURER = 5
"""By lot, p has this many steps below what counts: enough to tell a little below from far below."""
_MOST_SHOWN = 30

Distance = Callable[[int], Found]
"""Of a window's texts to those of the reference, by embeddings, with so many shuffles."""


def is_due(thresholds: Thresholds, samples: int, opened_at: datetime, now: datetime) -> bool:
    """Whether a window is judged now: when it is full, or old with enough in it. Once, as who looks often finds something."""
    full = samples >= thresholds.window
    return full or (samples >= thresholds.least and (now - opened_at).total_seconds() >= thresholds.window_s)


@dataclass(frozen=True)
class Sides:
    """What is compared with what. `answers`: whether those of the reference count."""

    reference: Sequence[Observation]
    live: Sequence[Observation]
    answers: bool = True

    @property
    def features(self) -> list[str]:
        """What both sides have."""
        return [name for name in self.reference[0].features if all(name in each.features for each in self.live)]

    @property
    def texts(self) -> tuple[list[str], list[str]]:
        return texts_of(self.reference), texts_of(self.live)

    @property
    def classes(self) -> tuple[list[str], list[str]]:
        before, now = ([each.answer for each in side if each.answer is not None] for side in (self.reference, self.live))
        return (before, now) if self.answers else ([], [])

    @property
    def confidences(self) -> tuple[list[float], list[float]]:
        before, now = ([each.confidence for each in side if each.confidence is not None] for side in (self.reference, self.live))
        return (before, now) if self.answers else ([], [])


def judged(
    sides: Sides, thresholds: Thresholds, *, embedded: tuple[str, Distance] | None = None, seed: int = 0
) -> tuple[Measure, ...]:
    """Every comparison that both sides allow.

    A measure has drifted where chance makes such a difference less often than `thresholds.p`, shared by all measures
    (Bonferroni), and where it is large besides: with many rows everything differs a little.
    """
    found = [
        _numbers(name, "feature", [each.features[name] for each in sides.reference], [each.features[name] for each in sides.live])
        for name in sides.features
    ]
    if all(sides.confidences):
        found.append(_numbers("confidence", "confidence", *sides.confidences))
    if all(sides.classes):
        found.append(_classes(*sides.classes))
    limit = thresholds.p / max(1, len(found) + all(sides.texts))
    found = [_decided(measure, thresholds.psi, limit) for measure in found]
    if all(sides.texts):
        found.append(_texts(sides, thresholds, limit, embedded=embedded, seed=seed))
    return tuple(found)


def _decided(measure: Measure, least: float, limit: float) -> Measure:
    size = measure.statistic if measure.psi is None else measure.psi
    return measure.model_copy(update={"drifted": measure.p <= limit and size >= least})


def _numbers(name: str, kind: str, reference: Sequence[float], live: Sequence[float]) -> Measure:
    edges = statistics.edges_of(reference)
    before, now = statistics.counted(reference, edges), statistics.counted(live, edges)
    gap = statistics.kolmogorov_smirnov(reference, live)
    return Measure.model_validate(
        {
            "name": name,
            "kind": kind,
            "test": "ks",
            "psi": round(statistics.psi(before, now), 6),
            "statistic": round(gap.statistic, 6),
            "p": gap.p,
            "drifted": False,
            "bins": tuple(edges),
            "reference": tuple(before),
            "live": tuple(now),
        }
    )


def _classes(reference: Sequence[str], live: Sequence[str]) -> Measure:
    before, now = Counter(reference), Counter(live)
    names = [name for name, _ in (before + now).most_common()]
    held = [before[name] for name in names], [now[name] for name in names]
    found = statistics.chi_squared(*held)
    return Measure(
        name="class",
        kind="class",
        test="chi_squared",
        psi=round(statistics.psi(*held), 6),
        statistic=round(found.statistic, 6),
        p=found.p,
        drifted=False,
        bins=tuple(names[:_MOST_SHOWN]),
        reference=tuple(held[0][:_MOST_SHOWN]),
        live=tuple(held[1][:_MOST_SHOWN]),
    )


def _texts(sides: Sides, thresholds: Thresholds, limit: float, *, embedded: tuple[str, Distance] | None, seed: int) -> Measure:
    shuffles = round(_SURER / limit)
    if embedded is not None:
        by, distance = embedded
        found, least, psi = distance(shuffles), thresholds.distance, None
    else:
        counts = [[token_counts(text) for text in side] for side in sides.texts]
        found, by, least = statistics.token_distance(*counts, shuffles=shuffles, seed=seed), TOKENS, thresholds.psi
        psi = round(found.statistic, 6)
    measure = Measure(
        name="text",
        kind="text",
        test="permutation",
        by=by,
        psi=psi,
        statistic=round(found.statistic, 6),
        p=found.p,
        drifted=False,
    )
    return _decided(measure, least, limit)


def texts_of(observations: Sequence[Observation]) -> list[str]:
    """As many as are compared; the newest of a window, any of a reference."""
    return [each.text for each in observations if each.text][-_MOST_TEXTS:]


def state_of(windows: Sequence[Window], share: float, *, lacks_reference: bool) -> DriftState:
    """Where a version stands, `windows` newest first."""
    if not share:
        return DriftState.OFF
    if lacks_reference:
        return DriftState.NO_REFERENCE
    if not windows:
        return DriftState.COLLECTING
    return DriftState.DRIFTED if windows[0].drifted else DriftState.STEADY


def worst(measures: Sequence[Measure]) -> list[str]:
    """The names of what drifted, the least likely first."""
    return [measure.name for measure in sorted(measures, key=lambda each: each.p) if measure.drifted]


def by_urgency(found: Sequence[ModelDrift]) -> tuple[ModelDrift, ...]:
    """Those that drifted first, then in the order of what they are called."""
    return tuple(sorted(found, key=lambda each: (each.state != DriftState.DRIFTED, each.name, -int(each.version))))
