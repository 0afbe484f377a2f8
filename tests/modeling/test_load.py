"""A base is a folder of data: nothing in it becomes code."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from luthier.errors import BaseUnavailable, ModelNotAllowed
from luthier.modeling.load import load_base, pick_device, pick_dtype


def change_config(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def test_a_loaded_base_is_frozen_and_says_what_it_is(base_folder):
    base = load_base(base_folder, device="cpu")
    assert (base.vocab, base.context, base.dtype, base.device.type) == (61, 96, torch.float32, "cpu")
    assert base.n_params == sum(weight.numel() for weight in base.model.parameters())
    assert not base.model.training
    assert not any(weight.requires_grad for weight in base.model.parameters())


def test_precision_can_be_chosen(base_folder):
    assert load_base(base_folder, "cpu", "bf16").dtype == torch.bfloat16


@pytest.mark.parametrize(
    "extra",
    [
        {"auto_map": {"AutoModelForCausalLM": "evil.Model"}},
        {"trust_remote_code": True},
        {"custom_pipelines": {}},
        {"_attn_implementation_internal": "x"},
        {"attn_implementation": "somebody/kernel"},
        {"text_config": {"auto_map": {}}},
        {"parts": [{"deep": {"auto_map": {}}}]},
    ],
    ids=str,
)
def test_a_config_that_asks_to_run_code_is_refused(base_folder, extra):
    change_config(base_folder, lambda config: config.update(extra))
    with pytest.raises(ModelNotAllowed, match="run code"):
        load_base(base_folder)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_a_config_that_cannot_be_read_is_told(base_folder, text):
    (base_folder / "config.json").write_text(text)
    with pytest.raises(BaseUnavailable):
        load_base(base_folder)


def test_an_unknown_architecture_and_broken_weights_are_told_without_a_path(base_folder):
    (base_folder / "model.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00broken")
    with pytest.raises(BaseUnavailable) as broken:
        load_base(base_folder)
    change_config(base_folder, lambda config: config.update(model_type="never_heard_of"))
    with pytest.raises(BaseUnavailable) as unknown:
        load_base(base_folder)
    assert str(base_folder) not in str(broken.value) + str(unknown.value)


def test_missing_weights_are_not_made_up(base_folder):
    weights = load_file(base_folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, base_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BaseUnavailable, match="incomplete"):
        load_base(base_folder)


def test_pickled_weights_are_no_weights(base_folder):
    (base_folder / "model.safetensors").rename(base_folder / "pytorch_model.bin")
    with pytest.raises(BaseUnavailable, match="not on this machine"):
        load_base(base_folder)


def test_a_device_that_is_not_there_is_told():
    if not torch.cuda.is_available():
        with pytest.raises(BaseUnavailable, match="no usable cuda"):
            pick_device("cuda")
    assert pick_device("cpu").type == "cpu"


def test_small_models_on_a_cpu_stay_fp32():
    assert pick_dtype("auto", torch.device("cpu"), 2_600_000) == torch.float32
    assert pick_dtype("bf16", torch.device("cpu"), 1) == torch.bfloat16
    assert pick_dtype("fp32", torch.device("cpu"), 10**9) == torch.float32
