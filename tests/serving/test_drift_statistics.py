"""PSI by hand, Kolmogorov-Smirnov and chi-squared beside scipy's, permutation tests on what is known to be alike or not."""

import math
import random

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from luthier.serving.drift import statistics
from luthier.serving.drift.embeddings import energy_distance, packed, unpacked

NUMBERS = st.lists(st.integers(-5, 5) | st.floats(-1e6, 1e6), min_size=2, max_size=60)


@pytest.mark.parametrize(
    ("expected", "found", "closed_form"),
    [
        ([50, 50], [80, 20], 0.3 * math.log(4)),
        ([10, 20, 70], [20, 40, 140], 0.0),
        ([100, 300], [300, 100], 0.5 * math.log(9)),
        ([10, 0, 90], [10, 0, 90], 0.0),
        ([90, 10], [100, 0], 0.1 * math.log(1 / 0.9) + (0.005 - 0.1) * math.log(0.005 / 0.1)),
    ],
)
def test_psi_of_two_known_histograms(expected, found, closed_form):
    assert statistics.psi(expected, found) == pytest.approx(closed_form)


def test_kolmogorov_smirnov_of_known_samples():
    assert statistics.kolmogorov_smirnov([1, 2, 3], [4, 5, 6]).statistic == 1
    assert statistics.kolmogorov_smirnov([1, 2, 3, 4], [1, 2, 3, 4]) == (0, 1)
    assert statistics.kolmogorov_smirnov([0, 0, 0, 1], [0, 1, 1, 1]).statistic == 0.5


@given(NUMBERS, NUMBERS)
def test_the_gap_is_scipys_and_its_probability_near_the_exact_one(first, second):
    ours, theirs = statistics.kolmogorov_smirnov(first, second), scipy.stats.ks_2samp(first, second, method="asymp")
    assert ours.statistic == pytest.approx(theirs.statistic, abs=1e-12)
    assert 0 <= ours.p <= 1


@pytest.mark.parametrize(("sizes", "shift"), [((50, 300), 0.0), ((200, 300), 0.2), ((200, 300), 0.4), ((20, 30), 0.7)])
def test_the_probability_of_a_gap_is_near_the_exact_one(sizes, shift):
    chance = random.Random(1)
    first, second = ([chance.gauss(shift * at, 1) for _ in range(size)] for at, size in enumerate(sizes))
    exact = scipy.stats.ks_2samp(first, second, method="exact").pvalue
    assert statistics.kolmogorov_smirnov(first, second).p == pytest.approx(exact, rel=0.15)


@pytest.mark.parametrize("freedom", [1, 3, 19, 99])
@pytest.mark.parametrize("x", [0.0, 0.1, 1.0, 5.0, 30.0, 200.0])
def test_the_tail_of_chi_squared_is_scipys(x, freedom):
    assert statistics.chi_squared_tail(x, freedom) == pytest.approx(scipy.stats.chi2.sf(x, freedom), rel=1e-9)


def test_chi_squared_is_scipys_where_enough_is_expected_in_each_bin():
    found = statistics.chi_squared([50, 30, 20], [30, 60, 40])
    theirs = scipy.stats.chi2_contingency([[50, 30, 20], [30, 60, 40]], correction=False)
    assert (found.statistic, found.p) == pytest.approx((theirs.statistic, theirs.pvalue))


def test_rare_classes_are_taken_together_and_one_class_alone_tells_nothing():
    rare = statistics.chi_squared([100, 100, *[1] * 6], [100, 100, *[0] * 6])
    whole = scipy.stats.chi2_contingency([[100, 100, 6], [100, 100, 0]], correction=False)
    assert rare.statistic == pytest.approx(whole.statistic)
    assert statistics.chi_squared([7], [9]).p == 1


@given(st.lists(st.floats(-10, 10) | st.just(0.0), min_size=1, max_size=200))
def test_every_value_falls_into_one_bin_and_what_is_frequent_has_its_own(values):
    edges = statistics.edges_of(values)
    counts = statistics.counted(values, edges)
    assert edges == sorted(set(edges))
    assert sum(counts) == len(values)
    if values.count(0.0) > len(values) / 2:
        place = edges.index(0.0) + 1
        assert counts[place] == values.count(0.0)


def texts(chance, words, count=60):
    return [{f"w{chance.choice(words)}": 1 for _ in range(12)} for _ in range(count)]


def test_words_of_other_subjects_are_told_from_words_of_the_same():
    chance = random.Random(3)
    same = statistics.token_distance(texts(chance, range(50)), texts(chance, range(50)), shuffles=200, seed=1)
    other = statistics.token_distance(texts(chance, range(50)), texts(chance, range(20, 70)), shuffles=200, seed=1)
    assert same.p > 0.05
    assert other.p == pytest.approx(1 / 201)
    assert other.statistic > 5 * same.statistic


def test_a_shuffle_is_as_far_apart_as_chance_says():
    """Under the null hypothesis p is uniform: of 100 samples about 10 are below 0.1."""
    chance, below = random.Random(5), 0
    for seed in range(100):
        values = [chance.random() for _ in range(40)]
        found = statistics.shuffled(
            40,
            20,
            lambda group, held=values: abs(sum(held[place] for place in group) / 20 - sum(held) / 40),
            shuffles=99,
            seed=seed,
        )
        below += found.p <= 0.1
    assert 3 <= below <= 19


def vectors(chance, count, bend=0.0):
    found = [[chance.gauss(bend if at < 2 else 0, 1) for at in range(16)] for _ in range(count)]
    return [[part / math.hypot(*vector) for part in vector] for vector in found]


def test_vectors_that_point_elsewhere_are_far_and_others_near():
    chance = random.Random(2)
    near = energy_distance(vectors(chance, 80), vectors(chance, 60), shuffles=199, seed=1)
    far = energy_distance(vectors(chance, 80), vectors(chance, 60, bend=3), shuffles=199, seed=1)
    assert near.p > 0.05
    assert near.statistic < 0.02 < far.statistic < 1
    assert far.p == 1 / 200


def test_vectors_are_kept_as_they_are():
    assert [list(vector) for vector in unpacked(packed([[0.5, -1], [2, 0]]), 2)] == [[0.5, -1], [2, 0]]
