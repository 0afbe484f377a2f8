"""DPO, ORPO and KTO against closed forms, by hand, and on a model small enough to learn in a second."""

from __future__ import annotations

import math
import random

import pytest
import torch
from tests.training.conftest import END, VOCAB, BigramEngine

from luthier.datasets.packing import PassLimits
from luthier.jobs.spec import DpoSpec, KtoSpec, OrpoSpec
from luthier.training.batches import Row, Rows
from luthier.training.method import Method, Step, mean_loss
from luthier.training.methods.dpo import Dpo, pair_losses
from luthier.training.methods.kto import Kto, answer_losses
from luthier.training.methods.orpo import Orpo, log_odds_ratio

WIDE, NARROW = PassLimits(64, 10_000), PassLimits(1, 10)


def pairs(count: int, seed: int = 0, *, equal: bool = False) -> Rows:
    """Questions of some tokens; the chosen answer counts up, the rejected one counts down."""
    draw, rows = random.Random(seed), Rows()
    for _ in range(count):
        question = [draw.randrange(2, VOCAB) for _ in range(draw.randint(1, 4))]
        start, length = draw.randrange(6, VOCAB - 6), draw.randint(1, 4)
        for way in (1, 1 if equal else -1):
            answer = [start + way * (step + 1) for step in range(length)] + [END]
            rows.append(Row([*question, start, *answer], range(len(question), len(question) + len(answer))))
    return rows


def rated(count: int) -> Kto:
    rows, both = Rows(), pairs(count)
    for number in range(2 * count):
        rows.append(both[number])
    return Kto(rows, [number % 2 == 0 for number in range(2 * count)], KtoSpec())


def trained(method: Method, steps: int = 60, rate: float = 0.05) -> BigramEngine:
    engine = BigramEngine()
    optimiser = torch.optim.AdamW(engine.parameters.values(), lr=rate, weight_decay=0.0)
    numbers = range(len(method))
    method.prepare(engine, numbers, WIDE, lambda _: None)
    for step in range(steps):
        gradients(engine, method, Step(numbers, step), WIDE)
        optimiser.step()
    return engine


def gradients(engine, method, step, limits) -> tuple[float, list[torch.Tensor]]:
    """The step's loss and gradients, through the border of the engine."""
    total = 0.0
    for parameter in engine.parameters.values():
        parameter.grad = None
    for batch in method.batches(engine, step, limits):
        leaf_N = engine.logprobs(batch.packed, training=True).requires_grad_()
        share = batch.loss(leaf_N)
        (grad_N,) = torch.autograd.grad(share, leaf_N)
        engine.backward(grad_N)
        total += share.item()
    none = torch.zeros(())
    return total, [none if parameter.grad is None else parameter.grad.clone() for parameter in engine.parameters.values()]


# -- closed forms ------------------------------------------------------------------------------------------------------

SIGMOID = [  # (beta, difference of the log-ratios, loss): -log(1 / (1 + exp(-beta * d)))
    (0.1, 0.0, 0.6931471805599453),
    (0.1, 1.0, 0.6443966600735709),
    (0.1, -1.0, 0.7443966600735709),
    (0.1, 10.0, 0.31326168751822286),
    (0.1, -10.0, 1.3132616875182228),
    (0.5, 2.0, 0.31326168751822286),
    (0.5, -2.0, 1.3132616875182228),
    (1.0, 5.0, 0.006715348489117967),
    (1.0, -5.0, 5.006715348489118),
    (2.0, 0.25, 0.4740769841801067),
    (0.01, 100.0, 0.31326168751822286),
    (0.3, -40.0, 12.000006144193478),
    (0.05, 3.0, 0.6209570477895321),
]


@pytest.mark.parametrize(("beta", "difference", "expected"), SIGMOID)
def test_dpo_sigmoid(beta, difference, expected):
    found = pair_losses(torch.tensor([difference], dtype=torch.float64), DpoSpec(beta=beta)).item()
    assert found == pytest.approx(expected, rel=1e-12)
    assert found == pytest.approx(math.log1p(math.exp(-beta * difference)), rel=1e-9)


@pytest.mark.parametrize("difference", [-3.0, 0.0, 0.5, 30.0])
def test_dpo_smoothed_hinge_and_ipo(difference):
    d = torch.tensor([difference], dtype=torch.float64)
    right, wrong = (math.log1p(math.exp(-sign * 0.2 * difference)) for sign in (1, -1))
    smoothed = pair_losses(d, DpoSpec(beta=0.2, label_smoothing=0.1)).item()
    assert smoothed == pytest.approx(0.9 * right + 0.1 * wrong, rel=1e-12)
    assert pair_losses(d, DpoSpec(beta=0.2, loss="hinge")).item() == pytest.approx(max(0.0, 1 - 0.2 * difference))
    assert pair_losses(d, DpoSpec(beta=0.2, loss="ipo")).item() == pytest.approx((difference - 2.5) ** 2)


