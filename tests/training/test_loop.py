"""The loop on a model small enough to check by hand."""

import hashlib
import json

import pytest
import torch
from torch.nn import functional

from luthier.training.failures import AttemptFailed, Fenced, Stopping
from luthier.training.methods.sft import Sft
from luthier.training.schedules import Schedule


def adapter_bytes(engine) -> str:
    data = b"".join(weight.detach().numpy().tobytes() for weight in engine.parameters.values())
    return hashlib.sha256(data).hexdigest()


def by_hand(bench, steps: int) -> list[float]:
    """The same training in the plainest form there is: one row at a time, no packing, no engine."""
    made = bench.attempt()
    engine, train, order = made.engine, bench.spec.train, made.loop.order
    optimiser = torch.optim.AdamW(engine.parameters.values(), lr=train.learning_rate, weight_decay=train.weight_decay)
    schedule = Schedule(train.learning_rate, train.schedule, train.warmup_steps, made.plan.total_steps)
    losses = []
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = schedule.rate(step)
        total, tokens = torch.zeros(()), 0
        for index in order.of_step(step):
            ids, loss_at = torch.tensor(list(bench.rows[index].ids)), list(bench.rows[index].loss_at)
            logits = (engine.base_VV + engine.a_VR @ engine.b_RV)[ids[:-1]]
            each = functional.cross_entropy(logits, ids[1:], reduction="none")
            total = total + each[loss_at].sum()
            tokens += len(loss_at)
        loss = total / tokens
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(engine.parameters.values(), train.max_grad_norm)
        optimiser.step()
        losses.append(loss.item())
    return losses


def test_every_step_is_the_one_of_a_loop_written_by_hand(bench, another_bench):
    expected = by_hand(another_bench(bench), 12)
    bench.attempt().run()
    assert [loss for _, loss in bench.losses()] == pytest.approx(expected, abs=1e-5)
    assert [step for step, _ in bench.losses()] == list(range(1, 13))


@pytest.mark.parametrize(("batch_size", "accumulation", "packing"), [(1, 8, True), (2, 4, True), (4, 2, False), (8, 1, False)])
def test_accumulation_and_packing_change_nothing_that_is_learned(bench, another_bench, batch_size, accumulation, packing):
    whole = another_bench(bench, fixed=type(bench.fixed)(8, 4096, 1, "cpu", "fp32"))
    one = whole.attempt()
    one.run()
    parts = another_bench(bench, fixed=type(bench.fixed)(batch_size, 4096, 1, "cpu", "fp32"))
    parts.train_spec(gradient_accumulation=accumulation, packing=packing)
    other = parts.attempt()
    other.run()
    assert len(other.engine.passes) > len(one.engine.passes)
    assert [loss for _, loss in parts.losses()] == pytest.approx([loss for _, loss in whole.losses()], abs=1e-6)
    for name, weight in one.engine.parameters.items():
        torch.testing.assert_close(other.engine.parameters[name], weight, atol=1e-5, rtol=1e-4)


def test_the_same_seed_gives_the_same_adapter_and_another_seed_another(bench, another_bench):
    benches = [another_bench(bench), another_bench(bench), another_bench(bench, spec=bench.spec.model_copy(update={"seed": 7}))]
    hashes = []
    for each in benches:
        made = each.attempt()
        made.run()
        hashes.append(adapter_bytes(made.engine))
    assert hashes[0] == hashes[1]
    assert hashes[0] != hashes[2]


@pytest.mark.parametrize("stop_at", [1, 4, 5, 6, 11])
def test_a_run_that_was_stopped_and_resumed_is_the_uninterrupted_one_bit_by_bit(bench, another_bench, stop_at):
    straight = another_bench(bench, validation=bench.rows)
    whole = straight.attempt()
    whole.run()

    bench.validation = bench.rows
    first = bench.attempt()
    _ask_at(first, stop_at, "stopped")
    with pytest.raises(Stopping):
        first.run()
    assert bench.job.newest_checkpoint().step == stop_at  # no step is lost
    second = bench.attempt(resume=bench.job.newest_checkpoint())
    second.run()
    assert bench.losses() == straight.losses()
    assert adapter_bytes(second.engine) == adapter_bytes(whole.engine)
    assert second.state.best == whole.state.best
    assert second.state.curve == whole.state.curve


