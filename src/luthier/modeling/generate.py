"""Decoding with a key-value cache, many prompts at a time.

Prompts are padded on the left and the padding is masked, so a greedy answer does not depend on its neighbours; each
row draws from a generator of its own, so neither does a sampled one. Shapes: B rows that still go on, L tokens, V vocabulary.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from luthier.modeling.load import LoadedBase
from luthier.modeling.passes import Answering
from luthier.modeling.types import Completion, Sampling

_BATCH_ROWS = 32
_BATCH_TOKENS = 16_384
"""Bounds of one batch: rows, and rows x longest prompt. The cache grows with the second."""


@dataclass(frozen=True)
class Token:
    """The next token of a stream. The last one carries `finish_reason`, and no token where a stop id was drawn."""

    id: int | None
    finish_reason: str | None = None
    stop_id: int | None = None
    logp: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens at this place and their log-probabilities, where they were asked for."""


def generate(base: LoadedBase, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Completion]:
    """One completion a prompt, in order. The adapter is the one that `base.linears` carries now.

    Raises: ValueError for a prompt that is empty, too long or holds unknown tokens.
    """
    answers: dict[int, list[Token]] = {number: [] for number in range(len(prompts))}
    for numbers in _batches(prompts):
        rows = [Row(number, prompts[number], sampling, base) for number in numbers]
        for row, token in _decode(base, rows):
            answers[row.number].append(token)
    return [_completion(answers[number]) for number in range(len(prompts))]


def _completion(tokens: Sequence[Token]) -> Completion:
    return Completion(
        token_ids=tuple(token.id for token in tokens if token.id is not None),
        finish_reason=tokens[-1].finish_reason or "length",
        stop_id=tokens[-1].stop_id,
        logps=tuple(token.logp for token in tokens if token.logp is not None),
    )


def drawn(row: Row, logits_V: Tensor) -> tuple[Token, int]:
    """The next token of a row, and its id also where it ends the answer."""
    sampling = row.sampling
    if row.guide is not None:
        logits_V = row.guide.allowed(logits_V)
    token_id = row.pick(logits_V) if sampling.temperature > 0 else int(logits_V.argmax())
    if row.guide is not None:
        row.guide.took(token_id)
    if not sampling.logps:
        return row.take(token_id, None), token_id
    logp_V = torch.log_softmax(logits_V.float() / (sampling.temperature or 1.0), dim=0)
    best = logp_V.topk(sampling.top_logps) if sampling.top_logps else None
    top = () if best is None else tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return replace(row.take(token_id, float(logp_V[token_id])), top=top), token_id


class Guide(Protocol):
    """What may come next in an answer that has a form."""

    def allowed(self, logits_V: Tensor) -> Tensor: ...
    def took(self, token_id: int) -> None: ...


class Row:
    """One request: what it asks, and how far it is."""

    def __init__(self, number: int, prompt: Sequence[int], sampling: Sampling, base: Answering) -> None:
        if not prompt or min(prompt) < 0 or max(prompt) >= base.vocab:
            raise ValueError(f"a prompt has at least one token, and its ids lie between 0 and {base.vocab - 1}")
        if len(prompt) >= base.context:
            raise ValueError(f"the prompt has {len(prompt)} tokens; the context of this base is {base.context}")
        self.number = number
        self.prompt = prompt
        self.sampling = sampling
        self.left = min(sampling.max_new_tokens, base.context - len(prompt))
        seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
        # Python's generator: the same draws on every device.
        self._random = random.Random(f"{seed}/{number}")
        self.guide: Guide | None = None

    def pick(self, logits_V: Tensor) -> int:
        """Draw from the most likely tokens that together hold `top_p` of the probability."""
        probability_V, id_V = torch.softmax(logits_V.double() / self.sampling.temperature, dim=0), None
        kept = len(probability_V)
        if self.sampling.top_p < 1:
            probability_V, id_V = probability_V.sort(descending=True, stable=True)
            # The token that crosses top_p still counts, so there is always one.
            kept = int((probability_V.cumsum(0) - probability_V < self.sampling.top_p).sum()) or 1
        sum_V = probability_V[:kept].cumsum(0)
        drawn = self._random.random() * sum_V[-1]
        place = min(int(torch.searchsorted(sum_V, drawn, right=True)), kept - 1)
        return place if id_V is None else int(id_V[place])

    def take(self, token: int, logp: float | None) -> Token:
        self.left -= 1
        if token in self.sampling.stop_ids:
            return Token(None, "stop", token, logp)
        return Token(token, None if self.left > 0 else "length", None, logp)


