"""When an export is the same model, and what is said where it is not. No model is loaded here: a table answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from luthier.training.replaying import TOLERANCES, Answered, Loaded, Spoken, Tolerance, as_checks, measure, verdict

TABLE_VV = torch.tensor([[0.0, 9.0, 1.0], [2.0, 0.0, 8.0], [7.0, 1.0, 0.0]])
SPOKEN = Spoken([("hi", [0, 1])], "{{ messages }}")
LOOSE = Tolerance(logit=0.5, agreement=0.5, nats=5.0, tie=0.0)


def says(ids):
    return TABLE_VV[torch.tensor(list(ids))]


def loaded(change=lambda logits: logits, **more) -> Loaded:
    return Loaded("a table", lambda ids: change(says(ids)), **more)


ANSWERED = [Answered([0, 1, 2, 0], 1, says([0, 1, 2]), stopped=True), Answered([1, 2, 0, 1], 1, says([1, 2, 0]), stopped=False)]


def judged(one: Loaded, allowed: Tolerance = TOLERANCES["f16"]):
    found = measure(one, ANSWERED, SPOKEN, allowed)
    return found, verdict(found, allowed)


def test_the_same_numbers_are_the_same_model():
    found, wrong = judged(loaded(encode=lambda text: [0, 1], template=SPOKEN.template))
    assert wrong is None
    assert (found.token_agreement, found.stop_agreement, found.stops_compared, found.template) == (1.0, 1.0, 1, True)
    assert (found.max_logit_gap, found.mean_logprob_gap, found.tokens_compared) == (0.0, 0.0, 6)
    checks = as_checks(found, TOLERANCES["f16"], "a table")
    assert checks["loads_again"]
    assert checks["same_answers"]
    assert checks["tolerance"]["logit"] == TOLERANCES["f16"].logit


@pytest.mark.parametrize(
    ("change", "allowed", "words"),
    [
        (lambda logits: logits + 1, TOLERANCES["f16"], "A logit"),
        (lambda logits: logits * torch.nan, TOLERANCES["q4_k_m"], "A logit"),
        (lambda logits: logits.roll(1, -1), replace(LOOSE, logit=9), "another answer"),
        (lambda logits: logits * 0.55, replace(LOOSE, nats=0.01), "log-probabilities"),
    ],
)
def test_what_a_format_may_not_lose_is_named(change, allowed, words):
    assert words in (judged(loaded(change), allowed)[1] or "")


def test_an_answer_that_no_longer_ends_is_another_model():
    def never_ends(logits):
        logits = logits.clone()
        logits[2] = torch.tensor([1.0, 7.0, 0.0])  # before the token that ends the first answer
        return logits

    found, wrong = judged(loaded(never_ends), replace(LOOSE, logit=9))
    assert found.stop_agreement == 0.0
    assert "end where the model ends them" in (wrong or "")


@pytest.mark.parametrize("more", [{"encode": lambda text: [1, 0], "template": SPOKEN.template}, {"encode": lambda text: [0, 1]}])
def test_another_tokenizer_or_template_is_another_model(more):
    assert "template" in (judged(loaded(**more))[1] or "")


def test_a_token_that_another_one_equals_but_for_rounding_may_change():
    def turned(logits):
        logits = logits.clone()
        logits[:, 0] = torch.where(logits[:, 0] == 7.0, 6.9, logits[:, 0])
        logits[:, 1] = torch.where(logits[:, 0] == 6.9, 6.95, logits[:, 1])
        return logits

    close = [replace(ANSWERED[0], logits_NV=torch.tensor([[0.0, 9.0, 1.0], [2.0, 0.0, 8.0], [7.0, 6.9, 0.0]]))]
    found = measure(loaded(turned), close, SPOKEN, TOLERANCES["bfloat16"])
    assert found.token_agreement == pytest.approx(2 / 3)
    assert found.agreement_but_ties == 1.0
    assert verdict(found, TOLERANCES["bfloat16"]) is None
