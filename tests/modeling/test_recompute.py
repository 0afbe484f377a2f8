"""Blocks computed twice: the same gradients from less that is kept."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from luthier.modeling.load import frozen
from luthier.modeling.plain import PlainEngine
from luthier.modeling.quantised import put_into_8_bits
from luthier.modeling.types import LoraShape, Packed

DROPPED = LoraShape(rank=4, alpha=8, dropout=0.3)
IDS = [(7 * place + 3) % 61 for place in range(40)]
PACK = Packed(IDS, [25, 15], [*range(0, 24, 2), *range(26, 38, 3)])


def stirred(engine, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in engine.parameters.items():
            if "lora_B" in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    engine.seed(5)
    return engine


def there(engine) -> int:
    """Go there. Returns the bytes that are kept for the way back, weights of the base aside."""
    sizes = {weight.untyped_storage().data_ptr() for weight in engine.base.model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in sizes:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        engine.logprobs(PACK, training=True)
    return sum(kept.values())


def back(engine):
    engine.backward(torch.linspace(-1, 1, len(PACK.loss_at_N)))
    return {name: weight.grad for name, weight in engine.parameters.items()}


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt_neox", "mistral", "gemma2"])
def test_gradients_are_the_same_bit_by_bit_and_less_is_kept(random_base, kind):
    once, twice = (stirred(PlainEngine(random_base(kind), DROPPED, 0)) for _ in range(2))
    assert twice.save_memory()
    assert not twice.save_memory()
    kept = [there(engine) for engine in (once, twice)]
    assert kept[1] < 0.5 * kept[0]
    expected, found = back(once), back(twice)
    assert all(torch.equal(found[name], grad) for name, grad in expected.items())


def test_somebody_elses_pass_in_between_changes_nothing(random_base):
    alone = stirred(PlainEngine(random_base(), DROPPED, 0))
    there(alone)
    base = random_base()
    ours, other = stirred(PlainEngine(base, DROPPED, 0)), stirred(PlainEngine(base, DROPPED, 3), seed=9)
    ours.recompute = other.recompute = True
    there(ours)
    there(other)
    assert all(torch.equal(grad, back_of) for grad, back_of in zip(back(ours).values(), back(alone).values(), strict=True))
    assert base.linears.adapter is other._adapter


def test_on_a_base_in_8_bits_too(random_model):
    def engine():
        model = random_model()
        put_into_8_bits(model)
        return stirred(PlainEngine(frozen(model, torch.device("cpu"), "8bit"), DROPPED, 0))

    once, twice = engine(), engine()
    twice.recompute = True
    there(once)
    there(twice)
    found = back(twice)
    assert all(torch.equal(found[name], grad) for name, grad in back(once).items())


def test_the_estimate_of_a_pass_knows_it(random_base):
    engine = PlainEngine(random_base(), DROPPED, 0)
    before = engine.bytes_per_token(40)
    engine.recompute = True
    assert engine.bytes_per_token(40) < before
