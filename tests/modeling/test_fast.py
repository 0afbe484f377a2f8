"""The fast engine computes what the plain one computes: forward, backward, alone and in a gang."""

from __future__ import annotations

import pytest
import torch
from tests.modeling.test_plain import LENGTHS, SHAPE, a_pack, trained

from luthier.modeling import fast, fast_attention, gang
from luthier.modeling.engines import agree, open_engine, why_not_fast
from luthier.modeling.fast import FastEngine
from luthier.modeling.load import frozen
from luthier.modeling.plain import PlainEngine
from luthier.modeling.types import LoraShape, Packed

KNOWN = ["llama", "mistral", "qwen2", "qwen3", "gemma", "phi3"]


def pair(random_base, kind="llama", shape=SHAPE) -> tuple[FastEngine, PlainEngine]:
    """A fast and a plain engine with equal adapters, each on a base of its own."""
    engine = open_engine(random_base(kind), shape, seed=0, prefer="fast")
    assert isinstance(engine, FastEngine)
    return trained(engine), trained(PlainEngine(random_base(kind), shape, seed=0))


def gradients(engine, packed, seed=3) -> dict[str, torch.Tensor]:
    """Of a weighted sum of the log-probabilities; weights of both signs, as DPO's are."""
    logp_N = engine.logprobs(packed, training=True)
    weight_N = torch.randn(len(logp_N), generator=torch.Generator().manual_seed(seed))
    engine.backward(weight_N)
    return {name: parameter.grad.clone() for name, parameter in engine.parameters.items()}


def assert_same_gradients(ours, theirs, relative=1e-4):
    assert ours.keys() == theirs.keys()
    for name, grad in theirs.items():
        assert (ours[name] - grad).abs().max() <= relative * grad.abs().max() + 1e-7, name


@pytest.mark.parametrize("kind", KNOWN)
def test_logprobs_and_gradients_are_the_plain_engines(random_base, kind):
    ours, oracle = pair(random_base, kind)
    packed = a_pack()
    assert torch.allclose(ours.logprobs(packed, training=False), oracle.logprobs(packed, training=False), atol=1e-5, rtol=0)
    assert_same_gradients(gradients(ours, packed), gradients(oracle, packed))


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_long_rows_take_another_way_to_the_same_numbers(random_base, kind, monkeypatch):
    monkeypatch.setattr(fast_attention, "KEPT_SCORES_TO", 4)
    ours, oracle = pair(random_base, kind)
    assert_same_gradients(gradients(ours, a_pack()), gradients(oracle, a_pack()))


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_blocks_computed_twice_learn_the_same_from_less_memory(random_base, kind):
    ours, twice = (open_engine(random_base(kind), SHAPE, 0, "fast") for _ in range(2))
    twice.recompute = True
    expected = gradients(trained(ours), a_pack())
    found = gradients(trained(twice), a_pack())
    assert all(torch.equal(found[name], grad) for name, grad in expected.items())
    ours.logprobs(a_pack(), training=True)
    twice.logprobs(a_pack(), training=True)
    assert isinstance(twice._done.kept[0], torch.Tensor)
    assert not isinstance(ours._done.kept[0], torch.Tensor)


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("down_proj",), ("k_proj", "o_proj", "up_proj")])
def test_only_some_layers_learn(random_base, targets):
    ours, oracle = pair(random_base, shape=LoraShape(4, 8, targets=targets, rslora=True))
    assert_same_gradients(gradients(ours, a_pack()), gradients(oracle, a_pack()))


def test_in_bf16_it_is_as_near_to_fp32_as_the_plain_engine(random_base, random_model):
    exact = trained(PlainEngine(random_base(), SHAPE, seed=0))
    bases = [frozen(random_model("llama").to(torch.bfloat16), torch.device("cpu")) for _ in range(2)]
    ours = trained(open_engine(bases[0], SHAPE, seed=0, prefer="fast"))
    oracle = trained(PlainEngine(bases[1], SHAPE, seed=0))
    packed = a_pack((30, 30, 30, 30))

    def errors(engine) -> tuple[float, float]:
        logp = (engine.logprobs(packed, training=False) - exact.logprobs(packed, training=False)).abs().mean()
        expected, found = gradients(exact, packed), gradients(engine, packed)
        for parameter in exact.parameters.values():
            parameter.grad = None
        return float(logp), sum(float((found[name] - expected[name]).norm() / expected[name].norm()) for name in expected)

    for mine, theirs in zip(errors(ours), errors(oracle), strict=True):
        assert mine <= 1.2 * theirs