def _ask_at(made, step, wish):
    ordinary = made.journal.step

    def asking(report):
        ordinary(report)
        if report.step == step:
            made.watch.ask(wish)

    made.journal.step = asking


def test_the_mean_is_over_all_tokens_of_the_step_not_a_mean_of_means(bench):
    made = bench.attempt()
    made.run()
    first = made.loop.order.of_step(0)
    logp = [made.engine.base_VV[list(bench.rows[index].ids)[:-1]].log_softmax(-1) for index in first]
    picked = [table[range(len(table)), list(bench.rows[index].ids)[1:]] for table, index in zip(logp, first, strict=True)]
    assert bench.losses()[0][1] == pytest.approx(-torch.cat(picked).mean().item(), abs=1e-5)


def test_a_step_that_runs_out_of_memory_goes_on_in_smaller_passes(bench, another_bench):
    straight = another_bench(bench)
    straight.attempt().run()
    made = bench.attempt()
    ordinary = made.engine.logprobs

    def small_memory(packed, *, training):
        if len(packed.lengths) > 1:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return ordinary(packed, training=training)

    made.engine.logprobs = small_memory
    made.run()
    assert [loss for _, loss in bench.losses()] == pytest.approx([loss for _, loss in straight.losses()], abs=1e-5)
    assert any(event.kind == "warning" and "at most 1 rows" in event.message for event in bench.job.events())


def test_where_no_row_fits_alone_blocks_are_computed_twice_before_the_run_ends(bench, another_bench):
    straight = another_bench(bench)
    straight.attempt().run()
    made = bench.attempt()
    ordinary, asked = made.engine.logprobs, []

    def no_memory(packed, *, training):
        if not asked and training:
            raise MemoryError
        return ordinary(packed, training=training)

    made.engine.logprobs = no_memory
    made.engine.save_memory = lambda: not asked and not asked.append(1)
    made.run()
    assert [loss for _, loss in bench.losses()] == pytest.approx([loss for _, loss in straight.losses()], abs=1e-5)
    assert any(event.kind == "warning" and "computed twice" in event.message for event in bench.job.events())


def test_a_row_that_does_not_fit_alone_ends_the_run(bench):
    made = bench.attempt()

    def no_memory(packed, *, training):
        raise MemoryError

    made.engine.logprobs = no_memory
    with pytest.raises(MemoryError):
        made.run()


def test_a_loss_that_is_no_number_ends_the_run_before_it_reaches_the_weights(bench):
    made = bench.attempt()
    ordinary = made.engine.logprobs
    made.engine.logprobs = lambda packed, *, training: (
        ordinary(packed, training=training) * (float("nan") if made.state.step == 5 else 1.0)
    )
    with pytest.raises(AttemptFailed, match="no longer a number at step 6"):
        made.run()
    assert all(bool(torch.isfinite(weight).all()) for weight in made.engine.parameters.values())


def test_checkpoints_rotate_and_the_best_and_the_last_two_stay(bench):
    bench.validation = bench.rows
    bench.train_spec(save_steps=1, eval_steps=4)
    made = bench.attempt()
    values = iter([2.0, 3.0, 4.0])
    with_losses(made, values)
    made.run()
    assert bench.steps_with_checkpoint() == [4, 11, 12]
    assert made.state.best_checkpoint.step == 4


def with_losses(made, values):
    """Let the validations see these losses, whatever the model says."""
    ordinary = made.engine.logprobs
    current = {"step": -1, "loss": 0.0}

    def faked(packed, *, training):
        logp = ordinary(packed, training=training)
        if training:
            return logp
        if current["step"] != made.state.step:
            current.update(step=made.state.step, loss=next(values))
        return torch.full_like(logp, -current["loss"])

    made.engine.logprobs = faked


