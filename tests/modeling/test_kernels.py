"""The kernels in C compute what torch computes, on any shape, with any number of threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
from torch import Tensor

from luthier.modeling import kernels, kernels_decoding, kernels_torch
from luthier.modeling.kernels import Bucket, Mask, Switch

HALF_UNIT = 2.0**-8
"""Rounding to bf16 moves a number by at most this share of it."""
WIDTHS = [1, 2, 5, 16, 31, 64, 100]
DTYPES = [torch.float32, torch.bfloat16]
CPU = torch.device("cpu")

pytestmark = pytest.mark.skipif(kernels.library() is None, reason="there is no C compiler here")


@dataclass(frozen=True)
class Heads:
    queries: int
    keys: int
    width: int

    @property
    def group(self) -> int:
        return self.queries // self.keys


@dataclass(frozen=True)
class Draw:
    """Seeded shapes and numbers: equal seeds draw the same."""

    generator: torch.Generator
    dtype: torch.dtype
    tokens: int | None = None

    @classmethod
    def of(cls, seed: int, dtype: torch.dtype = torch.float32, tokens: int | None = None) -> Draw:
        return cls(torch.Generator().manual_seed(seed), dtype, tokens)

    def whole(self, least: int, most: int) -> int:
        return int(torch.randint(least, most + 1, (), generator=self.generator))

    def one_of(self, values):
        return values[self.whole(0, len(values) - 1)]

    def count(self) -> int:
        return self.tokens or self.one_of([1, 2, 3, 17, 40])

    def numbers(self, *shape: int, spread: float = 3.0) -> Tensor:
        return (torch.randn(shape, generator=self.generator) * spread).to(self.dtype)

    def weight(self, width: int) -> Tensor:
        return torch.randn(width, generator=self.generator) + 1

    def bucket(self) -> tuple[Bucket, int]:
        """Ragged rows with gaps between them, and the number of tokens that they lie among."""
        lengths = [self.one_of([1, 2, 5, 9, 16]) for _ in range(self.whole(1, 4))]
        starts, end = [], 0
        for length in lengths:
            starts.append(end + self.whole(0, 2))
            end = starts[-1] + length
        order = torch.randperm(len(lengths), generator=self.generator).tolist()
        return Bucket([starts[i] for i in order], [lengths[i] for i in order], CPU), end + self.whole(0, 2)

    def heads(self) -> Heads:
        keys = self.whole(1, 3)
        return Heads(keys * self.whole(1, 3), keys, self.one_of([2, 6, 16, 34]))

    def tables(self, places: int, width: int) -> tuple[Tensor, Tensor]:
        angle = torch.randn(places, width, generator=self.generator)  # halves that differ, so that none stands for the other
        return angle.cos(), angle.sin()


Call = Callable[[ModuleType, list[Tensor]], tuple[Tensor, ...]]


def rms_norm(draw: Draw) -> tuple[list[Tensor], Call]:
    width = draw.one_of(WIDTHS)
    weight = draw.weight(width)
    return [draw.numbers(draw.count(), width)], lambda module, x: (module.rms_norm(x[0], weight, 1e-5),)


def add_rms_norm(draw: Draw) -> tuple[list[Tensor], Call]:
    shape, dtype = (draw.count(), draw.one_of(WIDTHS)), draw.dtype
    weight = draw.weight(shape[1])

    def call(module: ModuleType, x: list[Tensor]) -> tuple[Tensor, ...]:
        if x[0].dtype == dtype:
            return module.add_rms_norm(*x, weight, 1e-6)
        summed = (x[0] + x[1]).to(dtype)  # the sum is kept in the tensors' type: what is normed is the rounded one
        return x[0] + x[1], module.rms_norm(summed.float(), weight, 1e-6)

    return [draw.numbers(*shape), draw.numbers(*shape)], call


def rms_norm_backward(draw: Draw) -> tuple[list[Tensor], Call]:
    shape = (draw.count(), draw.one_of(WIDTHS[1:]))
    weight, residual = draw.weight(shape[1]), draw.whole(0, 1)
    tensors = [draw.numbers(*shape) for _ in range(2 + residual)]
    return tensors, lambda module, x: (module.rms_norm_backward(*x[:2], weight, 1e-5, x[2] if residual else None),)


def gated(draw: Draw) -> tuple[list[Tensor], Call]:
    gate = draw.one_of(["silu", "gelu_tanh"])
    return [draw.numbers(draw.count(), 2 * draw.one_of(WIDTHS))], lambda module, x: (module.gated(x[0], gate),)


def gated_backward(draw: Draw) -> tuple[list[Tensor], Call]:
    gate, tokens, inner = draw.one_of(["silu", "gelu_tanh"]), draw.count(), draw.one_of(WIDTHS)
    tensors = [draw.numbers(tokens, 2 * inner), draw.numbers(tokens, inner)]
    return tensors, lambda module, x: module.gated_backward(*x, gate)


def heads_out(draw: Draw) -> tuple[list[Tensor], Call]:
    (bucket, tokens), heads = draw.bucket(), draw.heads()
    tables = draw.tables(bucket.longest + draw.whole(0, 3), heads.width)
    qkv = draw.numbers(tokens, (heads.queries + 2 * heads.keys) * heads.width)
    return [qkv], lambda module, x: module.heads_out(x[0], bucket, tables, heads)


def heads_back(draw: Draw) -> tuple[list[Tensor], Call]:
    (bucket, tokens), heads = draw.bucket(), draw.heads()
    tables = draw.tables(bucket.longest, heads.width)
    rows, length, width = bucket.count * heads.keys, bucket.longest, heads.width
    grads = [draw.numbers(rows, group * length, width) for group in (heads.group, 1, 1)]

    def call(module: ModuleType, x: list[Tensor]) -> tuple[Tensor, ...]:
        # What other buckets will write stays as it is.
        dqkv = torch.full((tokens, (heads.queries + 2 * heads.keys) * width), 7.0, dtype=x[0].dtype)
        module.heads_back(tuple(x), bucket, tables, heads, dqkv)
        return (dqkv,)

    return grads, call


def attention_out(draw: Draw) -> tuple[list[Tensor], Call]:
    (bucket, tokens), heads = draw.bucket(), draw.heads()

    def call(module: ModuleType, x: list[Tensor]) -> tuple[Tensor, ...]:
        out = torch.full((tokens, heads.queries * heads.width), 7.0, dtype=x[0].dtype)
        module.attention_out(x[0], bucket, heads, out)
        return (out,)

    return [draw.numbers(bucket.count * heads.keys, heads.group * bucket.longest, heads.width)], call


def attention_in(draw: Draw) -> tuple[list[Tensor], Call]:
    (bucket, tokens), heads = draw.bucket(), draw.heads()
    return [draw.numbers(tokens, heads.queries * heads.width)], lambda module, x: (module.attention_in(x[0], bucket, heads),)


def causal_softmax(draw: Draw) -> tuple[list[Tensor], Call]:
    scores, window = draw_scores(draw)
    scale = draw.one_of([0.125, 1.0])

    def call(module: ModuleType, x: list[Tensor]) -> tuple[Tensor, ...]:
        probs = x[0].clone()
        module.causal_softmax_(probs, scale, window)
        return (probs,)

    return [scores], call


def softmax_backward(draw: Draw) -> tuple[list[Tensor], Call]:
    probs, window = draw_scores(draw)
    kernels_torch.causal_softmax_(probs, 0.3, window)

    def call(module: ModuleType, x: list[Tensor]) -> tuple[Tensor, ...]:
        dscores = x[1].clone()
        module.softmax_backward_(x[0], dscores, 0.125)
        return (dscores,)

    return [probs, draw.numbers(*probs.shape)], call


def draw_scores(draw: Draw) -> tuple[Tensor, int]:
    """Scores, and a window: none, one place, part of the row, or more than the row."""
    length = draw.one_of([1, 2, 7, 16, 33])
    window = draw.one_of([0, 0, 1, (length + 1) // 2, length + 3])
    return draw.numbers(draw.whole(1, 4), draw.whole(1, 3) * length, length), window


def logprob_slope(draw: Draw) -> tuple[list[Tensor], Call]:
    tokens, vocabulary = draw.count(), draw.one_of([2, 5, 16, 61, 1000])
    target = torch.randint(0, vocabulary, (tokens,), generator=draw.generator)

    def call(module: ModuleType, x: list[Tensor]) -> tuple[Tensor, ...]:
        slope = x[0].clone()
        return module.logprob_slope_(slope, target), slope

    return [draw.numbers(tokens, vocabulary)], call


def draw_mask(draw: Draw) -> Mask:
    key = draw.one_of([-(2**63), -1, 0, 2**63 - 1, 0x1234567890ABCDEF])
    return Mask(key, draw.one_of([0, 5, 2**32 - 3, 2**40]), draw.one_of([-(2**31), -(2**30), 0, 2**30, 2**31 - 1]))


def dropped(draw: Draw) -> tuple[list[Tensor], Call]:
    mask = draw_mask(draw)
    return [draw.numbers(draw.count(), draw.one_of(WIDTHS))], lambda module, x: (module.dropped(x[0], mask),)


def add_dropped(draw: Draw) -> tuple[list[Tensor], Call]:
    shape, mask = (draw.count(), draw.one_of(WIDTHS)), draw_mask(draw)

    def call(module: ModuleType, x: list[Tensor]) -> tuple[Tensor, ...]:
        total = x[0].clone()
        module.add_dropped_(total, x[1], mask)
        return (total,)

    return [draw.numbers(*shape), draw.numbers(*shape)], call


KERNELS = [
    rms_norm,
    add_rms_norm,
    rms_norm_backward,
    gated,
    gated_backward,
    heads_out,
    heads_back,
    attention_out,
    attention_in,
    causal_softmax,
    softmax_backward,
    logprob_slope,
    dropped,
    add_dropped,
]
every_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.__name__)
both_types = pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])


@pytest.fixture
def by_torch():
    Switch.native = False
    yield
    Switch.native = True


def with_threads(count: int, work: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        return work()
    finally:
        torch.set_num_threads(before)


def same_bits(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(our, their) and our.dtype == their.dtype for our, their in zip(ours, theirs, strict=True))


def assert_close(ours: tuple[Tensor, ...], exact: tuple[Tensor, ...], dtype: torch.dtype) -> None:
    """fp32: nearly all bits. bf16: the fp32 answer, rounded once (a last bit of fp32 may tip a rounding over)."""
    for our, wanted in zip(ours, exact, strict=True):
        assert our.shape == wanted.shape
        largest = wanted.abs().amax().item()
        relative = HALF_UNIT * 1.01 if our.dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(our.float(), wanted, rtol=relative, atol=2e-6 * max(largest, 1.0), equal_nan=True)
        assert our.dtype in {dtype, torch.float32}


@every_kernel
@both_types
@pytest.mark.parametrize("seed", range(12))
def test_c_computes_what_torch_computes(kernel, dtype, seed):
    tensors, call = kernel(Draw.of(seed, dtype))
    exact = call(kernels_torch, [tensor.float() for tensor in tensors])
    assert_close(call(kernels, tensors), exact, dtype)


@every_kernel
@both_types
def test_one_token_is_enough(kernel, dtype):
    for seed in range(40, 44):
        tensors, call = kernel(Draw.of(seed, dtype, tokens=1))
        assert_close(call(kernels, tensors), call(kernels_torch, [tensor.float() for tensor in tensors]), dtype)


@every_kernel
@both_types
def test_the_number_of_threads_changes_no_bit(kernel, dtype):
    for seed in range(20, 22):
        tensors, call = kernel(Draw.of(seed, dtype, tokens=61))
        alone = with_threads(1, lambda call=call, tensors=tensors: call(kernels, tensors))
        for count in (2, 4):
            assert same_bits(with_threads(count, lambda call=call, tensors=tensors: call(kernels, tensors)), alone)


@every_kernel
@both_types
def test_switched_off_torch_computes_it(kernel, dtype, by_torch):
    tensors, call = kernel(Draw.of(5, dtype))
    assert same_bits(call(kernels, tensors), call(kernels_torch, tensors))


@every_kernel
def test_float64_is_left_to_torch(kernel):
    tensors, call = kernel(Draw.of(6, torch.float64))
    assert same_bits(call(kernels, tensors), call(kernels_torch, tensors))


@pytest.mark.parametrize(
    "kernel", [rms_norm, rms_norm_backward, gated, gated_backward, heads_out, attention_in, causal_softmax, dropped]
)
def test_tensors_with_holes_are_left_to_torch(kernel):
    tensors, call = kernel(Draw.of(7))
    holey = [torch.stack([tensor, tensor], dim=-1)[..., 0] for tensor in tensors]
    assert not all(tensor.is_contiguous() for tensor in holey)
    assert same_bits(call(kernels, holey), call(kernels_torch, holey))


def test_a_weight_in_another_type_is_left_to_torch():
    x, weight = Draw.of(8, torch.bfloat16).numbers(5, 16), torch.linspace(0, 2, 16, dtype=torch.bfloat16)
    assert torch.equal(kernels.rms_norm(x, weight, 1e-5), kernels_torch.rms_norm(x, weight, 1e-5))
    strided = torch.linspace(0, 2, 32)[::2]
    assert torch.equal(kernels.rms_norm(x, strided, 1e-5), kernels_torch.rms_norm(x, strided, 1e-5))


@pytest.mark.parametrize("target", [[3, 61], [-1, 0], [2**40, 1]])
def test_a_target_outside_the_vocabulary_is_refused(target):
    with pytest.raises((RuntimeError, IndexError)):
        kernels.logprob_slope_(torch.zeros(2, 61), torch.tensor(target))


def test_a_row_longer_than_the_rotary_tables_is_refused():
    heads, bucket = Heads(2, 1, 4), Bucket([0], [5], CPU)
    with pytest.raises(RuntimeError):
        kernels.heads_out(torch.zeros(5, 16), bucket, (torch.ones(4, 4), torch.zeros(4, 4)), heads)


@both_types
def test_no_tokens_are_no_work(dtype):
    nothing = torch.empty(0, 16, dtype=dtype)
    assert kernels.rms_norm(nothing, torch.ones(16), 1e-5).shape == (0, 16)
    assert kernels.gated(nothing, "silu").shape == (0, 8)
    assert kernels.logprob_slope_(nothing, torch.empty(0, dtype=torch.int64)).shape == (0,)


ODD = [float("nan"), float("inf"), float("-inf"), 1e30, -1e30]
SOFTMAX = {causal_softmax, softmax_backward}


@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if kernel not in SOFTMAX], ids=lambda kernel: kernel.__name__)
@both_types
@pytest.mark.parametrize("odd", ODD)
def test_what_is_not_finite_is_neither_hidden_nor_spread(kernel, dtype, odd):
    """A loss that diverged must look diverged, and a padded place must not poison its row."""
    for seed in range(30, 36):
        draw = Draw.of(seed, dtype, tokens=3)
        tensors, call = kernel(draw)
        for tensor in tensors:
            tensor.view(-1)[draw.whole(0, tensor.numel() - 1)] = odd
        for our, their in zip(call(kernels, tensors), call(kernels_torch, tensors), strict=True):
            assert torch.equal(our.isnan(), their.isnan())
            assert torch.equal(our.isinf(), their.isinf())


@pytest.mark.parametrize("kernel", [causal_softmax, softmax_backward])
@both_types
@pytest.mark.parametrize("odd", ODD)
def test_a_softmax_is_as_odd_as_torchs_where_it_looks(kernel, dtype, odd):
    """Places that a row does not see stay 0 in C; torch spreads NaN to them."""
    for seed in range(30, 36):
        draw = Draw.of(seed, dtype)
        tensors, call = kernel(draw)
        seen = (call(kernels_torch, tensors)[0] if kernel is causal_softmax else tensors[0]) > 0
        places = seen.view(-1).nonzero().flatten()
        tensors[-1].view(-1)[places[draw.whole(0, len(places) - 1)]] = odd
        (our,), (their,) = call(kernels, tensors), call(kernels_torch, tensors)
        assert torch.equal(our[seen].isnan(), their[seen].isnan())
        assert torch.equal(our[seen].isinf(), their[seen].isinf())


@both_types
def test_the_same_places_are_dropped_bit_by_bit(dtype):
    for seed in range(20):
        draw, ones = Draw.of(seed), torch.ones(50, 577, dtype=dtype)
        mask = draw_mask(draw)
        assert torch.equal(kernels.dropped(ones, mask), kernels_torch.dropped(ones, mask))


def test_a_score_of_minus_infinity_has_no_probability():
    scores = torch.tensor([[[0.0, 0.0], [float("-inf"), 2.0]]])
    kernels.causal_softmax_(scores, 1.0, 0)
    assert scores.tolist() == [[[1.0, 0.0], [0.0, 1.0]]]


# -- the reference itself -------------------------------------------------------------------------------------------------


def assert_is_gradient(found: Tensor, leaf: Tensor, out: Tensor, slope: Tensor) -> None:
    torch.testing.assert_close(found, torch.autograd.grad(out, leaf, slope)[0], rtol=1e-4, atol=1e-5)


def test_the_ways_back_are_torchs_own_gradients():
    draw = Draw.of(50)
    x, slope, weight = draw.numbers(7, 33).requires_grad_(), draw.numbers(7, 33), draw.weight(33)
    normed = torch.nn.functional.rms_norm(x, (33,), weight, 1e-5)
    assert_is_gradient(kernels.rms_norm_backward(slope, x.detach(), weight, 1e-5, None), x, normed, slope)

    scores = draw.numbers(2, 8, 8).requires_grad_()
    probs = (scores * 0.5).masked_fill(torch.ones(8, 8).triu(1).bool(), float("-inf")).softmax(-1)
    slope = draw.numbers(2, 8, 8)
    dscores = slope.clone()
    kernels.softmax_backward_(probs.detach(), dscores, 0.5)
    assert_is_gradient(dscores, scores, probs, slope)

    logits, target = draw.numbers(5, 13).requires_grad_(), torch.tensor([0, 12, 3, 3, 7])
    wanted = logits.log_softmax(-1)[torch.arange(5), target]
    slopes = logits.detach().clone()
    torch.testing.assert_close(kernels.logprob_slope_(slopes, target), wanted.detach())
    assert_is_gradient(slopes, logits, wanted, torch.ones(5))


@pytest.mark.parametrize("seed", range(60, 64))
def test_the_way_back_through_the_heads_is_the_adjoint(seed):
    """<out(x), y> = <x, back(y)> for every x and y."""
    draw = Draw.of(seed)
    (bucket, tokens), heads = draw.bucket(), draw.heads()
    tables = draw.tables(bucket.longest, heads.width)
    qkv = draw.numbers(tokens, (heads.queries + 2 * heads.keys) * heads.width)
    parts = kernels.heads_out(qkv, bucket, tables, heads)
    slopes = tuple(draw.numbers(*part.shape) for part in parts)
    back = torch.zeros_like(qkv)
    kernels.heads_back(slopes, bucket, tables, heads, back)
    forward = sum((part * slope).sum() for part, slope in zip(parts, slopes, strict=True))
    torch.testing.assert_close(forward, (qkv * back).sum(), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("tokens", [1, 3, 4, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_of_few_tokens_is_the_product(tokens, dtype):
    draw = torch.Generator().manual_seed(tokens)
    x, weight = (torch.randn(shape, generator=draw).to(dtype) for shape in ((tokens, 37), (53, 37)))
    bias = torch.randn(53, generator=draw).to(dtype)
    for given in (None, bias):
        expected = torch.nn.functional.linear(x.double(), weight.double(), None if given is None else given.double())
        found = kernels_decoding.linear(x, weight, given)
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5 if dtype == torch.float32 else 0.2)
    turned = torch.randn(37, 53, generator=draw).t().to(dtype)  # it does not lie as C reads it
    torch.testing.assert_close(kernels_decoding.linear(x, turned).double(), x.double() @ turned.double().t(), rtol=0, atol=0.2)
