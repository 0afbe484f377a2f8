"""Whole runs whose base is held in 8 bits, driven as a supervisor drives them."""

import json
import os
import signal

import pytest
import yaml

from luthier.jobs.spec import RunSpec

pytestmark = pytest.mark.slow

TRAIN = {"epochs": 20, "learning_rate": 0.01, "batch_size": 2, "save_steps": 20, "quantization": "8bit"}
MORE = {"lora": {"rank": 4, "dropout": 0.1}, "evaluate": {"rows": 2}}


@pytest.fixture(scope="module")
def uninterrupted(submitted):
    job = submitted(train=TRAIN, validate=True, more=MORE)
    assert job.run() == 0, job.log
    return job


def test_it_learns_says_how_its_base_was_held_and_is_checked_like_any_other(uninterrupted):
    job = uninterrupted
    assert job.status.state == "succeeded", job.log
    evaluation = json.loads(job.result("evaluation.json"))
    assert evaluation["tuned"]["loss"] < 0.5 * evaluation["base"]["loss"]
    assert "its base in 8bit, fast engine" in job.log
    assert RunSpec.model_validate(yaml.safe_load(job.result("config.yaml"))).train.quantization == "8bit"
    checks = json.loads(job.result("checks.json"))
    assert (checks["finite"], checks["changes_logits"], checks["loads_again"]) == (True, True, True)


def test_a_run_that_was_killed_and_resumed_is_the_uninterrupted_one_bit_by_bit(submitted, uninterrupted, wait_until):
    job = submitted(train=TRAIN, validate=True, more=MORE)
    process = job.start()
    wait_until(lambda: (newest := job.job.newest_checkpoint()) and newest.step >= 20, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)
    assert job.run() == 0, job.log
    assert job.status.resumed_from.step >= 20
    assert job.losses() == uninterrupted.losses()
    name = "final_model/adapter_model.safetensors"
    assert job.result(name) == uninterrupted.result(name)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft asks transformers by an old name
def test_what_it_leaves_tunes_the_whole_base_as_well(uninterrupted, bases):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, base = uninterrupted.folder / "attempts" / "1" / "results" / "final_model", bases / "luthier--tiny" / "1"
    tokens = AutoTokenizer.from_pretrained(folder)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
    chat = [{"role": "user", "content": "My card was charged twice"}, {"role": "assistant", "content": "billing"}]
    ids = torch.tensor([tokens.apply_chat_template(chat, return_dict=False)])

    def loss() -> float:
        with torch.no_grad():
            return float(model(ids, labels=ids).loss)

    tuned = loss()
    with model.disable_adapter():
        assert tuned < 0.7 * loss()


def test_4_bits_without_a_gpu_end_with_a_word_that_names_8(submitted):
    job = submitted(train=TRAIN | {"quantization": "4bit"})
    assert job.run() == 0
    assert (job.status.state, job.status.failure.code) == ("failed", "device")
    assert "8bit" in job.status.failure.hint
