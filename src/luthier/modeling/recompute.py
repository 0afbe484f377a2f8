"""Blocks of a transformers model computed twice: the way there keeps the input of each block alone, and the way back goes
through the block again. A third more work, for a fraction of the memory; the gradients are the same."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from luthier.modeling.attention import attending

if TYPE_CHECKING:
    from luthier.modeling.load import LoadedBase


@contextmanager
def computed_twice(base: LoadedBase) -> Generator[None]:
    """What goes through the base within this, and learns, keeps little."""
    # transformers would do it in training mode only, in which the dropout of a base is on.
    blocks: list[Any] = [module for module in base.model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for block in blocks:
        block.forward = partial(_twice, base, block.forward)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _twice(base: LoadedBase, forward: Callable[..., Any], *given: Any, **named: Any) -> Any:
    # Between there and back others may use the base: the second time it must be as it was.
    adapter, drop, how = base.linears.adapter, base.linears.drop, base.model.config._attn_implementation  # pyright: ignore[reportPrivateUsage]

    @contextmanager
    def as_it_was() -> Generator[None]:
        with base.linears.carrying(adapter, drop), attending(base.model, how):
            yield

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), as_it_was()

    return checkpoint(forward, *given, use_reentrant=False, preserve_rng_state=False, context_fn=contexts, **named)
