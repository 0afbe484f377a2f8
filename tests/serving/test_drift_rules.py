"""When a window is judged, and what counts: false alarms as often as was asked for, true ones always."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from luthier.datasets.personal_data import redacted
from luthier.serving.drift import rules
from luthier.serving.drift.observing import Asked, asked_in, features_of, observed
from luthier.serving.drift.types import Observation, Thresholds

THRESHOLDS = Thresholds(window=100, window_s=3600, least=50, p=0.01, psi=0.2, distance=0.02, keep_s=60, keep=100)
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def images(chance, count, brightness=0.3, classes="abc"):
    """What is kept of images of 8 x 8, each answered by a classifier that is not sure."""
    found = []
    for _ in range(count):
        pixels = [min(1, max(0, chance.gauss(brightness, 0.2))) for _ in range(64)]
        found.append(observed(Asked(image=pixels, answer=chance.choice(classes), confidence=chance.random())))
    return found


def letters(chance, count, subjects):
    return [observed(Asked(text=" ".join(f"word{chance.choice(subjects)}" for _ in range(12)))) for _ in range(count)]


def drifted(reference, live, **thresholds):
    found = rules.judged(rules.Sides(reference, live), THRESHOLDS.model_copy(update=thresholds))
    return [measure.name for measure in found if measure.drifted]


def test_false_alarms_are_as_rare_as_was_asked_for():
    """150 windows in which nothing has changed, 8 measures each. At 0.05 without regard to size: about 7 alarms, never 16."""
    chance, strict, usual = random.Random(1), 0, 0

    def numbers():
        names = [f"x{at}" for at in range(6)]
        return [
            Observation(
                features={name: chance.gauss(0, 1) for name in names}, answer=chance.choice("abc"), confidence=chance.random()
            )
            for _ in range(100)
        ]

    for _ in range(150):
        reference, live = numbers(), numbers()
        strict += bool(drifted(reference, live, p=0.05, psi=0))
        usual += bool(drifted(reference, live))
    assert strict <= 15
    assert usual <= 4


@pytest.mark.parametrize("seed", range(5))
def test_what_has_changed_is_named(seed):
    chance = random.Random(seed)
    reference = images(chance, 200)
    assert "brightness" in drifted(reference, images(chance, 100, brightness=0.4))
    assert drifted(reference, images(chance, 100, classes="aaaaaab")) == ["class"]
    told = [each.model_copy(update={"confidence": chance.random() / 2}) for each in images(chance, 100)]
    assert drifted(reference, told) == ["confidence"]


def test_a_difference_must_be_large_besides():
    chance = random.Random(2)
    reference, live = images(chance, 200), images(chance, 100, brightness=0.4)
    assert drifted(reference, live, psi=50) == []


@pytest.mark.parametrize("seed", range(3))
def test_texts_are_compared_by_their_words_where_there_is_no_embedder(seed):
    chance = random.Random(seed)
    reference = letters(chance, 120, range(40))
    assert drifted(reference, letters(chance, 100, range(40))) == []
    found = rules.judged(rules.Sides(reference, letters(chance, 100, range(30, 70))), THRESHOLDS)
    text = next(measure for measure in found if measure.kind == "text")
    assert (text.by, text.test, text.drifted) == ("tokens", "permutation", True)
    assert text.psi > 1


def test_answers_to_training_rows_are_not_compared():
    chance = random.Random(4)
    sides = rules.Sides(images(chance, 60), images(chance, 60, classes="z"), answers=False)
    assert {measure.kind for measure in rules.judged(sides, THRESHOLDS)} == {"feature"}


@pytest.mark.parametrize(
    ("samples", "age_s", "due"),
    [(100, 0, True), (99, 0, False), (99, 3600, True), (50, 3600, True), (49, 1e6, False), (50, 3599, False)],
)
def test_a_window_is_judged_when_it_is_full_or_old_enough(samples, age_s, due):
    assert rules.is_due(THRESHOLDS, samples, NOON, NOON + timedelta(seconds=age_s)) is due


def test_of_an_image_a_few_numbers_are_kept():
    pixels = [1.0 if place % 28 < 14 else 0.0 for place in range(784)]
    found = features_of(pixels)
    assert (found["brightness"], found["contrast"], len(found)) == (0.5, 0.5, 18)
    assert [found["block 1,1"], found["block 4,2"], found["block 1,3"], found["block 4,4"]] == [1, 1, 0, 0]
    assert set(features_of([0.5] * 25)) == set(found)  # a side that cannot be cut into four


def test_a_row_asks_what_a_request_asks():
    assert asked_in({"image": [0, 255, 51, 0], "label": "1"}, 255).image == [0, 1, 0.2, 0]
    assert asked_in({"text": "Hello", "label": "1"}).text == "Hello"
    turns = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes"},
    ]
    assert asked_in({"messages": turns}).text == "Hi"
    assert asked_in({"prompt": turns[:2], "chosen": "a", "rejected": "b"}).text == "Hi"
    assert asked_in({"prompt": "2 + 2 =", "completion": "4"}).text == "2 + 2 ="
    assert asked_in({"messages": turns[:1]}) is None


SECRETS = {
    "sk-proj-" + "aB3" * 20: "[key]",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----": "[key]",
    "-----BEGIN PRIVATE KEY-----\nMIIE": "[key]",
    "jo@shop.io": "[address]",
    "jo@example.com": "[address]",
    "4111 1111 1111 1111": "[card]",
    "+49 30 1234567": "[phone]",
}


@pytest.mark.parametrize(("secret", "said"), SECRETS.items())
def test_secrets_and_personal_data_are_not_kept(secret, said):
    assert redacted(f"It is {secret} or so") == (f"It is {said}" if secret.endswith("MIIE") else f"It is {said} or so")
    assert observed(Asked(text=f"It is {secret}")).text == f"It is {said}"


def test_a_key_that_lies_across_the_cut_is_not_kept_in_part():
    kept = observed(Asked(text="x" * 985 + " sk-proj-" + "aB3" * 20)).text
    assert kept == "x" * 985 + " [key]"


def test_other_numbers_stay():
    assert (
        redacted("Order 4111 1111 1111 1112 of 2026-11-21 costs 1,250.00")
        == "Order 4111 1111 1111 1112 of 2026-11-21 costs 1,250.00"
    )
