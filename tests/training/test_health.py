import math

import pytest

from luthier.training.failures import AttemptFailed
from luthier.training.health import Best, LossWatch


def watch(losses, grad_norm=1.0):
    seen = LossWatch()
    for step, loss in enumerate(losses, 1):
        seen.see(step, loss, grad_norm, 1e-3)
    return seen


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_run_at_once_with_figures_and_advice(loss):
    with pytest.raises(AttemptFailed, match=r"no longer a number at step 3; it started at 2\.000") as caught:
        watch([2.0, 1.9, loss])
    assert caught.value.failure.code == "diverged"
    assert "1.0e-03" in caught.value.failure.hint


def test_a_gradient_that_is_no_number_ends_the_run_too():
    with pytest.raises(AttemptFailed, match="gradient was no longer a number at step 1; it was the first step"):
        watch([2.0], grad_norm=math.nan)


def test_a_loss_that_left_the_rails_ends_the_run_after_twenty_steps():
    with pytest.raises(AttemptFailed, match=r"stood above 5\.00 for 20 steps"):
        watch([2.0] * 10 + [9.0] * 60)


def test_a_run_that_explodes_in_its_first_steps_is_noticed_although_its_start_is_spoilt():
    with pytest.raises(AttemptFailed):
        watch([2.0] + [60.0] * 40)


def test_a_run_at_the_plateau_of_guessing_is_noticed():
    with pytest.raises(AttemptFailed):
        watch([4.0] * 10 + [7.6] * 80)


@pytest.mark.parametrize(
    "losses",
    [
        [0.1, 4.0, 0.2, 3.9] * 50,  # rows of very different kinds, one a step
        [5.0 / step for step in range(1, 300)] + [0.5] * 100,  # thirty times its best, and still learned
        [8.3] * 200,  # learns nothing, which is another failure
        [2.0] * 30 + [50.0] + [2.0] * 30,  # one bad batch
    ],
)
def test_a_run_that_is_only_noisy_goes_on(losses):
    watch(losses)


def test_the_best_evaluation_is_kept_and_the_ones_since_are_counted():
    best = Best()
    assert [best.see(step, loss) for step, loss in ((1, 2.0), (2, 1.0), (3, 1.0), (4, 3.0))] == [True, True, False, False]
    assert (best.step, best.eval_loss, best.since) == (2, 1.0, 2)
