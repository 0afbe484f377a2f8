"""The turns of a trainer that is built on transformers' `Trainer`, whatever its version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback
from turns import Turns


class TakesTurns(TrainerCallback):
    """Ends a turn when the step's loss is known. Needs `logging_steps=1` and no dataloader workers."""

    def __init__(self, passes_per_step: int = 1) -> None:
        self._turns = Turns()
        self._passes = passes_per_step
        self._batches: list[tuple[int, int]] = []
        """Tokens and loss tokens of each batch that was made."""

    def on_train_begin(self, args: Any, state: Any, control: Any, *, train_dataloader: Any = None, **_: Any) -> None:
        del args, state, control
        loader = getattr(train_dataloader, "base_dataloader", train_dataloader)  # accelerate's stands around torch's
        loader.collate_fn = self._counting(loader.collate_fn)

    def on_log(self, args: Any, state: Any, control: Any, *, logs: dict[str, float], **_: Any) -> None:
        del args, control
        if "loss" in logs:
            # By number: the loader fetches ahead.
            last = state.global_step * self._passes
            tokens, loss_tokens = (sum(column) for column in zip(*self._batches[last - self._passes : last], strict=True))
            self._turns.done([float(logs["loss"])], tokens, loss_tokens)

    def _counting(self, collate: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def counted(rows: Any) -> Any:
            batch = collate(rows)
            # The first token of a batch has nothing before it that could predict it.
            self._batches.append((real_tokens(batch), int((batch["labels"][:, 1:] != -100).sum())))
            return batch

        return counted


def real_tokens(batch: Any) -> int:
    """Tokens that are not padding. Where rows are packed without padding there is no mask; a 4D mask shows each row's self."""
    mask = batch.get("attention_mask")
    if mask is None:
        return int(batch["input_ids"].numel())
    if mask.dim() == 4:  # additive, (rows, 1, to, from): what a token may see of itself is 0 unless it is padding
        return int((mask.diagonal(dim1=-2, dim2=-1) == 0).sum())
    return int((mask != 0).sum())
