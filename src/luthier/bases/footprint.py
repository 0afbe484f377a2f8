"""What a pass over a base holds in memory, from the base's sizes alone: the trainer plans its passes by it, and an estimate says
what they will take. Pure."""

from __future__ import annotations

from luthier.bases.types import BaseShape

KEPT_SCORES_TO = 768
"""Rows up to this length keep their attention scores for the way back; longer ones would hold more in them than in all else."""
BF16_PAYS_FROM = 50_000_000
"""Weights from which bf16 is worth its conversions on a CPU; below, fp32 is faster and exact."""
_SCORES_PASSING = 3
"""Blocks' worth of scores that stand beside the kept ones for a moment: their slopes, and what is turned for a product."""
_INNER_PASSING = 4
"""The same for the inner layer, in twice its width."""


def numbers_per_token(shape: BaseShape, scores: int, *, recompute: bool = False) -> int:
    """Numbers that a pass with a way back holds for each of its tokens. scores: attention scores of a token and head, 0 where
    none are kept.

    >>> shape = BaseShape(hidden=2, intermediate=3, layers=10, heads=1, kv_heads=1, head_dim=2, vocab=5, context=9)
    >>> numbers_per_token(shape, 4), numbers_per_token(shape, 4, recompute=True)
    (256, 78)
    """
    kept, passing = _numbers(shape, scores)
    return passing + (kept + shape.layers * shape.hidden if recompute else shape.layers * kept)


def numbers_in_passing(shape: BaseShape, scores: int) -> int:
    """Of a pass without a way back: those of a block, and what stands beside them for a moment."""
    return sum(_numbers(shape, scores))


def _numbers(shape: BaseShape, scores: int) -> tuple[int, int]:
    """Of a token: what each block leaves for the way back, and what stands beside that for a moment."""
    heads, inner = shape.heads * shape.head_dim, 2 * shape.intermediate
    turned = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    kept = 2 * shape.hidden + heads + turned + inner + shape.heads * scores
    return kept, _INNER_PASSING * inner + _SCORES_PASSING * shape.heads * scores
