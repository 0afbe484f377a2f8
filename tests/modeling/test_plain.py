"""The plain engine computes what transformers, PEFT and autograd compute."""

import random
from functools import partial

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from luthier.modeling.head import token_logprobs
from luthier.modeling.load import frozen
from luthier.modeling.lora import merge
from luthier.modeling.plain import PlainEngine
from luthier.modeling.types import LoraShape, Packed

# PEFT asks transformers for a name that is on its way out; that is between the two.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

ARCHITECTURES = ["llama", "qwen2", "gpt_neox", "mistral", "gemma2"]
SHAPE = LoraShape(rank=4, alpha=8)
LENGTHS = (9, 2, 17, 5, 1, 30)


def a_pack(lengths=LENGTHS, seed=0) -> Packed:
    draw = random.Random(seed)
    ids = [draw.randrange(61) for _ in range(sum(lengths))]
    at, start = [], 0
    for length in lengths:
        at += [t for t in range(start, start + length - 1) if draw.random() < 0.7]
        start += length
    return Packed(ids, lengths, at)


def rows_of(packed):
    start = 0
    for length in packed.lengths:
        yield packed.ids_T[start : start + length], [t - start for t in packed.loss_at_N if start <= t < start + length]
        start += length


def trained(engine: PlainEngine, seed=1) -> PlainEngine:
    """The engine with an adapter that changes something: B is no longer zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in engine.parameters.items():
            if "lora_B" in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    return engine


def reference_logprobs(model, packed) -> torch.Tensor:
    """Row by row, by the model's own forward."""
    parts = []
    for ids, at in rows_of(packed):
        if at:
            logprob_TV = model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
            parts.append(logprob_TV[at, [ids[t + 1] for t in at]])
    return torch.cat(parts)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_packed_rows_have_the_logprobs_of_each_row_alone(random_base, kind):
    engine = trained(PlainEngine(random_base(kind), SHAPE, seed=0))
    packed = a_pack()
    together_N = engine.logprobs(packed, training=False)
    alone_N = torch.cat([engine.logprobs(Packed(ids, (len(ids),), at), training=False) for ids, at in rows_of(packed)])
    assert together_N.shape == (len(packed.loss_at_N),)
    assert torch.allclose(together_N, alone_N, atol=1e-5, rtol=0)
    with torch.no_grad():
        assert torch.allclose(together_N, reference_logprobs(engine.base.model, packed), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ragged_packs_meet_few_sizes_on_a_cpu_and_keep_their_numbers(random_model, dtype):
    """A library that compiles code for each shape would compile in every step."""
    base = frozen(random_model("llama").to(dtype), torch.device("cpu"))
    engine = trained(PlainEngine(base, SHAPE, seed=0))
    packs = [a_pack((7,) * 72 + (tokens,), seed=tokens) for tokens in range(1, 40)]  # 505 to 543 tokens: 512, 576
    sizes = set[int]()
    watching = base.model.get_input_embeddings().register_forward_hook(lambda _, given, __: sizes.add(given[0].shape[1]))
    found = [engine.logprobs(packed, training=False) for packed in packs]
    watching.remove()
    assert sizes == {512, 576}
    assert [len(logp_N) for logp_N in found] == [len(packed.loss_at_N) for packed in packs]
    with torch.no_grad():
        for packed, logp_N in list(zip(packs, found, strict=True))[::13]:
            expected_N = reference_logprobs(base.model, packed)
            assert torch.allclose(logp_N, expected_N, atol=1e-5 if dtype == torch.float32 else 0.1, rtol=0)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_only_attention_that_we_do_not_compute_goes_row_by_row(random_base, kind):
    assert PlainEngine(random_base(kind), SHAPE, seed=0)._packs == (kind != "gemma2")


def test_a_token_changes_nothing_in_other_rows(random_base):
    engine = PlainEngine(random_base(), SHAPE, seed=0)
    packed = a_pack((8, 8, 8))
    other = Packed([*packed.ids_T[:8], *[60] * 8, *packed.ids_T[16:]], packed.lengths, packed.loss_at_N)
    before_N, after_N = (engine.logprobs(pack, training=False) for pack in (packed, other))
    same = [index for index, t in enumerate(packed.loss_at_N) if not 8 <= t < 16]
    assert torch.equal(before_N[same], after_N[same])


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_fresh_adapter_equals_the_base_bit_by_bit(random_base, kind):
    engine = PlainEngine(random_base(kind), SHAPE, seed=0)
    packed = a_pack()
    fresh = engine.logits(packed.ids_T[:20]), engine.logprobs(packed, training=False)
    with engine.adapter_off():
        bare = engine.logits(packed.ids_T[:20]), engine.logprobs(packed, training=False)
    assert torch.equal(fresh[0], bare[0])
    assert torch.equal(fresh[1], bare[1])


def test_the_adapter_comes_back_after_adapter_off_even_when_nested(random_base):
    engine = trained(PlainEngine(random_base(), SHAPE, seed=0))
    tuned = engine.logits([3, 4, 5])
    with engine.adapter_off():
        with engine.adapter_off():
            pass
        assert not torch.allclose(engine.logits([3, 4, 5]), tuned)
    assert torch.equal(engine.logits([3, 4, 5]), tuned)


@pytest.mark.parametrize("kind", ["llama", "gpt_neox"])
def test_merged_weights_answer_as_the_adapter(random_base, random_model, kind):
    engine = trained(PlainEngine(random_base(kind), SHAPE, seed=0))
    ids = a_pack().ids_T[:40]
    tuned = engine.logits(ids)
    merge(engine.base.linears, engine._adapter)
    plain = random_model(kind)
    plain.load_state_dict(engine.base.model.state_dict())
    with torch.no_grad():
        merged = plain(input_ids=torch.tensor([ids])).logits[0]
    assert torch.allclose(tuned, merged, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("rslora", [False, True])
def test_gradients_are_those_of_peft_and_autograd(random_base, random_model, tmp_path, kind, rslora):
    engine = trained(PlainEngine(random_base(kind), LoraShape(4, 8, rslora=rslora), seed=0))
    engine.save_adapter(tmp_path, base_model="random", revision="1")
    peft = PeftModel.from_pretrained(random_model(kind), tmp_path, is_trainable=True)
    packed = a_pack()
    weight_N = torch.linspace(-1, 2, len(packed.loss_at_N))

    logprob_N = engine.logprobs(packed, training=True)
    engine.backward(weight_N)
    (reference_logprobs(peft, packed) * weight_N).sum().backward()

    theirs = {name.replace(".default", ""): weight.grad for name, weight in peft.named_parameters() if weight.requires_grad}
    assert len(theirs) == len(engine.parameters)
    assert not logprob_N.requires_grad
    for name, weight in engine.parameters.items():
        expected = theirs[f"base_model.model.{name}"]
        assert (weight.grad - expected).norm() <= 1e-5 * expected.norm() + 1e-7, name


def test_gradients_reach_the_adapter_alone_and_add_up(random_base):
    engine = trained(PlainEngine(random_base(), SHAPE, seed=0))
    packed = a_pack()
    ones_N = torch.ones(len(packed.loss_at_N))
    for _ in range(2):
        engine.logprobs(packed, training=True)
        engine.backward(ones_N)
    twice = {name: weight.grad.clone() for name, weight in engine.parameters.items()}
    for weight in engine.parameters.values():
        weight.grad = None
    engine.logprobs(packed, training=True)
    engine.backward(ones_N)
    assert all(torch.allclose(twice[name], 2 * weight.grad, rtol=1e-5) for name, weight in engine.parameters.items())
    assert all(weight.grad is None and not weight.requires_grad for weight in engine.base.model.parameters())


def test_the_same_seed_learns_the_same_adapter_bit_by_bit(random_base):
    def learn(seed: int) -> dict[str, torch.Tensor]:
        torch.rand(3)  # the global generator is somewhere else each time
        engine = PlainEngine(random_base(), SHAPE, seed)
        optimizer = torch.optim.AdamW(engine.parameters.values(), lr=1e-2)
        for step in range(3):
            packed = a_pack(seed=step)
            logprob_N = engine.logprobs(packed, training=True)
            engine.backward(torch.full_like(logprob_N, -1 / len(logprob_N)))
            optimizer.step()
            optimizer.zero_grad()
        return {name: weight.detach().clone() for name, weight in engine.parameters.items()}

    first, second, other = learn(5), learn(5), learn(6)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_dropout_works_in_training_only(random_base):
    engine = trained(PlainEngine(random_base(), LoraShape(4, 8, dropout=0.5), seed=0))
    packed = a_pack()
    first, second = engine.logprobs(packed, training=True), engine.logprobs(packed, training=True)
    assert not torch.equal(first, second)
    assert engine._packs
    assert torch.equal(engine.logprobs(packed, training=False), engine.logprobs(packed, training=False))


def test_two_engines_share_a_base_without_mixing(random_base):
    base = random_base()
    one, two = (trained(PlainEngine(base, SHAPE, seed=0), seed) for seed in (1, 2))
    before = one.logits([5, 6, 7])
    assert not torch.equal(two.logits([5, 6, 7]), before)
    assert torch.equal(one.logits([5, 6, 7]), before)


def test_no_loss_token_is_no_loss(random_base):
    engine = PlainEngine(random_base(), SHAPE, seed=0)
    logprob_N = engine.logprobs(Packed([1, 2, 3], [3], []), training=True)
    engine.backward(logprob_N)
    assert logprob_N.shape == (0,)
    assert all(weight.grad is None for weight in engine.parameters.values())


def test_backward_needs_a_forward_of_its_own(random_base):
    engine = PlainEngine(random_base(), SHAPE, seed=0)
    packed = a_pack()
    grad_N = torch.ones(len(packed.loss_at_N))
    with pytest.raises(RuntimeError):
        engine.backward(grad_N)
    engine.logprobs(packed, training=True)
    engine.backward(grad_N)
    with pytest.raises(RuntimeError):
        engine.backward(grad_N)


@pytest.mark.parametrize(
    "packed",
    [
        Packed([1, 2, 3], [2], [0]),  # a token in no row
        Packed([1, 2, 3], [3], [2]),  # the last token predicts nothing
        Packed([1, 2, 3, 4], [2, 2], [1]),  # the next token is another row's
        Packed([1, 2, 3], [3], [1, 0]),
        Packed([1, 2, 61], [3], [0]),  # not in the vocabulary
        Packed([1] * 97, [97], [0]),  # longer than the context
        Packed([], [], []),
    ],
)
def test_a_pack_that_would_give_wrong_numbers_is_refused(random_base, packed):
    with pytest.raises(ValueError, match=r"lengths|loss positions|token ids|context"):
        PlainEngine(random_base(), SHAPE, seed=0).logprobs(packed, training=True)


@pytest.mark.parametrize("capped", [False, True])
def test_logprobs_of_many_chunks_are_those_of_one_and_of_autograd(capped):
    generator = torch.Generator().manual_seed(0)
    weight_VD, target_N = torch.randn(61, 32, generator=generator), torch.randint(61, (50,), generator=generator)
    grad_N = torch.randn(50, generator=generator)

    def head(hidden_CD):
        logits_CV = hidden_CD @ weight_VD.t()
        return 5 * torch.tanh(logits_CV / 5) if capped else logits_CV

    def plain(hidden_ND):
        return head(hidden_ND).log_softmax(1)[torch.arange(50), target_N]

    hidden_ND = torch.randn(50, 32, generator=generator).requires_grad_()
    ways = [plain, *(partial(token_logprobs, head, target_N=target_N, chunk=chunk) for chunk in (7, 100))]
    logprobs = [way(hidden_ND) for way in ways]
    slopes = [torch.autograd.grad(logprob_N, hidden_ND, grad_N)[0] for logprob_N in logprobs]
    for logprob_N, slope_ND in zip(logprobs[1:], slopes[1:], strict=True):
        assert torch.allclose(logprob_N, logprobs[0], atol=1e-5)
        assert torch.allclose(slope_ND, slopes[0], atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(token_logprobs(head, hidden_ND, target_N, 7), logprobs[0], atol=1e-5)


def test_bf16_bases_train_fp32_adapters(random_model):
    base = frozen(random_model("llama").to(torch.bfloat16), torch.device("cpu"))
    engine = trained(PlainEngine(base, SHAPE, seed=0))
    packed = a_pack()
    logprob_N = engine.logprobs(packed, training=True)
    engine.backward(torch.ones_like(logprob_N))
    assert logprob_N.dtype == torch.float32
    assert engine._packs
    assert {weight.grad.dtype for weight in engine.parameters.values()} == {torch.float32}


def test_targets_choose_layers_by_name(random_base):
    engine = PlainEngine(random_base(), LoraShape(4, 8, targets=("q_proj", "down_proj")), seed=0)
    layers = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in engine.parameters}
    assert layers == {"q_proj", "down_proj"}
    with pytest.raises(ValueError, match="none of the linear layers"):
        PlainEngine(random_base(), LoraShape(4, 8, targets=("c_attn",)), seed=0)


def test_all_linear_layers_are_those_that_peft_finds(random_base, random_model):
    for kind in ARCHITECTURES:
        peft = get_peft_model(random_model(kind), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
        theirs = {
            name.replace("base_model.model.", "").replace(".default", "") for name, _ in peft.named_parameters() if "lora" in name
        }
        assert set(PlainEngine(random_base(kind), SHAPE, seed=0).parameters) == theirs