def test_orpo_odds():
    likely = torch.tensor([0.9, 0.5, 0.01], dtype=torch.float64)
    unlikely = torch.tensor([0.1, 0.5, 0.2], dtype=torch.float64)
    expected = (likely / (1 - likely) / (unlikely / (1 - unlikely))).log()
    assert torch.allclose(log_odds_ratio(likely.log(), unlikely.log()), expected)
    certain = torch.zeros(1, requires_grad=True)
    log_odds_ratio(certain, torch.tensor([-1.0])).backward()
    assert torch.isfinite(certain.grad).all()


def test_kto_values_are_the_papers():
    spec = KtoSpec(beta=0.3, desirable_weight=1.5, undesirable_weight=0.5)
    found = answer_losses(torch.tensor([2.0, 2.0]), torch.tensor([True, False]), 0.5, spec)
    expected = [1.5 * (1 - 1 / (1 + math.exp(-0.3 * 1.5))), 0.5 * (1 - 1 / (1 + math.exp(0.3 * 1.5)))]
    assert found.tolist() == pytest.approx(expected)


# -- whole steps -------------------------------------------------------------------------------------------------------


def test_a_model_that_has_learned_nothing_loses_ln_2():
    assert mean_loss(BigramEngine(), Dpo(pairs(9), DpoSpec()), WIDE, lambda _: None) == pytest.approx(math.log(2), abs=1e-6)


def test_equal_pairs_teach_nothing():
    engine, method = BigramEngine(), Dpo(pairs(6, equal=True), DpoSpec())
    method.prepare(engine, range(6), WIDE, lambda _: None)
    torch.nn.init.normal_(engine.b_RV, generator=torch.Generator().manual_seed(1))  # also after the adapter has moved
    loss, grads = gradients(engine, method, Step(range(6)), WIDE)
    assert loss == pytest.approx(math.log(2), abs=1e-6)
    assert all(float(grad.abs().max()) < 1e-7 for grad in grads)


METHODS = {
    "dpo": lambda: Dpo(pairs(7), DpoSpec(sft_weight=0.3, label_smoothing=0.1)),
    "ipo": lambda: Dpo(pairs(7), DpoSpec(loss="ipo")),
    "hinge": lambda: Dpo(pairs(7), DpoSpec(loss="hinge")),
    "orpo": lambda: Orpo(pairs(7), OrpoSpec()),
    "kto": lambda: rated(4),
}


@pytest.mark.parametrize("name", METHODS)
def test_how_a_step_is_cut_into_passes_changes_nothing(name):
    found = []
    for limits in (WIDE, NARROW, PassLimits(3, 40)):
        engine, method = BigramEngine(), METHODS[name]()
        numbers = range(len(method))
        method.prepare(engine, numbers, limits, lambda _: None)
        torch.nn.init.normal_(engine.b_RV, std=0.1, generator=torch.Generator().manual_seed(1))
        loss, grads = gradients(engine, method, Step(numbers), limits)
        found.append((loss, grads, dict(method.metrics())))
    for loss, grads, metrics in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-5)
        assert metrics == pytest.approx(found[0][2], rel=1e-4)
        assert all(torch.allclose(ours, first, atol=1e-6) for ours, first in zip(grads, found[0][1], strict=True))


@pytest.mark.parametrize("name", ["dpo", "ipo", "hinge", "orpo"])
def test_chosen_answers_win_on_pairs_never_seen(name):
    method = METHODS[name]()
    method.rows = pairs(40)
    engine = trained(method)
    held_out = METHODS[name]()
    held_out.rows = pairs(50, seed=9)
    loss = held_out.validation_loss(engine, WIDE, lambda _: None)
    assert held_out.metrics()["accuracy"] > 0.9
    with engine.adapter_off():
        assert loss < held_out.validation_loss(engine, WIDE, lambda _: None)


def test_kto_raises_good_answers_above_bad_ones():
    method = rated(30)
    engine = trained(method, rate=0.03)
    gradients(engine, method, Step(range(60)), WIDE)
    told = method.metrics()
    assert told["reward_good"] > 0 > told["reward_bad"]
    assert told["divergence"] >= 0


def test_the_reference_is_measured_once_and_for_the_asked_pairs_alone():
    engine, method, shares = BigramEngine(), Dpo(pairs(8), DpoSpec()), []
    method.prepare(engine, [1, 3, 4], NARROW, shares.append)
    assert list(method.reference.missing(range(8))) == [0, 2, 5, 6, 7]
    assert shares == pytest.approx([0, 1 / 3, 2 / 3])
    passes = len(engine.passes)
    method.prepare(engine, [1, 3, 4], NARROW, shares.append)
    assert len(engine.passes) == passes
    assert engine.on


def test_a_mixed_row_of_kto_is_the_question_with_the_next_rows_answer():
    rows = Rows()
    rows.append(Row([2, 3, 4, 5], [1, 2]))  # question 2 3, answer 4 5
    rows.append(Row([6, 7, 8, 9, 10], [0, 1, 2, 3]))  # question 6, answer 7 8 9 10
    method = Kto(rows, [True, False], KtoSpec())
    assert method._mixed(0) == Row([2, 3, 7, 8, 9], [1, 2, 3])  # as long as the longest row of the data
    assert method._mixed(1) == Row([6, 4, 5], [0, 1])
