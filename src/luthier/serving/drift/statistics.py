"""How different two samples are, and how likely chance alone makes them so. Pure; nothing is imported for it."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

_EMPTY_BIN = 0.5
"""A bin that nothing fell into counts as half a row: the logarithm of nothing is no number."""
_LEAST_EXPECTED = 5.0
"""Cochran's rule: with fewer rows expected in a bin, the chi-squared distribution says too much."""
_BINS = 10
_ENOUGH_AS_FAR = 20
"""So many shuffles as far apart as the samples are settle that chance does it (Besag and Clifford 1991)."""
_TERMS = 200


class Found(NamedTuple):
    """A statistic, and the probability that chance alone makes it as large."""

    statistic: float
    p: float


def psi(expected: Sequence[float], found: Sequence[float]) -> float:
    """The population stability index of two histograms over the same bins: the sum of (f - e) ln(f / e) over their shares.

    >>> round(psi([50, 50], [80, 20]), 6)  # 0.3 ln 1.6 + 0.3 ln 2.5
    0.415888
    """
    all_expected, all_found = sum(expected), sum(found)
    total = 0.0
    for e, f in zip(expected, found, strict=True):
        if e or f:
            share_e, share_f = max(e, _EMPTY_BIN) / all_expected, max(f, _EMPTY_BIN) / all_found
            total += (share_f - share_e) * math.log(share_f / share_e)
    return total


def kolmogorov_smirnov(first: Sequence[float], second: Sequence[float]) -> Found:
    """The largest gap between two empirical distributions. p is asymptotic, with Stephens' correction for small samples.

    Source: Stephens 1970, "Use of the Kolmogorov-Smirnov, Cramer-von Mises and related statistics without extensive tables".

    >>> kolmogorov_smirnov([1, 2, 3, 4], [3, 4, 5, 6]).statistic
    0.5
    """
    a, b = sorted(first), sorted(second)
    gap, at, to = 0.0, 0, 0
    while at < len(a) and to < len(b):
        value = min(a[at], b[to])
        at, to = bisect_right(a, value, at), bisect_right(b, value, to)
        gap = max(gap, abs(at / len(a) - to / len(b)))
    root = math.sqrt(len(a) * len(b) / (len(a) + len(b)))
    return Found(gap, _kolmogorov_tail((root + 0.12 + 0.11 / root) * gap))


def _kolmogorov_tail(x: float) -> float:
    """P(K > x) of Kolmogorov's distribution."""
    if x < 0.2:  # the sum below alternates for long, and the tail is 1 to 12 places
        return 1.0
    terms = (math.exp(-2 * k * k * x * x) * (1 if k % 2 else -1) for k in range(1, _TERMS))
    return min(1.0, max(0.0, 2 * sum(terms)))


def chi_squared(first: Sequence[float], second: Sequence[float]) -> Found:
    """Pearson's test that two histograms are of one distribution. Bins of which too little is expected are taken together."""
    n, m = sum(first), sum(second)
    least = min(n, m) / (n + m)
    common, rare = [], [0.0, 0.0]
    for a, b in zip(first, second, strict=True):
        if (a + b) * least >= _LEAST_EXPECTED:
            common.append((a, b))
        else:
            rare = [rare[0] + a, rare[1] + b]
    bins = [*common, (rare[0], rare[1])] if sum(rare) else common
    if len(bins) < 2:
        return Found(0.0, 1.0)
    statistic = 0.0
    for a, b in bins:
        for held, size in ((a, n), (b, m)):
            expected = (a + b) * size / (n + m)
            statistic += (held - expected) ** 2 / expected
    return Found(statistic, chi_squared_tail(statistic, len(bins) - 1))


def chi_squared_tail(x: float, freedom: int) -> float:
    """P(X > x) of the chi-squared distribution: the regularised upper incomplete gamma function at (freedom / 2, x / 2).

    Source: Abramowitz and Stegun 6.5.29 (series) and 6.5.31 (continued fraction, by Lentz).

    >>> round(chi_squared_tail(3.841459, 1), 4)
    0.05
    """
    a, z = freedom / 2, x / 2
    if z <= 0:
        return 1.0
    front = math.exp(a * math.log(z) - z - math.lgamma(a))
    if z < a + 1:
        term = total = 1 / a
        for k in range(1, _TERMS):
            term *= z / (a + k)
            total += term
        return max(0.0, 1 - front * total)
    tiny = 1e-300
    b = z + 1 - a
    c, d = 1 / tiny, 1 / b
    fraction = d
    for k in range(1, _TERMS):
        step = -k * (k - a)
        b += 2
        d = 1 / ((step * d + b) or tiny)
        c = (b + step / c) or tiny
        fraction *= d * c
    return front * fraction


def edges_of(values: Sequence[float]) -> list[float]:
    """Where to cut so that each bin holds a tenth of the values. What very many of them are gets a bin of its own.

    >>> edges_of([0] * 8 + [1, 2])  # the second is the next number after 0
    [0, 5e-324, 1, 2]
    """
    ordered = sorted(values)
    cuts = Counter(ordered[len(ordered) * k // _BINS] for k in range(1, _BINS))
    edges: list[float] = []
    for value, times in sorted(cuts.items()):
        edges += [value, math.nextafter(value, math.inf)] if times > 1 else [value]
    return edges


def counted(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    """How many fall below the first edge, between each two, and from the last one on."""
    found = Counter(bisect_right(edges, value) for value in values)
    return [found[place] for place in range(len(edges) + 1)]


def shuffled(size: int, first: int, distance: Callable[[Sequence[int]], float], *, shuffles: int, seed: int) -> Found:
    """A permutation test: how often the first group is as far from the rest as it is, when who belongs to it is drawn by lot.

    `distance` takes the places of the first group. Exact whatever the distribution: p is never below 1 / (shuffles + 1).
    """
    places, chance = list(range(size)), random.Random(seed)
    statistic, as_far = distance(places[:first]), 0
    for done in range(1, shuffles + 1):
        chance.shuffle(places)
        as_far += distance(places[:first]) >= statistic
        if as_far == _ENOUGH_AS_FAR:
            return Found(statistic, as_far / done)
    return Found(statistic, (as_far + 1) / (shuffles + 1))


def token_distance(first: Sequence[Mapping[str, int]], second: Sequence[Mapping[str, int]], *, shuffles: int, seed: int) -> Found:
    """PSI of how often the most frequent words of all texts occur in each group, by a permutation test: words of one text
    depend on each other, so that counting them as if they did not would find a difference in everything."""
    texts = [*first, *second]
    whole = Counter[str]()
    for text in texts:
        whole.update(text)
    places = {word: place for place, (word, _) in enumerate(whole.most_common(_BINS * _BINS - 1))}
    bins: list[Counter[int]] = []
    for text in texts:
        held = Counter[int]()
        for word, times in text.items():
            held[places.get(word, len(places))] += times
        bins.append(held)
    total = _summed(bins, len(places) + 1)

    def distance(group: Sequence[int]) -> float:
        part = _summed((bins[each] for each in group), len(total))
        rest = [all_ - some for all_, some in zip(total, part, strict=True)]
        return psi(part, rest) if any(part) and any(rest) else 0.0

    return shuffled(len(texts), len(first), distance, shuffles=shuffles, seed=seed)


def _summed(bins: Iterable[Mapping[int, int]], size: int) -> list[int]:
    total = [0] * size
    for held in bins:
        for place, times in held.items():
            total[place] += times
    return total
