"""Adapters on disk: the same for us and for PEFT, and what does not fit is refused."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from luthier.modeling import adapter_files
from luthier.modeling.plain import PlainEngine
from luthier.modeling.types import LoraShape

# PEFT asks transformers for a name that is on its way out; that is between the two.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

IDS = [3, 9, 27, 20, 60, 5, 15, 45, 13, 39]
SHAPES = {
    "all linear layers": LoraShape(4, 8),
    "some of them": LoraShape(4, 8, targets=("q_proj", "v_proj")),
    "rank-stabilised": LoraShape(8, 16, rslora=True),
}


def an_engine(base, shape=SHAPES["all linear layers"], scale=0.1) -> PlainEngine:
    engine = PlainEngine(base, shape, seed=0)
    with torch.no_grad():
        for weight in engine.parameters.values():
            weight.add_(scale * torch.arange(weight.numel()).view(weight.shape).remainder(7).sub(3))
    return engine


def rewrite_config(folder, **changes):
    path = folder / adapter_files.CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("kind", ["llama", "gpt_neox"])
@pytest.mark.parametrize("name", SHAPES)
def test_peft_answers_as_we_do_with_what_we_saved(random_base, random_model, tmp_path, kind, name):
    shape = SHAPES[name]
    if kind == "gpt_neox" and shape.targets:
        shape = LoraShape(4, 8, targets=("query_key_value",))
    engine = an_engine(random_base(kind), shape)
    engine.save_adapter(tmp_path, base_model="random", revision="1")
    peft = PeftModel.from_pretrained(random_model(kind), tmp_path)
    with torch.no_grad():
        theirs = peft(input_ids=torch.tensor([IDS])).logits[0]
    assert torch.allclose(engine.logits(IDS), theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rslora", [False, True])
def test_we_answer_as_peft_does_with_what_it_saved(random_base, random_model, tmp_path, rslora):
    config = LoraConfig(
        r=4, lora_alpha=12, use_rslora=rslora, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        peft = get_peft_model(random_model("llama"), config)
    peft.save_pretrained(tmp_path)
    with torch.no_grad():
        theirs = peft.eval()(input_ids=torch.tensor([IDS])).logits[0]
    engine = PlainEngine(random_base(), LoraShape(4, 12, rslora=rslora), seed=1)
    engine.load_adapter(tmp_path)
    assert (engine.logits(IDS) - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_what_is_loaded_is_what_was_saved_bit_by_bit_and_in_place(random_base, tmp_path):
    saved = an_engine(random_base())
    saved.save_adapter(tmp_path / "one", base_model="random", revision="1")
    loaded = PlainEngine(random_base(), LoraShape(4, 8), seed=9)
    held = dict(loaded.parameters)
    loaded.load_adapter(tmp_path / "one")
    assert all(held[name] is weight and torch.equal(weight, saved.parameters[name]) for name, weight in loaded.parameters.items())
    loaded.save_adapter(tmp_path / "two", base_model="random", revision="1")
    for name in (adapter_files.WEIGHTS, adapter_files.CONFIG):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_an_adapter_knows_whether_it_is_finite(random_base, tmp_path):
    engine = an_engine(random_base())
    assert engine._adapter.is_finite
    with torch.no_grad():
        next(iter(engine.parameters.values()))[0, 0] = float("nan")
    assert not engine._adapter.is_finite


@pytest.mark.parametrize("other", [LoraShape(8, 16), LoraShape(4, 8, targets=("q_proj",)), LoraShape(4, 16)])
def test_an_adapter_of_another_form_is_refused(random_base, tmp_path, other):
    an_engine(random_base()).save_adapter(tmp_path, base_model="random", revision="1")
    with pytest.raises(ValueError, match=r"other layers|rank|scaled"):
        PlainEngine(random_base(), other, seed=0).load_adapter(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"peft_type": "IA3"},
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"q_proj": 8}},
        {"bias": "all"},
        {"r": 10**9},
        {"r": "4"},
        {"r": True},
        {"lora_alpha": None},
        {"lora_alpha": float("inf")},
        {"lora_dropout": -1},
    ],
    ids=str,
)
def test_a_config_that_is_no_plain_lora_is_refused(random_base, tmp_path, changes):
    base = random_base()
    an_engine(base).save_adapter(tmp_path, base_model="random", revision="1")
    rewrite_config(tmp_path, **changes)
    with pytest.raises(ValueError, match="adapter"):
        adapter_files.load(base.linears, tmp_path, base.device)


def _wrong_shape(tensors):
    name = next(iter(tensors))
    return {**tensors, name: torch.zeros(3, 3)}


def _extra_layer(tensors):
    return {**tensors, "base_model.model.lm_head.lora_A.weight": torch.zeros(4, 32)}


def _half_a_pair(tensors):
    return dict(list(tensors.items())[1:])


def _whole_numbers(tensors):
    return {name: weight.to(torch.int32) for name, weight in tensors.items()}


@pytest.mark.parametrize("spoil", [_wrong_shape, _extra_layer, _half_a_pair, _whole_numbers, lambda tensors: {}])
def test_weights_that_do_not_fit_are_refused(random_base, tmp_path, spoil):
    base = random_base()
    an_engine(base).save_adapter(tmp_path, base_model="random", revision="1")
    path = tmp_path / adapter_files.WEIGHTS
    save_file(spoil(load_file(path)), path)
    with pytest.raises(ValueError, match="adapter"):
        adapter_files.load(base.linears, tmp_path, base.device)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 100, (2**60).to_bytes(8, "little") + b"{}"])
def test_a_file_that_is_no_safetensors_is_refused(random_base, tmp_path, content):
    base = random_base()
    an_engine(base).save_adapter(tmp_path, base_model="random", revision="1")
    (tmp_path / adapter_files.WEIGHTS).write_bytes(content)
    with pytest.raises(ValueError, match="safetensors"):
        adapter_files.load(base.linears, tmp_path, base.device)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
def test_a_config_that_is_no_object_is_refused(random_base, tmp_path, text):
    base = random_base()
    an_engine(base).save_adapter(tmp_path, base_model="random", revision="1")
    (tmp_path / adapter_files.CONFIG).write_text(text)
    with pytest.raises(ValueError, match="config"):
        adapter_files.load(base.linears, tmp_path, base.device)
