"""The memory of a trainer by the formula: what makes it larger, and what it may never forget."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.bases.types import Base
from luthier.billing.types import Price
from luthier.jobs.memory import Wanted, memory_of, pass_tokens
from luthier.jobs.sizes import DataSize
from luthier.jobs.spec import RunSpec

SHAPE = {"hidden": 192, "intermediate": 512, "layers": 5, "heads": 6, "kv_heads": 6, "head_dim": 32, "vocab": 2048}
BASE = Base(**SHAPE, context=1024, id="luthier/tiny", revision="1", parameters=2_600_000, license="MIT")
GRPO = {"grader": {"type": "string_check", "reference": "x", "operation": "eq"}, "max_new_tokens": 100}
lengths = st.lists(st.tuples(st.integers(1, 2000), st.integers(1, 50)), min_size=1, max_size=12)


def price(memory: int | None = 16 << 30, *, bf16: bool = False) -> Price:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    facts = {"kind": "cpu", "memory_bytes": memory, "assumed_flops": 1e9, "bf16": bf16}
    return Price(hardware="local-cpu", hourly_usd="0", valid_from=at, **facts)


def data(*of: tuple[int, int], rows: int | None = None) -> DataSize:
    count = sum(number for _, number in of)
    return DataSize(rows or count, sum(length * number for length, number in of), max(length for length, _ in of), of)


def wanted(size: DataSize, batch: int = 8, there: Price | None = None, **changes) -> Wanted:
    spec = RunSpec.model_validate({"base_model": "luthier/tiny", "dataset": "x", **changes})
    return Wanted(spec, BASE, size, there or price(), batch)


@given(lengths, st.integers(1, 64))
def test_the_parts_add_up_and_no_pass_is_smaller_than_its_longest_row(of, batch):
    asked = wanted(data(*of), batch)
    memory = memory_of(asked)
    parts = memory.model_dump(exclude={"total_bytes", "available_bytes"})
    assert sum(parts.values()) == memory.total_bytes
    assert min(parts.values()) >= 0
    tokens, scores = pass_tokens(asked)
    assert tokens >= min(1024, asked.data.longest)
    assert 0 <= scores <= 768


@given(lengths, st.integers(1, 32), st.integers(1, 512))
def test_more_rows_at_once_a_wider_adapter_and_a_larger_base_never_take_less(of, batch, rank):
    size = data(*of)
    small = memory_of(wanted(size, batch, lora={"rank": rank}))
    assert pass_tokens(wanted(size, batch + 1))[0] >= pass_tokens(wanted(size, batch))[0]
    assert memory_of(wanted(size, batch, lora={"rank": min(512, rank + 1)})).total_bytes >= small.total_bytes
    larger = Wanted(wanted(size).spec, BASE.model_copy(update={"layers": 6}), size, price(), batch)
    assert memory_of(larger).activation_bytes >= memory_of(wanted(size, batch)).activation_bytes


def test_a_pair_goes_through_the_model_with_both_answers():
    pairs = data((200, 400), rows=200)
    assert pass_tokens(wanted(pairs, method="dpo"))[0] == 2 * pass_tokens(wanted(data((200, 200))))[0]


def test_a_sampled_answer_counts_as_its_row():
    asked = wanted(data((50, 100)), method="grpo", grpo=GRPO)
    assert pass_tokens(asked)[0] == 8 * (50 + 100)


def test_rows_that_are_cut_take_no_more_than_their_length():
    assert pass_tokens(wanted(data((900, 10)), train={"max_seq_len": 100}))[0] == 800


def test_a_machine_with_little_memory_takes_smaller_passes():
    asked = data((500, 100))
    assert pass_tokens(wanted(asked, 16, price(1 << 29)))[0] < pass_tokens(wanted(asked, 16, price(None)))[0] == 4096


def test_rows_too_long_to_keep_their_scores_take_less_than_the_longest_that_do():
    long, kept = memory_of(wanted(data((769, 1)), 1)), memory_of(wanted(data((768, 1)), 1))
    assert long.activation_bytes < kept.activation_bytes


def test_one_row_that_would_take_a_quarter_of_the_memory_is_gone_through_twice():
    def held(memory: int) -> int:
        return memory_of(wanted(data((700, 1)), 1, price(memory))).activation_bytes

    assert held(300_000_000) < held(3_000_000_000)


@pytest.mark.parametrize(("bf16", "bytes_each"), [(True, 2), (False, 4)])
def test_a_processor_with_bf16_holds_larger_bases_in_two_bytes(bf16, bytes_each):
    large = BASE.model_copy(update={"parameters": 135_000_000})
    asked = Wanted(wanted(data((10, 10))).spec, large, data((10, 10)), price(bf16=bf16), 8)
    assert memory_of(asked).base_bytes == 135_000_000 * bytes_each


def test_rows_of_which_only_the_sum_is_known_are_estimated_too():
    assert memory_of(wanted(DataSize(rows=10, tokens=1000, longest=200))).total_bytes > 500_000_000


@given(lengths, st.integers(1, 2000))
def test_cut_rows_are_as_many_and_none_is_longer(of, most):
    size = data(*of)
    cut = size.cut(most)
    assert cut.rows == size.rows
    assert cut.longest == min(size.longest, most)
    assert cut.tokens <= max(size.tokens, size.rows)
