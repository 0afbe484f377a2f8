"""Several runs in one process: each is what it would be alone, and what happens to one happens to it alone."""

from __future__ import annotations

import pytest
import torch
from tests.training.conftest import BigramEngine, some_rows

from luthier.modeling.types import Packed
from luthier.training.failures import AttemptFailed, Stopping
from luthier.training.gang import Pass, Repeat, train_together


def two_unlike(bench, another_bench):
    """Runs that share nothing but the process: data, length, rate, batch and seed differ."""
    bench.train_spec(epochs=2)
    other = another_bench(bench, rows=some_rows(13, seed=3))
    other.train_spec(epochs=4, learning_rate=0.01, batch_size=2)
    return bench, other


def test_two_runs_together_are_what_each_is_alone(bench, another_bench):
    one, other = two_unlike(bench, another_bench)
    alone = [another_bench(one), another_bench(other)]
    for each in alone:
        each.attempt().run()
    train_together([one.attempt().loop.run(), other.attempt().loop.run()])
    assert [one.losses(), other.losses()] == [each.losses() for each in alone]
    assert len(one.losses()) != len(other.losses())


def test_a_run_that_is_stopped_leaves_the_others_alone(bench, another_bench):
    one, other = two_unlike(bench, another_bench)
    stopped, going = one.attempt(), other.attempt()

    def stop_after(loop, step):
        for wanted in loop.run():
            yield wanted
            if loop.state.step >= step:
                stopped.watch.ask("stopped")

    def caught(work):
        try:
            yield from work
        except Stopping:
            return "stopped"
        return "done"

    assert train_together([caught(stop_after(stopped.loop, 3)), caught(going.loop.run())]) == ["stopped", "done"]
    assert one.steps_with_checkpoint()[-1] == stopped.state.step < going.state.step


def test_a_run_that_diverges_leaves_the_others_alone(bench, another_bench):
    one, other = two_unlike(bench, another_bench)
    broken, going = one.attempt(), other.attempt()
    with torch.no_grad():
        broken.engine.a_VR.fill_(float("nan"))

    def told(loop):
        try:
            yield from loop.run()
        except AttemptFailed as failed:
            return failed.failure.code
        return "done"

    assert train_together([told(broken.loop), told(going.loop)]) == ["diverged", "done"]


def test_an_error_in_one_loss_reaches_its_run_alone():
    engines = [BigramEngine(), BigramEngine(seed=1)]
    packed = Packed([3, 4, 5], [3], [0, 1])

    def loses(engine):
        try:
            yield Pass(engine, packed, lambda logp_N: 1 / 0, 100)
        except ZeroDivisionError:
            return "mine"

    def learns(engine):
        yield Pass(engine, packed, torch.ones_like, 100)
        return engine.b_RV.grad is not None

    assert train_together([loses(engines[0]), learns(engines[1])]) == ["mine", True]


class Narrow(BigramEngine):
    """Memory that holds a pass, but not two passes of two at once."""

    held = 0

    def logprobs(self, packed, *, training):
        Narrow.held += 1
        if Narrow.held > 1:
            Narrow.held = 0
            raise RuntimeError("out of memory")
        return super().logprobs(packed, training=training)

    def backward(self, grad_N):
        Narrow.held = 0
        super().backward(grad_N)


def test_where_memory_does_not_hold_all_at_once_they_take_turns(bench, another_bench):
    one, other = two_unlike(bench, another_bench)
    alone = [another_bench(one), another_bench(other)]
    for each in alone:
        each.attempt().run()
    train_together([one.attempt(Narrow()).loop.run(), other.attempt(Narrow()).loop.run()])
    assert [one.losses(), other.losses()] == [each.losses() for each in alone]


def test_no_more_tokens_go_together_than_the_most_modest_run_allows():
    sizes: list[int] = []
    packed = Packed([3, 4, 5], [3], [0, 1])

    def asks(engine, most_tokens):
        for _ in range(2):
            yield Pass(engine, packed, lambda logp_N: (sizes.append(len(sizes)), torch.zeros_like(logp_N))[1], most_tokens)

    train_together([asks(BigramEngine(), 6), asks(BigramEngine(), 6), asks(BigramEngine(), 100)])
    assert len(sizes) == 6


def test_repeat_begins_the_step_again_without_a_trace(bench, another_bench):
    plain = another_bench(bench)
    plain.attempt().run()
    made = bench.attempt()

    def repeated(loop):
        work = loop.run()
        wanted = next(work)
        wanted.engine.logprobs(wanted.packed, training=True)
        wanted.engine.backward(torch.ones(len(wanted.packed.loss_at_N)))  # half a step that must not count
        try:
            wanted = work.throw(Repeat())
            while True:
                yield wanted
                wanted = next(work)
        except StopIteration:
            return

    train_together([repeated(made.loop)])
    assert bench.losses() == plain.losses()
    with pytest.raises(StopIteration):
        next(made.loop.run())
