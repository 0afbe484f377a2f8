"""Dropout: the same places in both engines, whoever trains beside, however a step is cut into passes."""

from __future__ import annotations

import pytest
import torch
from tests.modeling.test_fast import KNOWN, assert_same_gradients, gradients
from tests.modeling.test_plain import SHAPE, a_pack, trained

from luthier.modeling import gang, kernels
from luthier.modeling.dropout import Drop
from luthier.modeling.engines import open_engine
from luthier.modeling.fast import FastEngine
from luthier.modeling.plain import PlainEngine
from luthier.modeling.types import LoraShape, Packed

DROPPED = LoraShape(4, 8, dropout=0.3)
PATHS = ["layers.0.self_attn.q_proj", "layers.0.self_attn.k_proj"]


def kept(drop: Drop, path: str = PATHS[0], tokens: int = 64, columns: int = 48) -> torch.Tensor:
    """Ones where an input goes through."""
    return kernels.dropped(torch.ones(tokens, columns), drop.at(path))


def engines(random_base, kind="llama", shape=DROPPED) -> tuple[FastEngine, PlainEngine]:
    """A fast and a plain engine with equal adapters and seeds, each on a base of its own."""
    pair = [trained(open_engine(random_base(kind), shape, 0, prefer)) for prefer in ("fast", "plain")]
    for engine in pair:
        engine.seed(11)
    return pair[0], pair[1]


def rows(packed: Packed) -> list[Packed]:
    """Each row of a pack as a pack."""
    alone, start = [], 0
    for length in packed.lengths:
        at = [t - start for t in packed.loss_at_N if start <= t < start + length]
        alone.append(Packed(packed.ids_T[start : start + length], [length], at))
        start += length
    return alone


