"""What crosses the border of the engine: packed tokens in, log-probabilities of the loss tokens (or hidden states) out,
gradients back.

Nothing here imports torch at run time, so that batches can be made and tested without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter


@dataclass(frozen=True)
class LoraShape:
    """The form of one adapter. `targets` are suffixes of linear modules, or None for all of them but the head."""

    rank: int
    alpha: int
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None
    rslora: bool = False

    @property
    def scale(self) -> float:
        """alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)


Wants = Literal["logprobs", "hidden"]


@dataclass(frozen=True)
class Packed:
    """Rows laid end to end; attention never crosses from one to the next.

    ids_T: T token ids. lengths: tokens of each row, their sum is T. loss_at_N: positions t (ascending) whose NEXT token,
    `ids_T[t + 1]`, carries loss; never a row's last position. All plain ints. temperature: logits are divided by it, so that
    answers drawn at a temperature can be judged at that one. wants: with `hidden`, what is read at those positions is the
    tokens' own last hidden states, after the final norm; then the last of a row may be among them.
    """

    ids_T: Sequence[int]
    lengths: Sequence[int]
    loss_at_N: Sequence[int]
    temperature: float = 1.0
    wants: Wants = "logprobs"


class TrainingEngine(Protocol):
    """A frozen base and one adapter. A pass (`logprobs`, `hidden`), then `backward`, once a micro-batch; the caller owns the
    optimiser."""

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The adapter's trainable fp32 weights by PEFT name without prefix, in a fixed order."""
        ...

    def logprobs(self, packed: Packed, *, training: bool) -> Tensor:
        """Natural-log probability of each loss token, shape (N,), fp32. With `training`, dropout is on and what
        `backward` needs is kept; the result is detached from the graph either way."""
        ...

    def hidden(self, packed: Packed, *, training: bool) -> Tensor:
        """For a pack that wants them: last hidden states at its positions, shape (N, D), fp32. Else as `logprobs`."""
        ...

    def backward(self, grad: Tensor) -> None:
        """Add to each parameter's `.grad` the gradient of sum(grad * what the last pass with `training` gave), of its shape."""
        ...

    def flops(self, packed: Packed) -> int:
        """Floating-point operations that learning from this pack asks for, there and back."""
        ...

    def seed(self, number: int) -> None:
        """Start the random numbers of dropout anew; the same number gives the same masks, whoever trains beside."""
        ...

    def save_memory(self) -> bool:
        """Compute blocks twice from now on, to hold less of them in between. False where that is so already."""
        ...

    def pass_over(self, packed: Packed) -> None:
        """Another process learns from this pack: dropout goes on here as if it had gone through."""
        ...

    def logits(self, ids: Sequence[int]) -> Tensor:
        """Logits of one row alone, shape (T, V), fp32, no gradient, adapter on."""
        ...

    def adapter_off(self) -> AdapterOff:
        """A context in which the bare base answers."""
        ...

    def save_adapter(self, folder: Path, *, base_model: str, revision: str, head: Tensor | None = None) -> None:
        """Write `adapter_model.safetensors` and `adapter_config.json` in PEFT's format. head: of classes, shape (C, D)."""
        ...

    def load_adapter(self, folder: Path, *, head: Tensor | None = None) -> None:
        """Replace the weights of adapter and `head` by those saved. Raises: ValueError where shapes or targets differ."""
        ...


class AdapterOff(Protocol):
    def __enter__(self) -> None: ...
    def __exit__(self, *details: object) -> None: ...


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. temperature 0 takes the most likely one."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop_ids: frozenset[int] = frozenset()
    logps: bool = False
    """Tell how likely each token was."""
    top_logps: int = 0
    """And how likely so many others were; of streams only."""


@dataclass(frozen=True)
class Completion:
    """One generated answer, without its stop token."""

    token_ids: tuple[int, ...]
    finish_reason: str  # "stop" | "length"
    stop_id: int | None = None
    logps: tuple[float, ...] = ()
    """Where they were asked for: natural-log probability of each token at the temperature it was drawn at (1 for the most
    likely), that of the stop token last."""


class Generator(Protocol):
    """Answers prompts with the model as it is now (adapter on or off)."""

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Iterable[Completion]:
        """One completion a prompt, in order; prompts are batched inside, and greedy answers do not depend on the batch."""
        ...