def test_gradients_add_up_over_passes(random_base):
    ours, oracle = pair(random_base)
    for engine in (ours, oracle):
        for seed in (1, 2):
            gradients(engine, a_pack((7, 12), seed))
    total = {name: parameter.grad for name, parameter in ours.parameters.items()}
    assert_same_gradients(total, {name: parameter.grad for name, parameter in oracle.parameters.items()})


def test_an_optimisers_step_is_seen_by_the_next_pass(random_base):
    ours, oracle = pair(random_base)
    for engine in (ours, oracle):
        optimiser = torch.optim.SGD(engine.parameters.values(), lr=0.01, fused=True)
        gradients(engine, a_pack())
        optimiser.step()
    after = [engine.logprobs(a_pack(seed=5), training=False) for engine in (ours, oracle)]
    assert torch.allclose(*after, atol=1e-4, rtol=0)


def test_the_bare_base_answers_without_the_adapter(random_base):
    ours, oracle = pair(random_base)
    with ours.adapter_off(), oracle.adapter_off():
        bare = [engine.logprobs(a_pack(), training=False) for engine in (ours, oracle)]
    assert torch.allclose(*bare, atol=1e-5, rtol=0)
    assert not torch.allclose(bare[0], ours.logprobs(a_pack(), training=False), atol=1e-2)


def test_a_saved_adapter_loads_in_the_other_engine(random_base, tmp_path):
    ours, oracle = pair(random_base)
    ours.save_adapter(tmp_path, base_model="b", revision="1")
    fresh = PlainEngine(oracle.base, SHAPE, seed=9)
    fresh.load_adapter(tmp_path)
    assert torch.equal(fresh.logits([3, 4, 5]), oracle.logits([3, 4, 5]))
    ours.load_adapter(tmp_path)
    assert torch.allclose(ours.logprobs(a_pack(), training=False), oracle.logprobs(a_pack(), training=False), atol=1e-5, rtol=0)


def test_the_model_itself_is_unchanged_by_joining_its_layers(random_base, random_model):
    ours, _ = pair(random_base)
    before = random_model("llama").state_dict()
    assert all(torch.equal(value, before[name]) for name, value in ours.base.model.state_dict().items())
    second = open_engine(ours.base, SHAPE, seed=1, prefer="fast")
    assert second.weights is ours.weights


# -- gangs -------------------------------------------------------------------------------------------------------------


def test_a_gang_gives_each_what_it_gets_alone(random_base):
    base = random_base()
    shapes = [SHAPE, LoraShape(8, 4), LoraShape(2, 16, targets=("q_proj", "down_proj"), rslora=True), SHAPE]
    packs = [a_pack(), a_pack((4, 40), 1), a_pack((11,), 2), a_pack((3, 3, 3), 3)]
    alone = [
        gradients(trained(open_engine(base, shape, n, "fast"), n), pack, n)
        for n, (shape, pack) in enumerate(zip(shapes, packs, strict=True))
    ]
    engines = [trained(open_engine(base, shape, n, "fast"), n) for n, shape in enumerate(shapes)]
    seats = list(zip(engines, packs, strict=True))
    grads = []
    for number, logp_N in enumerate(gang.forward(seats, training=True)):
        grads.append(torch.randn(len(logp_N), generator=torch.Generator().manual_seed(number)))
    gang.backward(seats, grads)
    for engine, expected in zip(engines, alone, strict=True):
        assert_same_gradients({name: parameter.grad for name, parameter in engine.parameters.items()}, expected, 1e-5)


def test_a_gang_of_plain_and_fast_engines_takes_turns(random_base):
    ours, oracle = pair(random_base)
    seats = [(ours, a_pack()), (oracle, a_pack())]
    mine, theirs = gang.forward(seats, training=True)
    assert torch.allclose(mine, theirs, atol=1e-5, rtol=0)
    gang.backward(seats, [torch.ones_like(mine), torch.ones_like(theirs)])
    assert_same_gradients(
        {name: parameter.grad for name, parameter in ours.parameters.items()},
        {name: parameter.grad for name, parameter in oracle.parameters.items()},
    )