def learned(engine, packs: list[Packed], grads: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The gradient of all packs, one pass after the other."""
    for parameter in engine.parameters.values():
        parameter.grad = None
    for packed, grad_N in zip(packs, grads, strict=True):
        engine.logprobs(packed, training=True)
        engine.backward(grad_N)
    return {name: parameter.grad.clone() for name, parameter in engine.parameters.items()}


# -- what is dropped ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5, 0.9])
def test_the_share_is_dropped_and_the_rest_made_larger_to_match(share):
    drop = Drop(share, seed=3, first=0)
    kept_TI = kept(drop, tokens=1000, columns=576)
    sigma = (share * (1 - share) / kept_TI.numel()) ** 0.5
    assert abs(1 - kept_TI.mean().item() - share) < 4 * sigma
    assert drop.scale * kept_TI.mean().item() == pytest.approx(1, abs=4 * sigma * drop.scale)
    for over in (0, 1):  # no token and no column is spared
        spread = (share * (1 - share) / kept_TI.shape[over]) ** 0.5
        assert (kept_TI.mean(over) - (1 - share)).abs().max() < 6 * spread


def test_neighbours_are_dropped_independently_of_each_other():
    odd_TI = kept(Drop(0.3, seed=5, first=0), tokens=2000, columns=576) - 0.7
    for step in (1, 2, 3, 6, 16, 32):
        for one, other in ((odd_TI[:, step:], odd_TI[:, :-step]), (odd_TI[step:], odd_TI[:-step])):
            assert abs((one * other).double().sum().item()) < 5 * 0.21 * one.numel() ** 0.5


@pytest.mark.parametrize("other", [Drop(0.3, 6, 0), Drop(0.3, 5 + 2**64, 0), Drop(0.3, 5, 1)], ids=["seed", "far seed", "token"])
def test_another_seed_or_token_drops_other_places(other):
    one_TI, other_TI = kept(Drop(0.3, 5, 0)) - 0.7, kept(other) - 0.7
    assert abs((one_TI * other_TI).sum().item()) < 5 * 0.21 * one_TI.numel() ** 0.5


def test_layers_drop_each_their_own_places_of_a_common_input():
    one_TI, other_TI = (kept(Drop(0.3, 5, 0), path) - 0.7 for path in PATHS)
    assert abs((one_TI * other_TI).sum().item()) < 5 * 0.21 * one_TI.numel() ** 0.5


def test_a_token_keeps_its_places_wherever_it_stands_in_a_pass():
    drop = Drop(0.3, seed=5, first=2**33 - 20)
    whole_TI = kept(drop)
    assert torch.equal(kept(drop.after(17), tokens=30), whole_TI[17:47])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_computes_what_its_formula_says(random_base, dtype):
    base = random_base()
    path, layer = next(iter(base.linears.by_path.items()))
    engine = trained(PlainEngine(base, DROPPED, seed=0))
    pair, drop = engine._adapter.pairs[path], Drop(0.3, 5, 0)
    base.linears.carry(engine._adapter, drop)
    x_BTI = torch.randn(2, 6, layer.in_features, generator=torch.Generator().manual_seed(0)).to(dtype)
    layer.to(dtype)
    x_BTI.requires_grad_()
    y_BTO = layer(x_BTI)
    dropped_NI = (x_BTI.flatten(0, 1).float() * kept(drop, path, 12, layer.in_features) / 0.7) @ pair.a_RI.t() @ pair.b_OR.t()
    expected_BTO = x_BTI.float() @ layer.weight.float().t() + pair.scale * dropped_NI.view(y_BTO.shape)
    near = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-1}
    torch.testing.assert_close(y_BTO.float(), expected_BTO, **near)
    for leaf in (x_BTI, pair.a_RI, pair.b_OR):
        found, wanted = (torch.autograd.grad(y.sum(), leaf, retain_graph=True)[0].float() for y in (y_BTO.float(), expected_BTO))
        assert (found - wanted).norm() <= (1e-5 if dtype == torch.float32 else 2e-2) * wanted.norm()


# -- engines -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KNOWN)
def test_both_engines_drop_the_same_and_learn_the_same(random_base, kind):
    ours, oracle = engines(random_base, kind)
    assert isinstance(ours, FastEngine)
    for number in range(2):  # the second pass goes on with the tokens after the first
        logp = [engine.logprobs(a_pack(seed=number), training=True) for engine in (ours, oracle)]
        assert torch.allclose(*logp, atol=1e-5, rtol=0)
        assert not torch.allclose(logp[0], ours.logprobs(a_pack(seed=number), training=False), atol=1e-3)
        assert_same_gradients(gradients(ours, a_pack(seed=number)), gradients(oracle, a_pack(seed=number)))


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("k_proj", "o_proj", "up_proj"), ("down_proj",)])
def test_only_some_layers_drop_and_learn(random_base, targets):
    ours, oracle = engines(random_base, shape=LoraShape(4, 8, dropout=0.5, targets=targets, rslora=True))
    assert_same_gradients(gradients(ours, a_pack()), gradients(oracle, a_pack()))


def test_without_training_nothing_is_dropped_and_no_token_counted(random_base):
    ours, oracle = engines(random_base)
    for engine in (ours, oracle):
        undropped = trained(open_engine(engine.base, SHAPE, 0))
        assert torch.allclose(engine.logprobs(a_pack(), training=False), undropped.logprobs(a_pack(), training=False), atol=1e-5)
        first = engine.logprobs(a_pack(), training=True)
        engine.seed(11)
        engine.logprobs(a_pack(seed=4), training=False)
        assert torch.equal(engine.logprobs(a_pack(), training=True), first)


def test_each_pass_of_a_seed_drops_other_places(random_base):
    for engine in engines(random_base):
        first, second = (engine.logprobs(a_pack(), training=True) for _ in range(2))
        assert not torch.allclose(first, second, atol=1e-3)
        engine.seed(12)
        third = engine.logprobs(a_pack(), training=True)
        assert not torch.allclose(first, third, atol=1e-3)
        engine.seed(11)
        assert torch.equal(engine.logprobs(a_pack(), training=True), first)


@pytest.mark.parametrize("prefer", ["fast", "plain"])
def test_a_step_learns_the_same_however_it_is_cut_into_passes(random_base, prefer):
    engine = trained(open_engine(random_base(), DROPPED, 0, prefer))
    whole, parts = a_pack(), rows(a_pack())
    grads = list(
        torch.randn(len(whole.loss_at_N), generator=torch.Generator().manual_seed(1)).split([len(p.loss_at_N) for p in parts])
    )
    engine.seed(11)
    at_once = learned(engine, [whole], [torch.cat(grads)])
    engine.seed(11)
    assert_same_gradients(learned(engine, parts, grads), at_once)


def test_an_architecture_that_goes_row_by_row_drops_the_same(random_base):
    ours, oracle = engines(random_base)
    oracle._packs = False
    assert_same_gradients(gradients(ours, a_pack()), gradients(oracle, a_pack()))


def test_blocks_computed_twice_drop_the_same_twice(random_base):
    ours, twice = (trained(open_engine(random_base(), DROPPED, 0, "fast")) for _ in range(2))
    twice.recompute = True
    expected, found = gradients(ours, a_pack()), gradients(twice, a_pack())
    assert all(torch.equal(found[name], grad) for name, grad in expected.items())


def test_in_a_gang_each_drops_what_it_would_alone(random_base):
    base = random_base()
    shapes = [DROPPED, SHAPE, LoraShape(2, 16, dropout=0.6, targets=("q_proj", "down_proj")), DROPPED]
    packs = [a_pack(), a_pack((4, 40), 1), a_pack((11,), 2), a_pack()]

    def members() -> list[FastEngine]:
        made = [trained(open_engine(base, shape, 0, "fast"), n) for n, shape in enumerate(shapes)]
        for number, engine in enumerate(made):
            engine.seed(number)
        return made

    alone = [learned(engine, [pack], [torch.ones(len(pack.loss_at_N))]) for engine, pack in zip(members(), packs, strict=True)]
    together = members()
    seats = list(zip(together, packs, strict=True))[::-1]
    logp = gang.forward(seats, training=True)
    gang.backward(seats, [torch.ones_like(logp_N) for logp_N in logp])
    for engine, expected in zip(together, alone, strict=True):
        assert_same_gradients({name: parameter.grad for name, parameter in engine.parameters.items()}, expected, 1e-5)


def test_in_bf16_it_is_as_near_to_fp32_as_the_plain_engine(random_base, random_model):
    from luthier.modeling.load import frozen

    exact = trained(PlainEngine(random_base(), DROPPED, seed=0))
    bases = [frozen(random_model("llama").to(torch.bfloat16), torch.device("cpu")) for _ in range(2)]
    both = [trained(open_engine(base, DROPPED, 0, prefer)) for base, prefer in zip(bases, ("fast", "plain"), strict=True)]
    packed = a_pack((30, 30, 30, 30))
    expected = gradients(exact, packed)
    ours, theirs = (
        sum(float((found[name] - grad).norm() / grad.norm()) for name, grad in expected.items())
        for found in (gradients(engine, packed) for engine in both)
    )
    assert ours <= 1.2 * theirs
