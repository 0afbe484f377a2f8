"""Both engines give the hidden states of chosen positions, and take a gradient of them back: what a head of classes stands on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.modeling.test_fast import assert_same_gradients, pair
from tests.modeling.test_plain import ARCHITECTURES, LENGTHS, SHAPE, a_pack, rows_of, trained

from luthier.modeling import gang
from luthier.modeling.plain import PlainEngine
from luthier.modeling.types import LoraShape, Packed


def ends(lengths=LENGTHS, seed=0) -> Packed:
    """A pack that wants the hidden state of the last token of each row."""
    packed = a_pack(lengths, seed)
    at = [sum(lengths[: number + 1]) - 1 for number in range(len(lengths))]
    return replace(packed, loss_at_N=at, wants="hidden")


def gradients(engine, packed, seed=3) -> dict[str, torch.Tensor]:
    """Of a weighted sum of what the engine gives."""
    given = engine.hidden(packed, training=True) if packed.wants == "hidden" else engine.logprobs(packed, training=True)
    engine.backward(torch.randn(given.shape, generator=torch.Generator().manual_seed(seed)))
    return {name: parameter.grad.clone() for name, parameter in engine.parameters.items()}


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_they_are_the_models_own_of_each_row_alone(random_base, kind):
    engine = trained(PlainEngine(random_base(kind), SHAPE, seed=0))
    hidden_ND = engine.hidden(ends(), training=False)
    assert hidden_ND.dtype == torch.float32
    with torch.no_grad():
        own = [engine.base.model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1] for ids, _ in rows_of(ends())]
    assert torch.allclose(hidden_ND, torch.stack(own), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gemma", "phi3"])
def test_the_fast_engine_gives_what_the_plain_one_gives_there_and_back(random_base, kind):
    ours, oracle = pair(random_base, kind)
    found, expected = (engine.hidden(ends(), training=False) for engine in (ours, oracle))
    assert torch.allclose(found, expected, atol=1e-4, rtol=1e-4)
    assert_same_gradients(gradients(ours, ends()), gradients(oracle, ends()))


@pytest.mark.parametrize("number", [0, 1])
def test_any_position_can_be_read(random_base, number):
    engine = pair(random_base)[number]
    packed = replace(a_pack((9, 4)), loss_at_N=[0, 3, 8, 9, 12], wants="hidden")
    whole = replace(packed, loss_at_N=list(range(13)))
    found = engine.hidden(packed, training=False)
    assert torch.allclose(found, engine.hidden(whole, training=False)[list(packed.loss_at_N)], atol=1e-5)


@pytest.mark.parametrize("number", [0, 1])
def test_the_gradient_is_that_of_finite_differences(random_base, number):
    engine = pair(random_base)[number]
    gradient = gradients(engine, ends())
    name = next(name for name in gradient if "lora_B" in name)
    weight, slope = engine.parameters[name], gradient[name]
    place = divmod(int(slope.abs().argmax()), slope.shape[1])
    weights = torch.randn(len(LENGTHS), 32, generator=torch.Generator().manual_seed(3))

    def moved(by: float) -> float:
        with torch.no_grad():
            weight[place] += by
            value = float((engine.hidden(ends(), training=False).double() * weights).sum())
            weight[place] -= by
        return value

    assert (moved(1e-2) - moved(-1e-2)) / 2e-2 == pytest.approx(float(slope[place]), rel=2e-2)


@pytest.mark.parametrize("number", [0, 1])
def test_the_bare_base_has_other_hidden_states(random_base, number):
    engine = pair(random_base)[number]
    tuned = engine.hidden(ends(), training=False)
    with engine.adapter_off():
        assert not torch.allclose(engine.hidden(ends(), training=False), tuned, atol=1e-2)


def test_dropped_inputs_are_the_same_in_both_engines(random_base):
    engines = pair(random_base, shape=LoraShape(4, 8, dropout=0.3))
    for engine in engines:
        engine.seed(11)
    ours, oracle = (gradients(engine, ends()) for engine in engines)
    assert_same_gradients(ours, oracle)


def test_architectures_that_go_row_by_row_drop_as_the_packed_do(random_base):
    engine = trained(PlainEngine(random_base(), LoraShape(4, 8, dropout=0.3), seed=0))
    engine.seed(11)
    together = gradients(engine, ends())
    for parameter in engine.parameters.values():
        parameter.grad = None
    engine._packs = False
    engine.seed(11)
    assert_same_gradients(gradients(engine, ends()), together)


@pytest.mark.parametrize("prefer", ["fast", "plain"])
def test_in_a_gang_one_reads_hidden_states_and_another_log_probabilities(random_base, prefer):
    from luthier.modeling.engines import open_engine

    base = random_base()
    engines = [trained(open_engine(base, SHAPE, seed, prefer), seed) for seed in (1, 2, 3)]
    alone = [trained(PlainEngine(random_base(), SHAPE, seed), seed) for seed in (1, 2, 3)]
    packs = [ends(seed=1), replace(a_pack(seed=2), temperature=0.7), ends((5, 3), seed=3)]
    given = gang.forward(list(zip(engines, packs, strict=True)), training=True)
    expected = [
        engine.hidden(packed, training=False) if packed.wants == "hidden" else engine.logprobs(packed, training=False)
        for engine, packed in zip(alone, packs, strict=True)
    ]
    for found, wanted in zip(given, expected, strict=True):
        assert torch.allclose(found, wanted, atol=1e-4, rtol=1e-4)
    grads = [torch.randn(found.shape, generator=torch.Generator().manual_seed(3)) for found in given]
    gang.backward(list(zip(engines, packs, strict=True)), grads)
    for engine, other, packed in zip(engines, alone, packs, strict=True):
        found = {name: parameter.grad for name, parameter in engine.parameters.items()}
        assert_same_gradients(found, gradients(other, packed))


@pytest.mark.parametrize("number", [0, 1])
def test_what_a_pack_wants_is_what_it_is_asked_for(random_base, number):
    engine = pair(random_base)[number]
    with pytest.raises(ValueError, match="wants hidden, not logprobs"):
        engine.logprobs(ends(), training=False)
    with pytest.raises(ValueError, match="wants logprobs, not hidden"):
        engine.hidden(a_pack(), training=False)
    with pytest.raises(ValueError, match="positions of a pack ascend"):
        engine.hidden(replace(ends(), loss_at_N=[3, 2]), training=False)
    with pytest.raises(ValueError, match="positions of a pack ascend"):
        engine.hidden(replace(ends(), loss_at_N=[sum(LENGTHS)]), training=False)
    engine.hidden(ends(), training=True)
    engine.backward(torch.zeros(len(LENGTHS), 32))
    with pytest.raises(RuntimeError, match="a pass with training"):
        engine.backward(torch.zeros(len(LENGTHS), 32))


def test_the_head_of_words_costs_nothing_where_it_is_not_used(random_base):
    engine = PlainEngine(random_base(), SHAPE, seed=0)
    assert engine.flops(ends()) < engine.flops(replace(ends(), loss_at_N=[0, 9, 11, 28], wants="logprobs"))
