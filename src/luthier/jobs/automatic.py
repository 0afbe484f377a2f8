"""What `auto` means: choices from the sizes of model and data alone, so that an estimate and a trainer make the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.datasets.packing import TOKENS_PER_PASS, batch_size

if TYPE_CHECKING:
    from luthier.jobs.spec import Method, RunSpec, TrainSpec

__all__ = [
    "TOKENS_PER_PASS",
    "batch_size",
    "epochs",
    "epochs_of",
    "learning_rate",
    "needs_recompute",
    "rate_of",
    "steps_of",
    "tokens_per_pass",
]

DEFAULT_EPOCHS = 3
GPU_TOKENS_PER_PASS = 16384
_MEMORY_SHARE = 0.25
_ROWS_SEEN = 1500
_MOST_EPOCHS = 10
_RATE, _RATE_WIDTH, _RATE_SLOPE = 5e-4, 2000, 0.78
_LEAST_RATE, _MOST_RATE = 5e-5, 5e-3
_SHARE_OF_RATE: dict[Method, float] = {"sft": 1.0, "orpo": 0.5, "dpo": 0.2, "kto": 0.2, "grpo": 0.2, "classifier": 1.0}


def epochs(rows: int) -> int:
    """Few rows are seen more often: about 1,500 rows in all, between one pass and ten.

    >>> [epochs(rows) for rows in (20, 400, 1000, 100_000)]
    [10, 4, 2, 1]
    """
    return max(1, min(_MOST_EPOCHS, -(-_ROWS_SEEN // rows)))


def learning_rate(hidden: int, method: Method) -> float:
    """Peak rate for an adapter on a base of this hidden width.

    The optimum for LoRA falls with the width as a power, and hardly depends on rank; coefficient and power for Llama as
    measured in https://thinkingmachines.ai/blog/lora (2025). Preference and reward methods take less of it.

    >>> [learning_rate(width, "sft") for width in (128, 576, 2048, 4096)]
    [0.0043, 0.0013, 0.00049, 0.00029]
    """
    rate = _RATE * (_RATE_WIDTH / hidden) ** _RATE_SLOPE * _SHARE_OF_RATE[method]
    return float(f"{min(_MOST_RATE, max(_LEAST_RATE, rate)):.2g}")


def rate_of(spec: RunSpec, hidden: int) -> float:
    """Peak learning rate of a run on a base of this hidden width."""
    asked = spec.train.learning_rate
    return learning_rate(hidden, spec.method) if asked == "auto" else asked


def epochs_of(train: TrainSpec, rows: int) -> int:
    """Passes over the data, where the run has no `max_steps`."""
    return epochs(rows) if train.epochs == "auto" else train.epochs or DEFAULT_EPOCHS


def steps_of(spec: RunSpec, rows: int, batch: int) -> tuple[int, int, int]:
    """Rows of an optimiser step, steps of an epoch, steps in all. batch: rows of a pass."""
    train = spec.train
    rows_per_step = min(rows, batch * train.gradient_accumulation)
    updates = spec.grpo.updates_per_batch if spec.grpo else 1
    steps_per_epoch = -(-rows // rows_per_step) * updates
    return rows_per_step, steps_per_epoch, train.max_steps or epochs_of(train, rows) * steps_per_epoch


def tokens_per_pass(bytes_per_token: int, *, on_cpu: bool, free_bytes: int) -> int:
    """How many tokens go through the model at once: a power of two from 256 on, so that small changes of free memory
    change nothing. bytes_per_token: what a pass keeps of each token for its way back.

    >>> tokens_per_pass(1_000_000, on_cpu=True, free_bytes=10_000_000_000)
    2048
    """
    most = TOKENS_PER_PASS if on_cpu else GPU_TOKENS_PER_PASS
    tokens = max(256, min(most, int(free_bytes * _MEMORY_SHARE) // bytes_per_token))
    return 1 << (tokens.bit_length() - 1)


def needs_recompute(longest_row_bytes: int, free_bytes: int) -> bool:
    """Whether the longest row, which goes alone at the least, would take more than the share of memory that passes have."""
    return longest_row_bytes > free_bytes * _MEMORY_SHARE
