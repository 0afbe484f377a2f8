"""Estimates: the same plan as the trainer's, money by the price book, memory by a formula that says what would help."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.billing.rules import micro_usd
from luthier.errors import FieldInvalid
from luthier.jobs import automatic, estimation, memory
from luthier.jobs.sizes import DataSize
from luthier.jobs.spec import RunSpec


@given(
    st.integers(1, 5000),
    st.one_of(st.just("auto"), st.integers(1, 64)),
    st.integers(1, 8),
    st.one_of(st.none(), st.just("auto"), st.integers(1, 20)),
)
def test_the_plan_is_the_trainers(rows, batch_size, accumulation, epochs):
    plan = pytest.importorskip("luthier.training.plan")
    spec = RunSpec.model_validate(
        {
            "base_model": "luthier/tiny",
            "dataset": "x",
            "train": {"batch_size": batch_size, "gradient_accumulation": accumulation, "epochs": epochs},
        }
    )
    batch = automatic.batch_size(rows) if batch_size == "auto" else batch_size
    fixed = plan.Fixed(batch_size=batch, tokens_per_pass=4096, threads=1, device="cpu", precision="fp32")
    theirs, ours = plan.plan_of(spec, fixed, rows, 512, 64), estimation.plan_of(spec, rows)
    assert (ours.batch_size, ours.steps_per_epoch, ours.steps) == (batch, theirs.steps_per_epoch, theirs.total_steps)


def test_an_estimate_counts_rows_steps_tokens_and_dollars(bench, alice):
    bench.billing.set_price("local-cpu", "3.60")
    estimate = bench.jobs.estimate(alice, bench.spec(train={"epochs": 2, "batch_size": 8}))
    assert (estimate.rows, estimate.steps, estimate.epochs) == (40, 10, 2.0)
    assert estimate.tokens == 2 * estimate.tokens_per_epoch > 0
    assert micro_usd(estimate.cost_usd) == estimate.seconds * 1000
    assert estimate.fits
    assert "Assumed" in estimate.basis_note


def test_more_epochs_take_longer_and_evaluation_is_counted(bench, alice):
    def seconds(**changes):
        return bench.jobs.estimate(
            alice, bench.spec(hardware="t4-small", base_model="HuggingFaceTB/SmolLM2-1.7B-Instruct", **changes)
        ).seconds

    assert seconds(train={"epochs": 100}) > seconds(train={"epochs": 10}) > 0
    assert seconds(validation_dataset=bench.dataset_id) > seconds()


def test_a_base_that_must_be_built_or_fetched_first_takes_longer(bench, alice):
    cold = bench.jobs.estimate(alice, bench.spec()).seconds
    bench.bases.folder(bench.bases.get("luthier/tiny")).mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (bench.bases.folder(bench.bases.get("luthier/tiny")) / name).write_bytes(b"{}")
    assert cold - bench.jobs.estimate(alice, bench.spec()).seconds == 60


def test_memory_is_the_sum_of_its_parts_and_grows_with_what_it_depends_on(bench, alice):
    def memory(**changes):
        return bench.jobs.estimate(alice, bench.spec(base_model="HuggingFaceTB/SmolLM2-135M-Instruct", **changes)).memory

    base = memory()
    parts = base.model_dump(exclude={"total_bytes", "available_bytes"})
    assert sum(parts.values()) == base.total_bytes
    assert base.base_bytes == 134_515_008 * 4
    assert memory(train={"precision": "bf16"}).base_bytes == 134_515_008 * 2
    assert memory(lora={"rank": 32}).optimizer_bytes == 2 * base.optimizer_bytes
    assert memory(lora={"targets": ["q_proj"]}).adapter_bytes < base.adapter_bytes


def test_hardware_whose_memory_is_not_known_is_not_refused_for_it(bench, alice):
    estimate = bench.jobs.estimate(alice, bench.spec(hardware="local-gpu"))
    assert estimate.memory.available_bytes is None
    assert estimate.fits


def test_the_adapter_of_a_small_llama_has_as_many_weights_as_peft_says(bench):
    base = bench.bases.get("HuggingFaceTB/SmolLM2-135M-Instruct")
    spec = RunSpec.model_validate({"base_model": base.id, "dataset": "x", "lora": {"rank": 16}})
    per_layer = 16 * ((576 + 576) * 2 + (576 + 192) * 2 + (576 + 1536) * 3)
    assert memory.adapter_parameters(base, spec.lora) == 30 * per_layer


def test_a_batch_larger_than_the_data_is_one_step_an_epoch():
    assert estimation.plan_of(run(batch_size=64, epochs=3), 40).steps == 3


def test_few_rows_are_seen_more_often_by_themselves():
    assert estimation.plan_of(run(batch_size=1, epochs="auto"), 20).epochs == 10
    assert estimation.plan_of(run(batch_size=16, epochs="auto"), 4000).epochs == 1


def run(**train) -> RunSpec:
    return RunSpec.model_validate({"base_model": "luthier/tiny", "dataset": "x", "train": train})


@pytest.mark.parametrize(("quantization", "share"), [("8bit", 1.0), ("4bit", 0.53)])
def test_a_base_in_fewer_bits_takes_less_memory_but_for_embeddings_and_head(bench, alice, quantization, share):
    changes = {"hardware": "t4-small", "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct"}
    estimate = bench.jobs.estimate(alice, bench.spec(train={"quantization": quantization}, **changes))
    linear = 30 * (576 * 576 * 2 + 576 * 192 * 2 + 576 * 1536 * 3)
    assert estimate.memory.base_bytes == int(linear * share) + (134_515_008 - linear) * 2
    assert estimate.memory.activation_bytes == bench.jobs.estimate(alice, bench.spec(**changes)).memory.activation_bytes


def judged_by(name):
    asked = [{"role": "user", "content": "Is {{ sample.output_text }} right?"}]
    grader = {"type": "label_model", "model": name, "input": asked, "labels": ["yes", "no"], "passing_labels": ["yes"]}
    return {"method": "grpo", "grpo": {"grader": grader, "group_size": 4, "max_new_tokens": 32}}


def test_a_judge_beside_the_base_takes_memory_and_time_and_one_that_is_the_base_time_alone(bench):
    price, tiny = bench.billing.price("local-cpu"), bench.bases.get("luthier/tiny")
    large = bench.bases.get("HuggingFaceTB/SmolLM2-135M-Instruct")

    def asked(name, judges, **changes):
        spec = bench.spec(**judged_by(name), **changes)
        return estimation.estimate(estimation.Facts(spec, tiny, DataSize(40, 4000, 100), None, price, judges=judges))

    none, own = asked("tiny", {}), asked("tiny", {"tiny": tiny})
    other = asked(large.id, {large.id: large})
    assert none.memory.judge_bytes == own.memory.judge_bytes == 0
    assert other.memory.judge_bytes > large.parameters * 4
    assert other.memory.total_bytes == own.memory.total_bytes + other.memory.judge_bytes
    assert none.seconds < own.seconds < other.seconds
    assert "judges read" in other.basis_note
    eight = asked(large.id, {large.id: large}, train={"quantization": "8bit"}).memory.judge_bytes
    assert eight < other.memory.judge_bytes  # held as the base is


def test_where_a_judge_is_too_much_it_is_said_what_the_run_needs_without(bench):
    price = bench.billing.price("local-cpu").model_copy(update={"memory_bytes": 2_000_000_000})
    tiny, large = bench.bases.get("luthier/tiny"), bench.bases.get("HuggingFaceTB/SmolLM2-1.7B-Instruct")
    facts = estimation.Facts(
        bench.spec(**judged_by(large.id)), tiny, DataSize(40, 4000, 100), None, price, judges={large.id: large}
    )
    estimate = estimation.estimate(facts)
    assert not estimate.fits
    assert "`model: luthier/tiny` in the grader" in estimate.advice[0]


def test_8_bits_are_named_where_they_make_a_base_fit(bench):
    price = bench.billing.price("local-cpu").model_copy(update={"memory_bytes": 4_200_000_000})
    base = bench.bases.get("HuggingFaceTB/SmolLM2-1.7B-Instruct")
    estimate = estimation.estimate(estimation.Facts(bench.spec(), base, DataSize(40, 4000, 100), None, price))
    assert not estimate.fits
    assert "`train.quantization: 8bit`" in estimate.advice[0]


def test_larger_hardware_is_advised_where_jobs_can_ask_for_it_and_else_said_to_be_out_of_reach(bench):
    prices = bench.billing.prices()
    out_of_reach = estimation.larger_hardware(100_000_000_000, prices, {"local-cpu"})
    assert out_of_reach == "cpu-xl ($1.00/h) has 124.0 GB, but nothing that runs here reaches it."
    assert estimation.larger_hardware(100_000_000_000, prices, {"h200"}) == "`hardware: h200` ($5.00/h) has 141.0 GB."
    assert estimation.larger_hardware(10**12, prices, {"h200"}) is None


def test_processors_that_are_rented_hold_a_base_as_those_here_do(bench, alice):
    def needs(hardware):
        spec = bench.spec(hardware=hardware, base_model="HuggingFaceTB/SmolLM2-1.7B-Instruct")
        return bench.jobs.estimate(alice, spec).memory.base_bytes

    assert needs("cpu-xl") == 2 * needs("t4-small")  # in fp32, whatever these do in bf16
    with pytest.raises(FieldInvalid, match="on a CPU"):
        bench.jobs.estimate(alice, bench.spec(hardware="cpu-xl", train={"quantization": "4bit"}))
