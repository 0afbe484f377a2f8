"""The forgetting meter: cross-entropy on the neutral text, before and after."""

from types import SimpleNamespace

import pytest
import torch
from tests.training.conftest import VOCAB, BigramEngine

from luthier.training.evaluate import Sides
from luthier.training.forgetting import forgetting, neutral_pieces

LENGTH = 600


def words(text: str) -> list[int]:
    """A token for each of the first letters: what the engine of these tests can hold."""
    return [ord(letter) % VOCAB for letter in text[:LENGTH]]


RENDERER = SimpleNamespace(text=words)


def by_hand(table: torch.Tensor, pieces) -> float:
    """Minus the mean log-probability of each token, given the one before."""
    logp = table.log_softmax(-1)
    pairs = [pair for piece in pieces for pair in zip(piece.row.ids, piece.row.ids[1:], strict=False)]
    return -sum(logp[last, following].item() for last, following in pairs) / len(pairs)


def test_it_is_the_cross_entropy_of_every_token_before_and_after():
    engine = BigramEngine()
    with torch.no_grad():
        engine.b_RV.normal_()
    found, pieces = forgetting(Sides(engine), RENDERER), neutral_pieces(RENDERER)
    assert found["tokens"] == LENGTH - len(pieces)
    assert found["base"] == pytest.approx(by_hand(engine.base_VV, pieces), abs=1e-4)
    assert found["tuned"] == pytest.approx(by_hand(engine.base_VV + engine.a_VR @ engine.b_RV, pieces), abs=1e-4)
    assert found["base"] != pytest.approx(found["tuned"], abs=1e-2)


def test_an_untouched_model_forgot_nothing_and_another_one_beside_is_measured_too():
    found = forgetting(Sides(BigramEngine(), against=BigramEngine(seed=1)), RENDERER)
    assert found["base"] == found["tuned"]
    assert found["against"] != pytest.approx(found["base"], abs=1e-3)


def test_no_piece_of_the_text_is_longer_than_a_small_base_can_hold():
    assert max(len(piece.row.ids) for piece in neutral_pieces(RENDERER)) <= 256