def test_backward_without_a_pass_is_an_error(random_base):
    ours, _ = pair(random_base)
    with pytest.raises(RuntimeError, match="backward follows"):
        ours.backward(torch.ones(1))
    ours.logprobs(a_pack(), training=False)
    with pytest.raises(RuntimeError, match="backward follows"):
        ours.backward(torch.ones(1))


def test_a_pack_that_is_none_is_refused(random_base):
    ours, _ = pair(random_base)
    with pytest.raises(ValueError, match="lengths"):
        ours.logprobs(Packed([1, 2], [1], [0]), training=True)


# -- who takes which engine --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt_neox", "gemma2"])
def test_other_architectures_train_on_the_plain_engine(random_base, kind):
    base = random_base(kind)
    assert type(open_engine(base, SHAPE, 0)) is PlainEngine
    assert why_not_fast(base) == "it does not know this architecture"
    with pytest.raises(ValueError, match="does not know this architecture"):
        open_engine(base, SHAPE, 0, prefer="fast")


def test_a_model_that_only_looks_known_is_found_out_by_its_numbers(random_base):
    base = random_base()
    base.model.base_model.layers[0].mlp.act_fn = torch.nn.ReLU()
    assert type(open_engine(base, SHAPE, 0)) is PlainEngine
    with pytest.raises(ValueError, match="numbers differ"):
        open_engine(base, SHAPE, 0, prefer="fast")


def test_the_check_sees_a_small_error(random_base):
    ours, oracle = pair(random_base)
    assert agree(ours, oracle)
    with torch.no_grad():
        ours.weights.norm_D.mul_(1.01)
    assert not agree(ours, oracle)


def test_rows_of_one_token_and_passes_without_loss(random_base):
    ours, oracle = pair(random_base)
    packed = Packed([n % 61 for n in range(sum(LENGTHS))], LENGTHS, [0])
    assert_same_gradients(gradients(ours, packed), gradients(oracle, packed))
    assert ours.logprobs(Packed([3, 4], [1, 1], []), training=True).shape == (0,)
    ours.backward(torch.zeros(0))
    assert fast.weights_of(ours.base) is ours.weights


def test_each_seat_of_a_gang_has_its_own_temperature(random_base):
    ours, oracle = pair(random_base)
    packed = a_pack()
    warm = Packed(packed.ids_T, packed.lengths, packed.loss_at_N, temperature=0.6)
    assert_same_gradients(gradients(ours, warm), gradients(oracle, warm))
    other = trained(open_engine(ours.base, SHAPE, 1, "fast"))
    alone = [ours.logprobs(warm, training=False), other.logprobs(packed, training=False)]
    together = gang.forward([(ours, warm), (other, packed)], training=False)
    assert all(torch.allclose(one, two, atol=1e-5) for one, two in zip(alone, together, strict=True))
    assert not torch.allclose(alone[0], ours.logprobs(packed, training=False), atol=1e-2)


def test_ragged_packs_have_few_sizes(random_base):
    """A library that compiles code for each shape would compile in every step."""
    sizes = {len(fast._seated(Packed([1] * tokens, [tokens], [0]), context=96)[0]) for tokens in range(1, 2049)}
    assert len(sizes) <= 8 * 7
    assert all(len(fast._seated(Packed([1] * n, [n], [0]), 96)[0]) <= n + max(15, n / 8 + 1) for n in range(1, 2049))


def test_more_tokens_stand_where_nothing_sees_them(random_base):
    ids, lengths = fast._seated(Packed(list(range(2, 42)), [15, 25], [0]), context=96)
    assert (len(ids), lengths) == (48, [15, 33])
    ids, lengths = fast._seated(Packed([3] * 97, [1, 96], [0]), context=96)  # no room in the last row
    assert (len(ids), lengths) == (112, [1, 96, 15])
    ours, oracle = pair(random_base)
    full = Packed([number % 61 for number in range(97)], [1, 96], list(range(1, 96)))
    assert_same_gradients(gradients(ours, full), gradients(oracle, full))