def test_training_ends_early_when_the_validation_loss_gets_no_better(bench):
    bench.validation = bench.rows
    bench.train_spec(eval_steps=2, early_stopping_patience=2)
    made = bench.attempt()
    with_losses(made, iter([3.0, 2.0, 2.5, 2.1, 1.0, 1.0]))
    made.run()
    assert made.state.step == 8
    assert made.state.best.step == 4
    assert any("training ends early" in event.message for event in bench.job.events())


def test_a_run_stops_by_itself_when_its_time_is_over_and_keeps_a_checkpoint(bench):
    bench.spec = bench.spec.model_copy(update={"limits": bench.spec.limits.model_copy(update={"max_seconds": 60})})
    seconds = iter(range(0, 10_000, 3))
    bench.monotonic = lambda: next(seconds)
    made = bench.attempt()
    with pytest.raises(Stopping, match="stopped"):
        made.run()
    assert 0 < made.state.step < made.plan.total_steps
    assert bench.steps_with_checkpoint() == [made.state.step]
    assert any("max_seconds (60 s)" in event.message for event in bench.job.events())


def test_five_minutes_without_a_checkpoint_make_one(bench):
    seconds = iter(range(0, 1_000_000, 20))
    bench.monotonic = lambda: next(seconds)
    bench.attempt().run()
    saved = [event.step for event in bench.job.events() if event.kind == "checkpoint"]
    assert len(saved) > 2


def test_a_stop_during_the_validation_is_saved_at_once_and_the_resume_validates_first(bench, another_bench):
    straight = another_bench(bench, validation=bench.rows)
    straight.attempt().run()
    bench.validation = bench.rows
    made = bench.attempt()
    ordinary = made.engine.logprobs

    def stopping(packed, *, training):
        if not training:
            made.watch.ask("preempted")
        return ordinary(packed, training=training)

    made.engine.logprobs = stopping
    with pytest.raises(Stopping):
        made.run()
    assert bench.job.newest_checkpoint().step == 6
    bench.attempt(resume=bench.job.newest_checkpoint()).run()
    assert bench.losses() == straight.losses()
    assert [event.data for event in bench.job.events() if event.kind == "eval"] == [
        event.data for event in straight.job.events() if event.kind == "eval"
    ]


def test_a_fenced_run_writes_nothing_more(bench, control):
    made = bench.attempt()
    ordinary = made.journal.step
    before = {}

    def replaced(report):
        ordinary(report)
        if report.step == 3:
            bench.job.write_control(control(attempt=9))
            made.watch.poll()
            before.update(snapshot(bench))

    made.journal.step = replaced
    with pytest.raises(Fenced):
        made.run()
    assert snapshot(bench) == before


def snapshot(bench):
    return {name: bench.job.storage.read(name) for name in bench.job.storage.names("attempts")}


def test_no_step_event_reaches_across_a_checkpoint(bench):
    bench.train_spec(save_steps=5)
    bench.attempt().run()
    spans = [[step[0] for step in event.data["steps"]] for event in bench.job.events() if event.kind == "step"]
    assert all(not (span[0] <= saved < span[-1]) for span in spans for saved in (5, 10))


def test_the_state_of_a_run_is_plain_json(bench):
    bench.attempt().run()
    ref = bench.job.newest_checkpoint()
    data = bench.job.storage.read(f"attempts/1/checkpoints/step-{ref.step:08d}/trainer_state.json")
    assert json.loads(data)["fixed"]["threads"] == 1


def test_the_rows_of_the_next_step_are_asked_for_while_this_one_runs(bench):
    told = []

    class Telling(Sft):
        def soon(self, numbers):
            told.append(("soon", list(numbers)))
            super().soon(numbers)

        def batches(self, engine, step, limits):
            told.append(("now", list(step.numbers)))
            yield from super().batches(engine, step, limits)

    bench.method = Telling
    made = bench.attempt()
    made.run()
    steps = [made.loop.order.of_step(step) for step in range(made.plan.total_steps)]
    assert [numbers for when, numbers in told if when == "now"] == steps
    assert [numbers for when, numbers in told if when == "soon"] == steps[1:]
    assert [when for when, _ in told] == ["soon", "now"] * (len(steps) - 1) + ["now"]
