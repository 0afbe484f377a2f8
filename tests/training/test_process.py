"""Real trainer processes on job directories, driven as a supervisor drives them."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys

import pytest
import yaml
from safetensors.torch import load_file

from luthier.jobs.directory import EXIT_FENCED, Control
from luthier.jobs.spec import RunSpec

pytestmark = pytest.mark.slow

LONG = {"epochs": 60, "learning_rate": 0.01, "batch_size": 2, "save_steps": 20, "warmup_steps": 3}


def adapter_sha256(job) -> str:
    return hashlib.sha256(job.result("final_model/adapter_model.safetensors")).hexdigest()


@pytest.fixture(scope="module")
def uninterrupted(submitted):
    """240 steps with dropout, never disturbed."""
    job = submitted(train=LONG, validate=True, more={"lora": {"rank": 4, "dropout": 0.1}, "evaluate": {"rows": 2}})
    assert job.run() == 0, job.log
    return job


def test_a_whole_run_leaves_all_that_the_contract_names(uninterrupted):
    job = uninterrupted
    assert job.status.state == "succeeded", job.log
    results = {name.split("results/")[1] for name in job.job.storage.names("attempts/1/results")}
    assert results == {
        "config.yaml",
        "checks.json",
        "metrics.json",
        "evaluation.json",
        "final_model/adapter_model.safetensors",
        "final_model/adapter_config.json",
        "final_model/tokenizer.json",
        "final_model/tokenizer_config.json",
        "final_model/chat_template.jinja",
    }
    assert len(job.losses()) == job.status.step == job.status.total_steps == 240
    assert not (job.folder / "attempts" / "1" / "work").exists()
    evaluation = json.loads(job.result("evaluation.json"))
    assert evaluation["tuned"]["loss"] < evaluation["base"]["loss"]
    assert [sample["expected"] for sample in evaluation["samples"]] == ["billing", "bug"]
    metrics = json.loads(job.result("metrics.json"))
    assert metrics["steps"] == 240
    assert metrics["eval_loss"] == job.status.eval_loss or metrics["best_step"] < 240
    config = RunSpec.model_validate(yaml.safe_load(job.result("config.yaml")))
    assert (config.train.device, config.train.precision, config.train.batch_size) == ("cpu", "fp32", 2)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft asks transformers by an old name
def test_peft_loads_what_was_left_and_says_the_same(uninterrupted, bases):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from luthier.modeling.load import load_base
    from luthier.modeling.plain import PlainEngine
    from luthier.modeling.types import LoraShape

    folder = uninterrupted.folder / "attempts" / "1" / "results" / "final_model"
    base = bases / "luthier--tiny" / "1"
    tokens = AutoTokenizer.from_pretrained(folder)
    ids = tokens("How do I export my invoice?").input_ids
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
    engine = PlainEngine(load_base(base, "cpu", "fp32"), LoraShape(4, 32), 0)
    engine.load_adapter(folder)
    with torch.no_grad():
        torch.testing.assert_close(model(torch.tensor([ids])).logits[0], engine.logits(ids), atol=1e-5, rtol=1e-5)


def killed_at(make, steps, wait_until):
    """The same run, killed without warning soon after each of these checkpoints, each time started again."""
    job = make(train=LONG, validate=True, more={"lora": {"rank": 4, "dropout": 0.1}, "evaluate": {"rows": 2}})
    for step in steps:
        process = job.start()
        wait_until(lambda step=step: (newest := job.job.newest_checkpoint()) and newest.step >= step, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
    assert job.run() == 0, job.log
    return job


def test_p6_a_run_that_was_killed_and_resumed_is_the_uninterrupted_one_bit_by_bit(submitted, uninterrupted, wait_until):
    job = killed_at(submitted, [40, 120], wait_until)
    assert job.status.state == "succeeded", job.log
    assert job.status.resumed_from.step >= 120
    assert job.losses() == uninterrupted.losses()
    assert adapter_sha256(job) == adapter_sha256(uninterrupted)
    assert json.loads(job.result("evaluation.json")) == json.loads(uninterrupted.result("evaluation.json"))


@pytest.mark.prove
@pytest.mark.parametrize("round_number", range(5))
def test_p6_at_ten_random_steps(submitted, uninterrupted, wait_until, round_number):
    steps = sorted(random.Random(round_number).sample(range(20, 230), 10))
    job = killed_at(submitted, steps, wait_until)
    assert job.losses() == uninterrupted.losses()
    assert adapter_sha256(job) == adapter_sha256(uninterrupted)


def test_a_rotten_checkpoint_is_passed_over_and_the_curve_is_still_the_same(submitted, uninterrupted, wait_until):
    job = submitted(train=LONG, validate=True, more={"lora": {"rank": 4, "dropout": 0.1}, "evaluate": {"rows": 2}})
    process = job.start()
    wait_until(lambda: (newest := job.job.newest_checkpoint()) and newest.step >= 60, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)
    newest = job.job.newest_checkpoint()
    name = f"attempts/1/checkpoints/step-{newest.step:08d}/adapter_model.safetensors"
    data = bytearray(job.job.storage.read(name))
    data[-1] ^= 1
    job.job.storage.write(name, bytes(data))
    assert job.run() == 0, job.log
    assert job.status.resumed_from.step < newest.step
    assert any(event.kind == "warning" and "does not verify" in event.message for event in job.job.events())
    assert adapter_sha256(job) == adapter_sha256(uninterrupted)


ENDLESS = {"max_steps": 1_000_000, "save_steps": 1_000_000, "learning_rate": 1e-4, "batch_size": 2}


def training(job) -> bool:
    status = job.status
    return status is not None and status.phase == "training" and status.step >= 3


def test_p7_sigterm_saves_and_ends_in_order_with_no_step_lost(submitted, wait_until):
    job = submitted(train=ENDLESS)
    process = job.start()
    wait_until(lambda: training(job), process)
    process.terminate()
    assert process.wait(30) == 0
    assert job.status.state == "preempted", job.log
    assert job.job.newest_checkpoint().step == job.status.step == job.losses()[-1][0]


def test_a_stop_that_the_platform_wants_ends_in_order_too(submitted, wait_until):
    job = submitted(train=ENDLESS)
    process = job.start()
    wait_until(lambda: training(job), process)
    job.job.write_control(Control(attempt=1, want="stop", spec_sha256=job.sha256))
    assert process.wait(30) == 0
    assert job.status.state == "stopped", job.log
    assert job.job.newest_checkpoint().step == job.status.step


def test_the_end_of_the_supervisor_ends_the_trainer_in_order(submitted, wait_until):
    reading, writing = os.pipe()
    job = submitted(train=ENDLESS)
    process = job.start("--parent-pipe", "0", stdin=reading)
    os.close(reading)
    wait_until(lambda: training(job), process)
    os.close(writing)
    assert process.wait(30) == 0
    assert job.status.state == "preempted", job.log
    assert job.job.newest_checkpoint().step == job.status.step


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_the_death_of_the_supervisor_is_noticed_even_while_somebody_holds_its_pipe(submitted, wait_until):
    reading, writing = os.pipe()
    job = submitted(train=ENDLESS)
    job.claim()
    command = [sys.executable, "-m", "luthier.training", job.job.url, "--bases", str(job.bases), "--parent-pipe", str(reading)]
    code = f"import subprocess; subprocess.Popen({command!r}, pass_fds=({reading},)).wait()"
    supervisor = subprocess.Popen(
        [sys.executable, "-c", code], pass_fds=(reading,), env={**os.environ, "OMP_NUM_THREADS": "2"}, stdout=subprocess.DEVNULL
    )
    wait_until(lambda: training(job), supervisor)
    supervisor.kill()
    supervisor.wait(30)
    wait_until(lambda: job.status.state == "preempted")
    os.close(reading)
    os.close(writing)
    assert job.job.newest_checkpoint().step == job.status.step


def test_p4_a_frozen_trainer_that_was_replaced_writes_nothing_when_it_thaws(submitted, wait_until):
    job = submitted(train=ENDLESS)
    process = job.start()
    wait_until(lambda: training(job), process)
    os.kill(process.pid, signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)
    job.job.write_control(Control(attempt=2, spec_sha256=job.sha256))
    before = published(job)
    wait_until(_after(0.5), process)
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(30) == EXIT_FENCED
    assert published(job) == before


def published(job) -> dict[str, bytes]:
    """All that others can see of the attempts; the working folder is the trainer's own, and it tidies up."""
    return {name: job.job.storage.read(name) for name in job.job.storage.names("attempts") if "work" not in name.split("/")}


def _after(seconds: float):
    import time

    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def test_a_run_by_hand_needs_nothing_but_a_folder(bases, tmp_path, submitted):
    from luthier.training.__main__ import main

    folder = tmp_path / "by hand"
    folder.mkdir()
    rows = [{"prompt": "Two and two is", "completion": " four"}, {"prompt": "Three and one is", "completion": " four"}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    spec = {"base_model": "tiny", "dataset": "rows.jsonl", "train": {"epochs": 2, "learning_rate": 0.01, "device": "cpu"}}
    (folder / "run.yaml").write_text(yaml.safe_dump(spec), "utf-8")
    for number in (1, 2):
        assert main([str(folder), "--bases", str(bases)]) == 0
        attempt = folder / "attempts" / str(number)
        assert json.loads((attempt / "status.json").read_text("utf-8"))["state"] == "succeeded"
        assert "Done:" in (attempt / "job.log").read_text("utf-8")
        assert load_file(attempt / "results" / "final_model" / "adapter_model.safetensors")