def _batches(prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Numbers of prompts of similar length, longest first: if memory is short, it is short at once."""
    batch: list[int] = []
    for number in sorted(range(len(prompts)), key=lambda n: (-len(prompts[n]), n)):
        longest = len(prompts[batch[0]]) if batch else 0
        if batch and (len(batch) == _BATCH_ROWS or (len(batch) + 1) * longest > _BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _decode(base: LoadedBase, rows: list[Row]) -> Iterator[tuple[Row, Token]]:
    """Tokens of all rows as they come, each with its row."""
    for row in [row for row in rows if row.left < 1]:
        yield row, Token(None, "length")
    rows = [row for row in rows if row.left >= 1]
    if not rows:
        return
    cache = DynamicCache(config=base.model.config)
    next_BL, mask_BL = _left_padded(rows, base.device)
    while True:
        logits_BV = _next(base, next_BL, mask_BL, cache)
        ids = _picked(rows, logits_BV)
        going: list[int] = []
        for index, (row, token_id, logp) in enumerate(zip(rows, ids, _logps(rows, logits_BV, ids), strict=True)):
            token = row.take(token_id, logp)
            if token.finish_reason is None:
                going.append(index)
            yield row, token
        if not going:
            return
        next_BL = torch.tensor(ids, device=base.device)[:, None]
        if len(going) < len(rows):
            rows = [rows[index] for index in going]
            kept = torch.tensor(going, device=base.device)
            next_BL, mask_BL = next_BL[kept], mask_BL[kept]
            cache.batch_select_indices(kept)
        mask_BL = torch.cat([mask_BL, mask_BL.new_ones(len(rows), 1)], dim=1)


@torch.no_grad()
def _next(base: LoadedBase, next_BL: Tensor, mask_BL: Tensor, cache: DynamicCache) -> Tensor:
    """Logits of the next token of each row, shape (B, V)."""
    # Positions count real tokens only: a row's answer must not know how much padding it got.
    position_BL = (mask_BL.cumsum(1) - 1).clamp(min=0)[:, -next_BL.shape[1] :]
    return base.model(
        input_ids=next_BL,
        attention_mask=mask_BL,
        position_ids=position_BL,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]


def _picked(rows: list[Row], logits_BV: Tensor) -> list[int]:
    likeliest: list[int] = logits_BV.argmax(dim=1).tolist()
    return [row.pick(logits_BV[i]) if row.sampling.temperature > 0 else likeliest[i] for i, row in enumerate(rows)]


def _logps(rows: list[Row], logits_BV: Tensor, ids: list[int]) -> Sequence[float | None]:
    sampling = rows[0].sampling  # rows of one call are asked for alike
    if not sampling.logps:
        return [None] * len(rows)
    logits_BV = logits_BV.float() / (sampling.temperature or 1.0)
    logp_B: list[float] = (logits_BV[range(len(ids)), ids] - logits_BV.logsumexp(dim=1)).tolist()
    return logp_B


def _left_padded(rows: list[Row], device: torch.device) -> tuple[Tensor, Tensor]:
    longest = max(len(row.prompt) for row in rows)
    pads = [longest - len(row.prompt) for row in rows]
    ids_BL = torch.tensor([[0] * pad + list(row.prompt) for row, pad in zip(rows, pads, strict=True)], device=device)
    mask_BL = torch.tensor([[0] * pad + [1] * len(row.prompt) for row, pad in zip(rows, pads, strict=True)], device=device)
    return ids_BL, mask_BL
