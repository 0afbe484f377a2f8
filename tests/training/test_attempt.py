"""Attempts from the first word to the last, in this process."""

import json
import os
import signal

import pytest
import torch

from luthier.backends.storage.local import LocalStorage
from luthier.jobs.directory import JobDirectory
from luthier.training.__main__ import main
from luthier.training.journal import Journal


@pytest.fixture(autouse=True)
def this_process_as_it_was():
    """A trainer owns its process: it takes signals, chooses threads and kernels."""
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=False)
    for number, handler in signals.items():
        signal.signal(number, handler)


SHORT = {"epochs": 4, "learning_rate": 0.01, "batch_size": 4}


def run(job) -> str:
    job.claim()
    assert main([job.job.url, "--bases", str(job.bases), "--poll-s", "60"]) == 0
    return job.status.state


def failure(job):
    assert run(job) == "failed"
    return job.status.failure


def adapter(job) -> bytes:
    return job.result("final_model/adapter_model.safetensors")


def test_a_model_learns_a_handful_of_rows_by_heart_and_answers_them(submitted):
    job = submitted(train={"epochs": 200, "learning_rate": 0.005, "batch_size": 8, "eval_steps": 100}, validate=True)
    assert run(job) == "succeeded"
    evaluation = json.loads(job.result("evaluation.json"))
    assert evaluation["tuned"]["loss"] < 0.05
    assert evaluation["tuned"]["exact_match"] == 1.0
    assert evaluation["base"]["exact_match"] == 0.0
    checks = json.loads(job.result("checks.json"))
    assert [checks[name] for name in ("finite", "changes_logits", "loads_again", "same_after_reload")] == [True] * 4


def test_the_same_seed_twice_is_the_same_adapter_bit_by_bit(submitted):
    more = {"lora": {"dropout": 0.2}}
    first, second = submitted(train=SHORT, more=more), submitted(train=SHORT, more=more)
    third = submitted(train=SHORT, more={**more, "seed": 7})
    assert [run(job) for job in (first, second, third)] == ["succeeded"] * 3
    assert adapter(first) == adapter(second)
    assert adapter(first) != adapter(third)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_accumulating_eight_passes_is_one_pass_of_eight(submitted, dropout):
    more = {"lora": {"dropout": dropout}}
    whole = submitted(train={**SHORT, "batch_size": 8}, more=more)
    parts = submitted(train={**SHORT, "batch_size": 1, "gradient_accumulation": 8}, more=more)
    assert [run(job) for job in (whole, parts)] == ["succeeded"] * 2
    assert [loss for _, loss in parts.losses()] == pytest.approx([loss for _, loss in whole.losses()], abs=2e-5)


@pytest.fixture(scope="module")
def straight(submitted):
    """A run that nobody disturbed."""
    job = submitted(train=SHORT, validate=True)
    assert run(job) == "succeeded"
    return job


PHASES = ["fetching base", "reading data", "loading base", "training", "checking", "evaluating"]


@pytest.mark.parametrize("phase", PHASES)
def test_f22_sigterm_in_any_phase_ends_in_order_and_the_next_attempt_ends_the_same(submitted, straight, monkeypatch, phase):
    job = submitted(train=SHORT, validate=True)
    begin = Journal.phase

    def interrupted(self, name, message=""):
        begin(self, name, message)
        if name == phase:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Journal, "phase", interrupted)
    assert run(job) == "preempted"
    monkeypatch.undo()
    assert run(job) == "succeeded"
    assert job.losses() == straight.losses()
    assert adapter(job) == adapter(straight)


def test_a_row_that_cannot_be_used_is_named_by_its_line(submitted):
    job = submitted(train=SHORT)
    data = job.folder.with_name("job.jsonl")
    data.write_text(data.read_text("utf-8") + '{"messages": "none"}\n', "utf-8")
    job = submitted_again(job, data)
    found = failure(job)
    assert found.code == "bad_data"
    assert found.message.startswith("Line 9: ")


def submitted_again(job, data):
    import hashlib

    spec = json.loads(job.job.read_spec())
    spec["sources"]["dataset"]["sha256"] = hashlib.sha256(data.read_bytes()).hexdigest()
    job.sha256 = job.job.write_spec(spec)
    return job


