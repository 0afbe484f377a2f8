"""Real trainers on a model of the registry: measured on other rows, and made into files that others load."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file

from luthier.jobs.directory import Control
from luthier.modeling import gguf_adapters, llama

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),  # PEFT asks an old name of transformers
]

needs_llama = pytest.mark.skipif(not llama.installed(), reason="llama-cpp-python is not installed")
OTHERS = [("Two charges on my card", "billing"), ("It crashes", "bug"), ("Where are my notes?", "question")]
GREEDY = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}


@pytest.fixture(scope="module")
def trained(submitted) -> SimpleNamespace:
    """An adapter that learned something, and how the registry would pin it."""
    job = submitted(train={"max_steps": 12, "learning_rate": 0.01, "batch_size": 8}, validate=True, more={"lora": {"rank": 4}})
    assert job.run() == 0, job.log
    assert job.status.state == "succeeded", job.status
    folder = job.folder / "attempts/1/results/final_model"
    return SimpleNamespace(folder=folder, bases=job.bases, evaluation=json.loads(job.result("evaluation.json")))


def pin_of(folder: Path, model_id: str = "model_1") -> dict:
    files = [
        {"name": path.name, "bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in sorted(folder.iterdir())
    ]
    base = {"id": "luthier/tiny", "revision": "1", "url": "luthier:tiny"}
    about = {"id": model_id, "name": "intents@1", "job_id": "job_1", "method": "sft", "base": base}
    return {**about, "url": folder.as_uri(), "files": files}


@pytest.fixture
def of_model(submitted, trained) -> Callable:
    """A run about the trained model, as the platform leaves it at submit."""

    def make(
        kind: str, model: Path | None = None, against: Path | None = None, lines: Sequence[dict] = (), held_out=False, **more
    ):
        job = submitted(train={}, rows=OTHERS, lines=lines)
        spec = json.loads(job.job.read_spec()) | {"kind": kind, "model": "model_1"} | more
        spec["sources"]["model"] = pin_of(model or trained.folder)
        if against is not None:
            spec |= {"against": "model_2"}
            spec["sources"]["against"] = pin_of(against, "model_2")
        if kind == "export":
            rows = spec["sources"].pop("dataset")
            del spec["train"], spec["dataset"]
            if held_out:
                spec["sources"]["validation_dataset"] = rows
        job.sha256 = job.job.write_spec(spec)
        return job

    return make


def ended(job) -> str:
    assert job.run() == 0, job.log
    return job.status.state if job.status.failure is None else job.status.failure.code


def test_a_model_is_measured_on_other_rows_beside_its_base(of_model, trained):
    job = of_model("evaluate", evaluate={"samples": 2, "max_new_tokens": 6})
    assert ended(job) == "succeeded", job.log
    found = json.loads(job.result("evaluation.json"))
    assert (found["rows"], found["answered"], len(found["samples"])) == (3, 3, 2)
    assert found["tuned"]["loss"] < found["base"]["loss"]
    assert found["samples"][0]["prompt"] == "Two charges on my card"
    assert "against" not in found
    assert list(job.job.storage.names("attempts/1/results")) == ["attempts/1/results/evaluation.json"]


def test_the_same_rows_give_what_training_measured(of_model, trained, submitted):
    job = of_model("evaluate", train={"device": "cpu"})
    same = submitted(train={})
    spec = json.loads(job.job.read_spec())
    spec["sources"]["dataset"] = json.loads(same.job.read_spec())["sources"]["dataset"]
    job.sha256 = job.job.write_spec(spec)
    assert ended(job) == "succeeded", job.log
    found = json.loads(job.result("evaluation.json"))
    for side in ("base", "tuned"):
        assert found[side]["loss"] == pytest.approx(trained.evaluation[side]["loss"], rel=1e-5)
        assert found[side]["exact_match"] == trained.evaluation[side]["exact_match"]
    assert found["samples"] == trained.evaluation["samples"]


def test_another_model_is_measured_on_the_same_rows(of_model, trained):
    job = of_model("evaluate", against=trained.folder, evaluate={"rows": 2, "max_new_tokens": 4})
    assert ended(job) == "succeeded", job.log
    found = json.loads(job.result("evaluation.json"))
    assert found["against"] == found["tuned"]
    assert found["samples"][0]["against"] == found["samples"][0]["tuned"]


def test_rows_of_another_method_are_measured_as_that_method_does(of_model):
    pairs = [{"prompt": ask, "chosen": right, "rejected": "nothing"} for ask, right in OTHERS]
    job = of_model("evaluate", lines=pairs, method="dpo", evaluate={"rows": 1, "max_new_tokens": 4})
    assert ended(job) == "succeeded", job.log
    found = json.loads(job.result("evaluation.json"))
    assert found["base"]["metrics"]["margin"] == pytest.approx(0, abs=1e-6)
    assert abs(found["tuned"]["metrics"]["margin"]) > 0.01
    assert (found["tuned"]["exact_match"], found["tuned"]["perplexity"]) == (None, None)


def test_rows_that_do_not_fit_the_method_are_bad_data(of_model):
    assert ended(of_model("evaluate", method="dpo")) == "bad_data"


def test_an_evaluation_that_is_stopped_ends_at_once_and_leaves_no_numbers(of_model, wait_until):
    asked = [{"prompt": f"{ask} {number}", "completion": right} for number in range(100) for ask, right in OTHERS]
    job = of_model("evaluate", lines=asked, evaluate={"rows": 300})
    process = job.start()
    wait_until(lambda: job.status is not None and job.status.phase == "evaluating", process)
    job.job.write_control(Control(attempt=1, want="stop", spec_sha256=job.sha256))
    assert process.wait(60) == 0
    assert job.status.state == "stopped"
    assert not list(job.job.storage.names("attempts/1/results"))
    assert ended(job) == "succeeded", job.log


def test_a_killed_evaluation_is_begun_again(of_model, wait_until):
    job = of_model("evaluate")
    process = job.start()
    wait_until(lambda: job.status is not None and job.status.state == "running", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert ended(job) == "succeeded", job.log
    assert json.loads(job.result("evaluation.json"))["rows"] == 3


@pytest.mark.parametrize("precision", ["base", "bf16"])
def test_a_merged_export_is_a_model_that_plain_transformers_answers_with(of_model, trained, precision):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    job = of_model("export", export={"format": "merged", "precision": precision})
    assert ended(job) == "succeeded", job.log
    manifest = json.loads(job.result("export.json"))
    folder = job.folder / "attempts/1/results/export"
    assert {file["name"]: file["sha256"] for file in manifest["files"]} == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()
    }
    assert manifest["checks"]["precision"] == ("float32" if precision == "base" else "bfloat16")
    assert manifest["checks"]["tokens_compared"] > 0
    merged = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert str(merged.dtype) == f"torch.{manifest['checks']['precision']}"
    if precision == "base":
        base = AutoModelForCausalLM.from_pretrained(trained.bases / "luthier--tiny/1")
        bare = {name: weight.clone() for name, weight in base.state_dict().items()}
        assert any(not torch.equal(bare[name], weight) for name, weight in merged.state_dict().items())
        tuned = PeftModel.from_pretrained(base, trained.folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": "It crashes"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        assert torch.equal(merged.generate(**asked, **GREEDY), tuned.generate(**asked, **GREEDY))


@pytest.mark.parametrize("precision", ["f32", "base", "q8_0"])
def test_a_gguf_export_is_one_file_that_others_load(of_model, precision):
    from transformers import AutoModelForCausalLM

    job = of_model("export", export={"format": "gguf", "precision": precision}, held_out=precision == "base")
    assert ended(job) == "succeeded", job.log
    checks = json.loads(job.result("export.json"))["checks"]
    folder = job.folder / "attempts/1/results/export"
    assert sorted(path.name for path in folder.iterdir()) == ["Modelfile", "model.gguf"]
    assert checks["precision"] == ("f16" if precision == "base" else precision)
    assert checks["same_answers"]
    assert (checks["template"], checks["stop_agreement"]) == (True, 1.0)
    assert (checks["prompts"], checks["held_out_prompts"]) == ((7, 3) if precision == "base" else (4, 0))
    # Barely trained, it has many tokens that are nearly as likely as another one: rounding to 8 bits turns some of them.
    assert checks["agreement_but_ties"] == 1.0
    assert checks["token_agreement"] > (0.5 if precision == "q8_0" else 0.95)
    assert 0 <= checks["mean_logprob_gap"] <= checks["max_logprob_gap"] < 0.5
    reader = gguf.GGUFReader(folder / "model.gguf")
    kinds = {tensor.tensor_type.name for tensor in reader.tensors if len(tensor.shape) == 2}
    assert kinds == {"F16" if precision == "base" else precision.upper()}
    assert "<|im_end|>" in (folder / "Modelfile").read_text()
    assert reader.get_field("tokenizer.chat_template") is not None
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file="model.gguf")
    assert loaded.config.model_type == "llama"


@needs_llama
@pytest.mark.parametrize("precision", ["q6_k", "q5_k_m", "q4_k_m"])
def test_a_k_quant_answers_as_the_model_within_what_it_may_lose(of_model, precision):
    job = of_model("export", export={"format": "gguf", "precision": precision}, held_out=True)
    assert ended(job) == "succeeded", job.log
    checks = json.loads(job.result("export.json"))["checks"]
    assert checks["loaded_by"].startswith("llama.cpp")
    assert checks["precision"] == precision
    assert checks["tolerance"]["agreement"] <= checks["agreement_but_ties"] <= 1


@pytest.mark.skipif(llama.installed(), reason="llama.cpp is here")
def test_a_k_quant_without_llama_cpp_says_what_to_install(of_model):
    job = of_model("export", export={"format": "gguf", "precision": "q4_k_m"})
    assert ended(job) == "bad_data"
    assert "luthier[llama]" in job.status.failure.hint


@pytest.mark.parametrize("precision", ["base", "f16"])
def test_an_adapter_alone_becomes_a_gguf_beside_its_base(of_model, trained, precision):
    job = of_model("export", export={"format": "gguf-adapter", "precision": precision})
    assert ended(job) == "succeeded", job.log
    checks = json.loads(job.result("export.json"))["checks"]
    folder = job.folder / "attempts/1/results/export"
    assert checks["loaded_by"].startswith("llama.cpp" if llama.installed() else "gguf ")
    assert checks["precision"] == ("f32" if precision == "base" else "f16")
    matrices, scale = gguf_adapters.read(folder / gguf_adapters.FILE, trained.bases / "luthier--tiny/1")
    learned = load_file(trained.folder / "adapter_model.safetensors")
    config = json.loads((trained.folder / "adapter_config.json").read_text())
    assert scale == config["lora_alpha"] / config["r"]
    assert {f"base_model.model.{name}" for name in matrices} == set(learned)
    for name, matrix in matrices.items():
        assert torch.allclose(torch.from_numpy(matrix), learned[f"base_model.model.{name}"], rtol=1e-3, atol=1e-5)


def test_an_exported_adapter_is_the_trained_one(of_model, trained):
    job = of_model("export", export={"format": "adapter"})
    assert ended(job) == "succeeded", job.log
    manifest = json.loads(job.result("export.json"))
    assert manifest["checks"]["loaded_by"].startswith("peft ")
    assert [file["sha256"] for file in manifest["files"]] == [file["sha256"] for file in pin_of(trained.folder)["files"]]


def test_a_killed_export_is_begun_again(of_model, wait_until):
    job = of_model("export", export={"format": "merged"})
    process = job.start()
    wait_until(lambda: job.status is not None and job.status.state == "running", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert job.job.storage.size("attempts/1/results/export.json") is None
    assert ended(job) == "succeeded", job.log


@pytest.mark.parametrize("kind", ["evaluate", "export"])
def test_a_model_that_was_tampered_with_is_refused(of_model, trained, tmp_path, kind):
    copy = tmp_path / "copy"
    shutil.copytree(trained.folder, copy)
    job = of_model(kind, copy, **({"export": {"format": "merged"}} if kind == "export" else {}))
    with (copy / "adapter_model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    assert ended(job) == "artifact_corrupt"
    assert "sha256" in job.status.failure.message


def test_a_file_that_is_gone_and_an_adapter_of_another_base_have_the_same_code(of_model, trained, tmp_path):
    job = of_model("export", export={"format": "adapter"})
    spec = json.loads(job.job.read_spec())
    spec["sources"]["model"]["url"] = (tmp_path / "nowhere").as_uri()
    job.sha256 = job.job.write_spec(spec)
    assert ended(job) == "artifact_corrupt"
    other = tmp_path / "other"
    shutil.copytree(trained.folder, other)
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps(config | {"r": 8}))
    job = of_model("evaluate", other)
    assert ended(job) == "artifact_corrupt"
    assert "shape" in job.status.failure.message


def test_an_adapter_that_is_not_finite_is_neither_measured_nor_exported(of_model, trained, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(trained.folder, broken)
    weights = load_file(broken / "adapter_model.safetensors")
    save_file({name: weight * float("nan") for name, weight in weights.items()}, broken / "adapter_model.safetensors")
    job = of_model("export", broken, export={"format": "adapter"})
    assert ended(job) == "artifact_corrupt"
    assert "not finite" in job.status.failure.message
    assert not list(job.job.storage.names("attempts/1/results"))
