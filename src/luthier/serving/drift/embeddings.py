"""How far two groups of texts are apart, by their embeddings. numpy is loaded here, and only where there are some."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from luthier.serving.drift.statistics import Found

_ENOUGH = 1e-12


def energy_distance(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]], *, shuffles: int, seed: int) -> Found:
    """The energy coefficient of two groups of vectors, from 0 (alike) to 1, by a permutation test.

    (2 E|X - Y| - E|X - X'| - E|Y - Y'|) / 2 E|X - Y| with Euclidean lengths. Each vector has length 1.
    Source: Szekely and Rizzo 2013, "Energy statistics: a class of statistics based on distances".
    """
    import numpy as np

    vectors_ND = np.array([*first, *second], np.float32)
    count, size = len(first), len(vectors_ND)
    squared_NN = np.maximum(2 - 2 * (vectors_ND @ vectors_ND.T).astype(np.float64), 0)
    between_NN = np.sqrt(squared_NN)
    np.fill_diagonal(between_NN, 0)
    chance = np.random.default_rng(seed)
    order_SN = np.vstack([np.arange(size), *(chance.permutation(size) for _ in range(shuffles))])
    chosen_SN = np.zeros(order_SN.shape)
    np.put_along_axis(chosen_SN, order_SN[:, :count], 1.0, axis=1)
    within = ((chosen_SN @ between_NN) * chosen_SN).sum(1)
    reach = chosen_SN @ between_NN.sum(1)
    across = reach - within
    rest = between_NN.sum() - within - 2 * across
    other = size - count
    mean_across = across / (count * other)
    # Of pairs of different texts: with each text beside itself, small groups would seem to be apart.
    apart = 2 * mean_across - within / max(1, count * (count - 1)) - rest / max(1, other * (other - 1))
    coefficient_S = apart / np.maximum(2 * mean_across, _ENOUGH)
    as_far = int((coefficient_S[1:] >= coefficient_S[0]).sum())
    return Found(float(max(0.0, coefficient_S[0])), (as_far + 1) / (shuffles + 1))


def packed(vectors: Sequence[Sequence[float]]) -> bytes:
    """32-bit numbers, one vector after another."""
    return b"".join(array("f", vector).tobytes() for vector in vectors)


def unpacked(data: bytes, dimensions: int) -> list[array[float]]:
    numbers = array("f", data)
    return [numbers[at : at + dimensions] for at in range(0, len(numbers), dimensions)]
