"""GRPO against closed forms, and on a table of bigrams that learns to earn."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence

import pytest
import torch
from tests.training.conftest import END, VOCAB, BigramEngine
from tests.training.test_preferences import NARROW, WIDE, gradients

from luthier.graders.types import StringCheck
from luthier.jobs.spec import GrpoSpec
from luthier.modeling.types import Completion, Sampling
from luthier.training.batches import Row, Rows
from luthier.training.failures import AttemptFailed
from luthier.training.method import Step
from luthier.training.methods.grpo import Grpo, advantages, k3, policy_losses, token_weights

SEVEN = StringCheck(operation="like", reference="{{ item.wanted }}")


def spec(**fields) -> GrpoSpec:
    return GrpoSpec(**{"grader": SEVEN, "group_size": 4, "max_new_tokens": 6, **fields})


class SamplingEngine(BigramEngine):
    """Draws from its table, and tells how likely it was."""

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling):
        if not sampling.temperature:
            yield from super().generate(prompts, sampling)
            return
        logp_VV = (self._table().detach() / sampling.temperature).log_softmax(-1)
        for number, prompt in enumerate(prompts):
            draw = random.Random(f"{sampling.seed}/{number}")
            ids, logps = [*prompt], []
            for _ in range(sampling.max_new_tokens):
                ids.append(draw.choices(range(VOCAB), logp_VV[ids[-1]].exp().tolist())[0])
                logps.append(float(logp_VV[ids[-2], ids[-1]]))
                if ids[-1] in sampling.stop_ids:
                    break
            ended = ids[-1] in sampling.stop_ids
            answer = ids[len(prompt) : -1] if ended else ids[len(prompt) :]
            yield Completion(tuple(answer), "stop" if ended else "length", END if ended else None, tuple(logps))

    def logprobs(self, packed, *, training):
        scale, self.scale = self.scale, packed.temperature
        try:
            return super().logprobs(packed, training=training)
        finally:
            self.scale = scale

    scale = 1.0

    def _table(self):
        return super()._table() / self.scale


def method(**fields) -> Grpo:
    rows = Rows()
    for first in range(2, 10):
        rows.append(Row([first, first + 1], ()))
    items = [{"wanted": " 7 "} for _ in range(8)]
    return Grpo(rows, items, spec(**fields), lambda ids: f" {' '.join(map(str, ids))} ", frozenset({END}), 64)


# -- closed forms ------------------------------------------------------------------------------------------------------


def test_advantages_in_both_conventions():
    rewards = [1.0, 0.0, 0.5, 0.5, 2.0, 2.0, 2.0, 2.0]
    deviation = math.sqrt((0.25 + 0.25) / 3)
    assert advantages(rewards, spec()) == pytest.approx([0.5 / (deviation + 1e-4), -0.5 / (deviation + 1e-4)] + [0.0] * 6)
    assert advantages(rewards, spec(scale="none")) == [0.5, -0.5] + [0.0] * 6


@pytest.mark.parametrize(
    ("logp", "old", "advantage", "loss", "clipped"),
    [
        (-1.0, -1.0, 2.0, -2.0, False),
        (-0.5, -1.0, 1.0, -1.3, True),  # exp(0.5) is beyond 1.3: the gain ends there
        (-0.5, -1.0, -1.0, math.exp(0.5), False),  # but the loss of a bad token does not
        (-2.0, -1.0, 1.0, -math.exp(-1), False),
        (-2.0, -1.0, -1.0, 0.8, True),
        (-1.0, -1.0, 0.0, 0.0, False),
    ],
)
def test_the_clip(logp, old, advantage, loss, clipped):
    logp_N = torch.tensor([logp], requires_grad=True)
    found, held = policy_losses(logp_N, torch.tensor([old]), torch.tensor([advantage]), spec(epsilon_high=0.3))
    assert found.item() == pytest.approx(loss)
    assert bool(held) == clipped
    (grad,) = torch.autograd.grad(found.sum(), logp_N)
    assert (float(grad) == 0) == (clipped or advantage == 0)


@pytest.mark.parametrize("reference", [-4.0, -1.0, -0.1])
def test_k3_is_never_negative_and_flat_where_both_agree(reference):
    logp = torch.tensor([-1.0], requires_grad=True)
    found = k3(logp, torch.tensor([reference]))
    assert found.item() == pytest.approx(math.exp(reference + 1) - (reference + 1) - 1)
    assert found.item() >= 0
    (grad,) = torch.autograd.grad(found.sum(), logp)
    assert float(grad) == pytest.approx(1 - math.exp(reference + 1), abs=1e-6)


def test_what_a_token_counts():
    counts = [1, 3, 4]
    assert token_weights(counts, spec()) == pytest.approx([1 / 8] * 3)
    assert token_weights(counts, spec(normalise="sequence")) == pytest.approx([1 / 3, 1 / 9, 1 / 12])
    assert token_weights(counts, spec(normalise="constant")) == pytest.approx([1 / 18] * 3)


# -- whole steps -------------------------------------------------------------------------------------------------------


def test_with_one_update_the_gradient_is_the_policy_gradient():
    engine, ours = SamplingEngine(), method(temperature=0.8)
    step = Step([0, 3, 5], 0, seed=4)
    loss, grads = gradients(engine, ours, step, WIDE)
    total, tokens = torch.zeros(()), 0
    for parameter in engine.parameters.values():
        parameter.grad = None
    answers = ours._round.answers
    assert len({answer.reward for answer in answers}) == 2
    for answer in answers:
        ids = torch.tensor(answer.ids)
        logp = (engine._table() / 0.8).log_softmax(-1)[ids[answer.answer_at - 1 : -1], ids[answer.answer_at :]]
        total, tokens = total - answer.advantage * logp.sum(), tokens + len(logp)
    (total / tokens).backward()
    expected = [parameter.grad for parameter in engine.parameters.values()]
    assert all(torch.allclose(ours, theirs, atol=1e-6) for ours, theirs in zip(grads, expected, strict=True))
    mean_advantage = sum(answer.advantage * len(answer.old_logps) for answer in answers) / tokens
    assert loss == pytest.approx(-mean_advantage, abs=1e-6)


@pytest.mark.parametrize(
    "fields", [{}, {"beta": 0.2, "normalise": "sequence"}, {"updates_per_batch": 2, "normalise": "constant"}]
)
def test_how_a_step_is_cut_into_passes_changes_nothing(fields):
    found = []
    for limits in (WIDE, NARROW):
        engine, ours = SamplingEngine(), method(**fields)
        torch.nn.init.normal_(engine.b_RV, std=0.1, generator=torch.Generator().manual_seed(1))
        found.append((*gradients(engine, ours, Step([0, 3, 5], 0, seed=4), limits), dict(ours.metrics())))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(found[0][1], found[1][1], strict=True))
    assert found[0][2] == pytest.approx(found[1][2], abs=1e-5)
    assert ("divergence" in found[0][2]) == ("beta" in fields)


def test_answers_of_one_worth_teach_nothing_and_cost_no_pass():
    engine, ours = SamplingEngine(), method()
    ours.items = [{"wanted": "no such word"}] * 8
    assert list(ours.batches(engine, Step([0, 1]), WIDE)) == []
    assert ours.metrics()["mixed_groups"] == 0


def test_some_steps_learn_from_the_same_answers_also_after_a_resume(tmp_path):
    engine, ours = SamplingEngine(), method(updates_per_batch=3)
    gradients(engine, ours, Step([0, 3], 3, seed=9), WIDE)
    first = ours._round
    ours.save(tmp_path)
    gradients(engine, ours, Step([0, 3], 5, seed=11), WIDE)
    assert ours._round is first
    again = method(updates_per_batch=3)
    again.load(tmp_path)
    torch.nn.init.normal_(engine.b_RV, std=0.1, generator=torch.Generator().manual_seed(1))
    here, there = (gradients(engine, each, Step([0, 3], 4, seed=10), WIDE) for each in (ours, again))
    assert here[0] == there[0]
    assert all(torch.equal(one, other) for one, other in zip(here[1], there[1], strict=True))
    gradients(engine, again, Step([1, 2], 6, seed=12), WIDE)
    assert again._round.first_step == 6


def test_a_round_is_sampled_once_however_often_its_step_is_begun():
    engine, ours = SamplingEngine(), method()
    gradients(engine, ours, Step([0, 1], 2, seed=5), WIDE)
    first = ours._round
    gradients(engine, ours, Step([0, 1], 2, seed=5), NARROW)
    assert ours._round is first


def test_a_model_that_did_not_draw_these_answers_is_found_out():
    engine, ours = SamplingEngine(), method()
    list(ours.batches(engine, Step([0, 3, 5], 0, seed=4), WIDE))
    engine.base_VV = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(77)) * 4
    with pytest.raises(AttemptFailed, match="nats off"):
        gradients(engine, ours, Step([0, 3, 5], 0, seed=4), WIDE)


@pytest.mark.parametrize("fields", [{}, {"beta": 0.01, "scale": "none", "normalise": "constant"}, {"updates_per_batch": 2}])
def test_it_learns_to_earn(fields):
    engine, ours = SamplingEngine(), method(group_size=8, **fields)
    before = -ours.validation_loss(engine, WIDE, lambda _: None)
    optimiser = torch.optim.AdamW(engine.parameters.values(), lr=0.05, weight_decay=0.0)
    earned = []
    for step in range(40):
        gradients(engine, ours, Step(range(8), step, seed=step), WIDE)
        earned.append(ours.metrics()["reward"])
        optimiser.step()
    after = -ours.validation_loss(engine, WIDE, lambda _: None)
    assert statistics.fmean(earned[-5:]) > statistics.fmean(earned[:5]) + 0.3
    assert after > max(before, 0.8)
    assert ours.metrics()["reward"] == after
