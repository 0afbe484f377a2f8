"""A fit test measures the longest rows of a run, and trains nothing."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from tests.training.conftest import VOCAB, BigramEngine, some_rows
from tests.training.test_grpo import method as questions
from tests.training.test_preferences import pairs

from luthier.datasets.packing import PassLimits
from luthier.jobs.spec import DpoSpec
from luthier.training.batches import Row, Rows
from luthier.training.failures import AttemptFailed
from luthier.training.fit_test import _smallest_that_fits, longest_units
from luthier.training.gang import train_together
from luthier.training.methods import sft
from luthier.training.methods.dpo import Dpo


class SmallEngine(BigramEngine):
    """Has room for so many tokens at once."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def logprobs(self, packed, *, training):
        if len(packed.ids_T) > self.room:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return super().logprobs(packed, training=training)


def measured(engine, rows: Rows, limits: PassLimits, units: int):
    run = SimpleNamespace(progress=lambda _: None)
    made = SimpleNamespace(engine=engine, plan=SimpleNamespace(limits=limits, rows_per_step=units))
    return train_together([_smallest_that_fits(run, made, sft.Sft(rows))])[0]


def test_the_longest_rows_are_measured_and_teach_nothing():
    engine, rows = BigramEngine(), some_rows(22)
    found = measured(engine, rows, PassLimits(3, 1000), 6)
    lengths = sorted((len(rows[number].ids) for number in range(22)), reverse=True)
    assert (found.units, found.tokens, found.passes) == (6, sum(lengths[:6]), 2)
    assert all(parameter.grad is None for parameter in engine.parameters.values())
    assert torch.equal(engine.b_RV, torch.zeros_like(engine.b_RV))


def test_where_memory_runs_out_half_as_much_is_tried():
    assert measured(SmallEngine(20), some_rows(22), PassLimits(8, 1000), 8).passes == 4


def test_before_a_row_is_refused_blocks_are_computed_twice():
    class Twice(SmallEngine):
        def save_memory(self) -> bool:
            before, self.room = self.room, 8
            return before < 8

    found = measured(Twice(5), some_rows(22), PassLimits(8, 1000), 8)
    assert (found.passes, found.twice) == (8, True)


def test_a_row_that_does_not_fit_alone_is_said_with_its_length():
    with pytest.raises(AttemptFailed, match=r"longest row alone \(8 tokens\)"):
        measured(SmallEngine(5), some_rows(22), PassLimits(8, 1000), 8)


def test_units_of_every_method_are_as_long_as_they_get():
    both = Dpo(pairs(9), DpoSpec())
    assert all(len(unit) == 2 for unit in longest_units(both, 3))
    ours = questions(group_size=5, max_new_tokens=7)
    rows = ours.unit(2)
    assert len(rows) == 5
    assert (len(rows[0].ids), len(rows[0].loss_at)) == (2 + 7, 7)
    assert max(len(row.ids) for row in rows) == ours.longest
    long = Rows()
    long.append(Row([3] * 60, ()))
    ours.rows = long
    assert len(ours.unit(0)[0].ids) == ours.context == 64
    assert max(rows[0].ids) < VOCAB


@pytest.mark.slow
def test_a_trainer_measures_and_leaves_no_model(submitted):
    job = submitted(train={"batch_size": 4}, more={"kind": "fit_test"})
    assert job.run() == 0, job.log
    found = json.loads(job.result("fit_test.json"))
    assert found["fits"] is True
    assert found["tokens_per_second"] > 0
    assert 0 < found["peak_memory_bytes"] < found["available_memory_bytes"]
    assert job.status.state == "succeeded"
    assert job.status.step == 0
    assert sorted(job.job.storage.names(f"{job.job.root}attempts/1/results")) == ["attempts/1/results/fit_test.json"]
