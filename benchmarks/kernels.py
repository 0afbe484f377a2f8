"""How much the kernels in C gain over torch, one by one, at the sizes of a small model in training.

    python benchmarks/kernels.py [--rounds 15] [--threads 1 2]

2,048 tokens in 8 rows, 576 wide, 1,536 inside the gated layers, 9 query heads and 3 key heads of 64. Each round times torch
and C one after the other, so that a busy machine slows both. Of the rounds' ratios the median and the middle half are
given; where others use the machine, threads wait for each other for whole slices of its time, and the fastest round of each,
with one thread, says most.
Torch's time includes fresh memory for what lies between its steps, which some machines hand out slowly.
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
from luthier.modeling.kernels import Mask

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
    """One kernel in one type. Milliseconds are those of the fastest round."""

    kernel: str
    dtype: str
    threads: int
    torch_ms: float
    native_ms: float
    ratio_of_fastest: float
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
    total, mask = torch.zeros(TOKENS, WIDTH).to(dtype), Mask(key=1, first=0, below=-(2**31) + 2**32 // 20)
    yield "dropped", lambda module: module.dropped(x, mask)
    yield "add_dropped", lambda module: module.add_dropped_(total, x, mask)
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
    best = min(slow for slow, _ in pairs), min(fast for _, fast in pairs)
    low, middle, high = statistics.quantiles(ratios, n=4)
    return Figure(
        kernel=kernel,
        dtype=dtype,
        threads=torch.get_num_threads(),
        torch_ms=round(best[0], 3),
        native_ms=round(best[1], 3),
        ratio_of_fastest=round(best[0] / best[1], 2),
        ratio=round(middle, 2),
        ratio_quartiles=(round(low, 2), round(high, 2)),
    )


def _milliseconds(work: Work, module: ModuleType) -> float:
    began = time.perf_counter()
    work(module)
    return (time.perf_counter() - began) * 1000


def _all(threads: int, rounds: int) -> Iterator[Figure]:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    for name, dtype in DTYPES.items():
        for kernel, work in works(dtype):
            yield measured(kernel, name, work, rounds)


def _shown(figure: Figure) -> Figure:
    print(
        f"{figure.kernel:26}{figure.dtype:6}{figure.threads:8}{figure.torch_ms:10.3f}{figure.native_ms:10.3f}"
        f"{figure.ratio_of_fastest:9.2f}{figure.ratio:9.2f}   {figure.ratio_quartiles[0]:.2f} to {figure.ratio_quartiles[1]:.2f}",
        flush=True,
    )
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    if kernels.library() is None:
        sys.exit("There is no C compiler here, so there is nothing to compare.")
    load = psutil.getloadavg()[0]
    print(f"{'kernel':26}{'type':6}{'threads':>8}{'torch ms':>10}{'C ms':>10}{'fastest':>9}{'median':>9}   middle half")
    figures = [_shown(figure) for threads in options.threads for figure in _all(threads, options.rounds)]
    record = {
        "rounds": options.rounds,
        "machine": f"{platform.machine()}-{psutil.cpu_count()}cpu",
        "load_before": round(load, 1),
        "torch": torch.__version__,
        "figures": [asdict(figure) for figure in figures],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "kernels.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
