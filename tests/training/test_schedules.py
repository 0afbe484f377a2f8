"""The schedules are transformers' own, as closed forms."""

import pytest
import torch
from transformers import get_scheduler

from luthier.training.schedules import Schedule


@pytest.mark.parametrize("warmup_steps", [0, 3])
@pytest.mark.parametrize(("shape", "name"), [("cosine", "cosine"), ("linear", "linear"), ("constant", "constant_with_warmup")])
def test_every_step_has_the_rate_that_transformers_gives_it(shape, name, warmup_steps):
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    theirs = get_scheduler(name, optimiser, num_warmup_steps=warmup_steps, num_training_steps=12)
    ours = Schedule(0.5, shape, warmup_steps, 12)
    for step in range(12):
        assert ours.rate(step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12), step
        optimiser.step()
        theirs.step()


def test_the_rate_never_falls_below_zero_even_beyond_the_end():
    assert Schedule(1.0, "linear", 0, 4).rate(9) == 0.0
