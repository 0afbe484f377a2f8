"""Utilisation is what learning asks for over what the machine can do."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from luthier.modeling.flops import peak_flops
from luthier.modeling.plain import PlainEngine
from luthier.modeling.types import LoraShape, Packed


def test_arithmetic_is_counted_as_torch_counts_it(random_base):
    engine = PlainEngine(random_base(), LoraShape(4, 8), seed=0)
    # Short rows: torch does not count the attention of a CPU.
    packed = Packed([n % 61 for n in range(90)], [5] * 18, [n for n in range(90) if n % 5 < 4])
    with FlopCounterMode(display=False) as counter:
        engine.logprobs(packed, training=False)
    # The way back asks for as much again, and a little more where weights learn.
    assert 1.8 < engine.flops(packed) / counter.get_total_flops() < 2.4


def test_rows_apart_need_less_attention_than_one_long_row(random_base):
    engine = PlainEngine(random_base(), LoraShape(4, 8), seed=0)
    ids = list(range(3, 43))
    together, apart = Packed(ids, [40], [0]), Packed(ids, [20, 20], [0])
    assert engine.flops(apart) < engine.flops(together)
    assert engine.flops(Packed(ids, [40], list(range(39)))) > engine.flops(together)


def test_the_machine_has_a_peak():
    assert 1e9 < peak_flops("cpu", torch.float32, 2) < 1e14
