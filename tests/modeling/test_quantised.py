"""A base in fewer bits: what is learned on it is what autograd learns on the numbers that it stands for."""

import sys
from importlib.util import find_spec

import pytest
import torch
from peft import PeftModel
from torch import nn

from luthier.errors import BaseUnavailable
from luthier.modeling import products
from luthier.modeling.engines import open_engine, why_not_fast
from luthier.modeling.fast import FastEngine
from luthier.modeling.int8 import in_8_bits
from luthier.modeling.load import frozen, load_base
from luthier.modeling.plain import PlainEngine
from luthier.modeling.quantised import Int8Linear, four_bits, put_into_8_bits
from luthier.modeling.types import LoraShape, Packed

# PEFT asks transformers for a name that is on its way out; that is between the two.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

CPU = torch.device("cpu")
SHAPE = LoraShape(rank=4, alpha=8)
IDS = [7, 3, 50, 12, 9, 9, 31, 2, 44, 5]
PACK = Packed(IDS, [6, 4], [0, 2, 3, 6, 7, 8])
FAST = ["llama", "qwen2", "qwen3", "gemma", "phi3"]
HAS_BITSANDBYTES = find_spec("bitsandbytes") is not None and find_spec("accelerate") is not None


def in_8_bits_base(model):
    put_into_8_bits(model)
    return frozen(model, CPU, "8bit")


def rounded_base(model):
    """The same numbers as `in_8_bits_base`, each weight written out."""
    head = model.get_output_embeddings()
    for layer in model.modules():
        if type(layer) is nn.Linear and layer is not head:
            layer.weight.data = in_8_bits(layer.weight.data).whole().to(layer.weight.dtype)
    return frozen(model, CPU)


