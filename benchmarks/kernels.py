"""How much the kernels in C gain over torch, one by one, at the sizes of a small model in training.

    python benchmarks/kernels.py [--rounds 15] [--threads N]

2,048 tokens in 8 rows, 576 wide, 1,536 inside the gated layers, 9 query heads and 3 key heads of 64. Each round times torch
and C one after the other, so that a busy machine slows both; a ratio is the median of the rounds' ratios, and its range is
where the middle half of them lies.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

import psutil
import torch
from torch import Tensor

from luthier.modeling import kernels, kernels_torch

RESULTS = Path(__file__).parent / "results"
TOKENS, WIDTH, INNER, ROWS, VOCABULARY, CHUNK = 2048, 576, 1536, 8, 49_152, 256
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}

Work = Callable[[ModuleType], object]


@dataclass(frozen=True)
class Heads:
    queries: int = 9
    keys: int = 3
    width: int = 64
    group: int = 3


@dataclass(frozen=True)
class Figure:
    """One kernel in one type. Milliseconds are medians."""

    kernel: str
    dtype: str
    torch_ms: float
    native_ms: float
    ratio: float
    ratio_quartiles: tuple[float, float]


def works(dtype: torch.dtype) -> Iterator[tuple[str, Work]]:
    """Each kernel as something to do with either module."""

    def numbers(*shape: int) -> Tensor:
        return torch.randn(shape).to(dtype)

    x, delta, weight = numbers(TOKENS, WIDTH), numbers(TOKENS, WIDTH), torch.ones(WIDTH)
    yield "rms_norm", lambda module: module.rms_norm(x, weight, 1e-5)
    yield "add_rms_norm", lambda module: module.add_rms_norm(x, delta, weight, 1e-5)
    yield "rms_norm_backward", lambda module: module.rms_norm_backward(delta, x, weight, 1e-5, x)
    gate_up, slope = numbers(TOKENS, 2 * INNER), numbers(TOKENS, INNER)
    for gate in ("silu", "gelu_tanh"):
        yield f"gated {gate}", lambda module, gate=gate: module.gated(gate_up, gate)
        yield f"gated_backward {gate}", lambda module, gate=gate: module.gated_backward(gate_up, slope, gate)
    yield from attention_works(numbers)
    # In place: what comes out goes in again, which costs the same.
    logits, target = numbers(CHUNK, VOCABULARY), torch.randint(0, VOCABULARY, (CHUNK,))
    yield "logprob_slope", lambda module: module.logprob_slope_(logits, target)


def attention_works(numbers: Callable[..., Tensor]) -> Iterator[tuple[str, Work]]:
    heads, length = Heads(), TOKENS // ROWS
    bucket = kernels.Bucket([row * length for row in range(ROWS)], [length] * ROWS, torch.device("cpu"))
    tables = torch.rand(length, heads.width), torch.rand(length, heads.width)
    qkv = numbers(TOKENS, (heads.queries + 2 * heads.keys) * heads.width)
    grads = kernels_torch.heads_out(qkv, bucket, tables, heads)
    yield "heads_out", lambda module: module.heads_out(qkv, bucket, tables, heads)
    yield "heads_back", lambda module: module.heads_back(grads, bucket, tables, heads, qkv)
    out = numbers(TOKENS, heads.queries * heads.width)
    yield "attention_out", lambda module: module.attention_out(grads[0], bucket, heads, out)
    yield "attention_in", lambda module: module.attention_in(out, bucket, heads)
    scores = numbers(ROWS * heads.keys, heads.group * length, length)
    probs, dprobs = scores.clone(), numbers(*scores.shape)
    kernels_torch.causal_softmax_(probs, 1.0, 0)
    yield "causal_softmax", lambda module: module.causal_softmax_(scores, 0.125, 0)
    yield "softmax_backward", lambda module: module.softmax_backward_(probs, dprobs, 0.125)


def measured(kernel: str, dtype: str, work: Work, rounds: int) -> Figure:
    pairs = [(_milliseconds(work, kernels_torch), _milliseconds(work, kernels)) for _ in range(rounds + 2)][2:]
    ratios = [slow / fast for slow, fast in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return Figure(
        kernel=kernel,
        dtype=dtype,
        torch_ms=round(statistics.median(slow for slow, _ in pairs), 3),
        native_ms=round(statistics.median(fast for _, fast in pairs), 3),
        ratio=round(middle, 2),
        ratio_quartiles=(round(low, 2), round(high, 2)),
    )


def _milliseconds(work: Work, module: ModuleType) -> float:
    began = time.perf_counter()
    work(module)
    return (time.perf_counter() - began) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    if kernels.library() is None:
        sys.exit("There is no C compiler here, so there is nothing to compare.")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    figures: list[Figure] = []
    print(f"{'kernel':26}{'type':6}{'torch ms':>10}{'C ms':>10}{'ratio':>8}   middle half")
    for name, dtype in DTYPES.items():
        for kernel, work in works(dtype):
            figure = measured(kernel, name, work, options.rounds)
            figures.append(figure)
            low, high = figure.ratio_quartiles
            print(
                f"{kernel:26}{name:6}{figure.torch_ms:10.3f}{figure.native_ms:10.3f}{figure.ratio:8.2f}   {low:.2f} to {high:.2f}",
                flush=True,
            )
    record = {
        "rounds": options.rounds,
        "threads": options.threads,
        "machine": f"{platform.machine()}-{psutil.cpu_count()}cpu",
        "load_before": psutil.getloadavg()[0],
        "torch": torch.__version__,
        "figures": [asdict(figure) for figure in figures],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "kernels.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