def test_data_that_changed_after_the_submit_is_refused(submitted):
    job = submitted(train=SHORT)
    data = job.folder.with_name("job.jsonl")
    data.write_text(data.read_text("utf-8") + "\n", "utf-8")
    assert failure(job).code == "bad_data"
    assert "sha256" in job.status.failure.message


def test_rows_whose_answers_are_all_cut_off_are_bad_data(submitted):
    long = [("word " * 60, "yes")]
    found = failure(submitted(train={**SHORT, "max_seq_len": 16}, rows=long))
    assert found.code == "bad_data"
    assert "1 were cut at 16 tokens" in found.message


def test_rows_that_are_cut_or_left_out_are_counted(submitted):
    rows = [("Short", "yes"), ("word " * 60, "yes"), ("Say a lot", "much " * 60)]
    job = submitted(train={**SHORT, "max_seq_len": 40}, rows=rows)
    assert run(job) == "succeeded"
    warning = next(event for event in job.job.events() if event.kind == "warning")
    assert (warning.data["rows"], warning.data["truncated"], warning.data["dropped"]) == (2, 2, 1)


def test_a_learning_rate_that_is_far_too_high_ends_as_diverged(submitted):
    train = {"max_steps": 400, "learning_rate": 1.0, "batch_size": 1, "schedule": "constant"}
    # Pairs that contradict each other: whichever was learned last is what the next one is far from.
    pair = {"prompt": "Is it late?", "chosen": "yes", "rejected": "no"}
    lines = [pair, {**pair, "chosen": "no", "rejected": "yes"}]
    job = submitted(train=train, lines=lines, more={"method": "dpo", "dpo": {"beta": 10}})
    found = failure(job)
    assert found.code == "diverged"
    assert job.status.step < 400
    assert "learning_rate" in found.hint


def test_an_adapter_that_learned_nothing_ends_as_no_effect(submitted):
    found = failure(submitted(train={"max_steps": 1, "learning_rate": 1e-12}))
    assert found.code == "no_effect"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has one")
def test_a_device_that_is_not_there_is_named(submitted):
    found = failure(submitted(train={**SHORT, "device": "cuda"}))
    assert found.code == "device"
    assert "cuda" in found.message


def test_a_base_of_another_id_by_hand_is_unavailable(tmp_path):
    (tmp_path / "run.yaml").write_text("base_model: nobody/nothing\ndataset: rows.jsonl\n", "utf-8")
    assert main([str(tmp_path), "--bases", str(tmp_path / "bases")]) == 0
    status = JobDirectory(LocalStorage(tmp_path), "").attempt(1).status()
    assert status.failure.code == "base_unavailable"


def test_early_stopping_keeps_the_best_adapter_and_says_when(submitted):
    train = {"epochs": 200, "learning_rate": 0.02, "batch_size": 4, "eval_steps": 5, "early_stopping_patience": 2}
    job = submitted(train=train, validate=True)
    assert run(job) == "succeeded"
    metrics = json.loads(job.result("metrics.json"))
    assert metrics["steps"] < 400
    assert metrics["best_step"] == metrics["steps"] - 10
    assert any("training ends early" in event.message for event in job.job.events())


def test_a_bug_is_told_by_its_type_and_the_log_says_where(submitted, monkeypatch, capfd):
    def broken(*arguments, **named):
        raise ZeroDivisionError("division by zero in /srv/secret/place")

    monkeypatch.setattr("luthier.training.tuning.plan_of", broken)
    found = failure(submitted(train=SHORT))
    assert (found.code, found.message) == ("crashed", "The trainer ended with ZeroDivisionError.")
    assert "attempt.py:" in capfd.readouterr().err


def test_a_stop_after_the_last_step_keeps_the_training_and_the_next_attempt_only_evaluates(submitted, monkeypatch):
    job = submitted(train=SHORT, validate=True)
    begin = Journal.phase

    def interrupted(self, name, message=""):
        begin(self, name, message)
        if name == "evaluating":
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Journal, "phase", interrupted)
    assert run(job) == "preempted"
    monkeypatch.undo()
    assert run(job) == "succeeded"
    assert [event for event in job.job.attempt(2).events() if event.kind == "step"] == []