def stirred(engine):
    """The engine with an adapter that changes something."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in engine.parameters.items():
            if "lora_B" in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    return engine


def learned(engine):
    """Log-probabilities of a pack, and the gradients that it leaves."""
    stirred(engine)
    logp_N = engine.logprobs(PACK, training=True)
    engine.backward(torch.linspace(-1, 1, len(logp_N)))
    return logp_N, {name: weight.grad for name, weight in engine.parameters.items()}


def same(one, other, rtol=1e-4):
    torch.testing.assert_close(one[0], other[0], rtol=rtol, atol=rtol)
    assert one[1].keys() == other[1].keys()
    for name, grad in one[1].items():
        assert (grad - other[1][name]).norm() <= rtol * other[1][name].norm() + 1e-7, name


def test_a_row_in_8_bits_is_off_by_half_a_step_at_most():
    weight_OI = torch.randn(16, 40, generator=torch.Generator().manual_seed(0))
    held = in_8_bits(weight_OI)
    step_O1 = weight_OI.abs().amax(dim=1, keepdim=True) / 127
    assert held.q_OI.dtype == torch.int8
    assert bool(((held.whole() - weight_OI).abs() <= 0.501 * step_O1).all())


def test_a_row_of_zeros_stays_zero():
    assert bool((in_8_bits(torch.zeros(2, 5)).whole() == 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_those_of_the_whole_matrix(dtype):
    generator = torch.Generator().manual_seed(0)
    x_TI, dy_TO, weight_OI, bias_O = (torch.randn(*s, generator=generator) for s in ((6, 40), (6, 16), (16, 40), (16,)))
    held = in_8_bits(weight_OI.to(dtype))
    near = {"rtol": 1e-5, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 0.2}
    there = products.linear(x_TI.to(dtype), held, bias_O.to(dtype)).float()
    torch.testing.assert_close(there, x_TI @ held.whole().t() + bias_O, **near)
    torch.testing.assert_close(products.back(dy_TO.to(dtype), held).float(), dy_TO @ held.whole(), **near)


@pytest.mark.parametrize("engine", ["plain", "fast"])
@pytest.mark.parametrize("kind", FAST)
def test_8_bits_learn_what_autograd_learns_on_the_same_numbers(random_model, kind, engine):
    held, whole = in_8_bits_base(random_model(kind)), rounded_base(random_model(kind))
    same(learned(open_engine(held, SHAPE, 0, engine)), learned(PlainEngine(whole, SHAPE, 0)))


@pytest.mark.parametrize("kind", ["gpt_neox", "gemma2"])
def test_so_do_architectures_of_the_plain_engine_alone(random_model, kind):
    held, whole = in_8_bits_base(random_model(kind)), rounded_base(random_model(kind))
    assert why_not_fast(held) is not None
    same(learned(open_engine(held, SHAPE, 0)), learned(PlainEngine(whole, SHAPE, 0)))


def test_8_bits_take_the_fast_engine_and_blocks_computed_twice_learn_the_same(random_model):
    engines = [open_engine(in_8_bits_base(random_model()), SHAPE, 0) for _ in range(2)]
    assert all(isinstance(engine, FastEngine) for engine in engines)
    engines[1].recompute = True
    same(learned(engines[0]), learned(engines[1]), rtol=1e-6)


def test_8_bits_answer_nearly_as_the_whole_base(random_model):
    whole, held = frozen(random_model(), CPU), in_8_bits_base(random_model())
    near = PlainEngine(held, SHAPE, 0).logits(IDS) - PlainEngine(whole, SHAPE, 0).logits(IDS)
    assert 0 < near.abs().mean() < 0.05 * PlainEngine(whole, SHAPE, 0).logits(IDS).abs().mean()


def test_a_base_in_8_bits_says_how_large_it_is_and_keeps_its_head(random_model):
    whole, held = frozen(random_model("qwen2"), CPU), in_8_bits_base(random_model("qwen2"))
    linear = sum(layer.in_features * layer.out_features for layer in held.linears.by_path.values())
    outputs = sum(layer.out_features for layer in held.linears.by_path.values())
    assert (held.n_params, held.quantization) == (whole.n_params, "8bit")
    assert whole.n_bytes - held.n_bytes == 3 * linear - 4 * outputs
    assert type(held.model.get_output_embeddings()) is nn.Linear


def test_joined_layers_in_8_bits_are_held_once(random_model):
    base = in_8_bits_base(random_model())
    engine = open_engine(base, SHAPE, 0, "fast")
    layer = base.linears.by_path["model.layers.0.self_attn.k_proj"]
    assert isinstance(layer, Int8Linear)
    assert layer.q_OI.untyped_storage().data_ptr() == engine.weights.blocks[0].qkv.weight_OI.q_OI.untyped_storage().data_ptr()


def test_an_adapter_learned_on_8_bits_is_one_for_the_whole_base(base_folder, random_model, tmp_path):
    engine = stirred(open_engine(load_base(base_folder, "cpu", "fp32", "8bit"), SHAPE, 0))
    engine.save_adapter(tmp_path / "adapter", base_model="a/b", revision="1")
    model = PeftModel.from_pretrained(random_model(), tmp_path / "adapter")
    with torch.no_grad():
        tuned_TV, base_TV = model(torch.tensor([IDS])).logits[0], random_model()(torch.tensor([IDS])).logits[0]
    gap = (tuned_TV - engine.logits(IDS)).abs().mean()
    assert gap < 0.1 * (tuned_TV - base_TV).abs().mean()
    whole = PlainEngine(load_base(base_folder, "cpu", "fp32"), SHAPE, 0)
    whole.load_adapter(tmp_path / "adapter")
    torch.testing.assert_close(whole.logits(IDS), tuned_TV, rtol=1e-4, atol=1e-4)


def test_4_bits_are_nf4_with_quantised_constants_and_products_in_bf16():
    pytest.importorskip("bitsandbytes")
    config = four_bits(torch.bfloat16)
    assert (config.load_in_4bit, config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == (True, "nf4", True)
    assert config.bnb_4bit_compute_dtype == torch.bfloat16


def test_4_bits_without_bitsandbytes_name_what_to_install(base_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(BaseUnavailable, match="bitsandbytes") as refused:
        load_base(base_folder, "cpu", "bf16", "4bit")
    assert "8bit" in str(refused.value.hint)


@pytest.mark.skipif(not HAS_BITSANDBYTES, reason="bitsandbytes is not installed")
@pytest.mark.filterwarnings("ignore")  # of what bitsandbytes misses on a machine without a GPU
def test_4_bits_learn_what_autograd_learns_on_the_same_numbers(wide_folder):
    import bitsandbytes.functional as quantised

    held, whole = load_base(wide_folder, "cpu", "fp32", "4bit"), load_base(wide_folder, "cpu", "fp32")
    held.model.train()  # in eval mode bitsandbytes has bf16 products of its own on a CPU
    assert held.n_params == whole.n_params
    assert held.n_bytes < 0.4 * whole.n_bytes
    for path, layer in held.linears.by_path.items():
        packed = layer.get_parameter("weight")
        whole.linears.by_path[path].get_parameter("weight").data = quantised.dequantize_4bit(packed.data, packed.quant_state)
    engines = [open_engine(base, SHAPE, 0) for base in (held, whole)]
    assert [type(engine) for engine in engines] == [PlainEngine, FastEngine]
    same(learned(engines[0]), learned(PlainEngine(whole, SHAPE, 0)))


@pytest.fixture
def wide_folder(tmp_path):
    """A random llama wide enough for blocks of 64 weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(vocab_size=61, max_position_embeddings=96, **sizes)).save_pretrained(tmp_path / "wide")
    return tmp_path / "wide"
