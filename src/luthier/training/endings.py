"""Does the tuned model stop? Greedy answers to some rows must end by themselves where the rows taught an end of turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from luthier.modeling.types import Sampling
from luthier.training.batches import Row, Rows
from luthier.training.method import Engine

_LOOKED_AT = 256
_ASKED = 4
_SPARE_TOKENS = 32
_MOST_TOKENS = 512
"""An answer that has not ended by then says something only where no row's answer is as long."""


@dataclass(frozen=True)
class Endings:
    """Whether greedy answers end by themselves within `most_tokens`; None where that is not known."""

    asked: int
    most_tokens: int
    tuned: bool | None
    """At least one does. None where the rows' own answers may be longer than `most_tokens`, and none ended before."""
    base: bool | None
    """The same of the bare base; looked at only where `tuned` is false."""


@dataclass(frozen=True)
class Taught:
    """A question of the data, and the tokens of its answer, end of turn included."""

    prompt: Sequence[int]
    tokens: int


def see_endings(engine: Engine, rows: Rows, longest_answer: int, stop_ids: frozenset[int]) -> Endings | None:
    """Ask some questions of the rows. longest_answer: loss tokens of the training row with the most.

    None where the rows teach no end.
    """
    shortest_first = sorted(_taught_by(rows, stop_ids), key=lambda taught: taught.tokens)
    prompts = [taught.prompt for taught in shortest_first[:_ASKED]]
    if not prompts:
        return None
    most = min(longest_answer + _SPARE_TOKENS, _MOST_TOKENS)
    sampling = Sampling(max_new_tokens=most, stop_ids=stop_ids)
    if _any_ends(engine, prompts, sampling):
        return Endings(len(prompts), most, tuned=True, base=None)
    if longest_answer >= most:
        return Endings(len(prompts), most, tuned=None, base=None)
    with engine.adapter_off():
        base = _any_ends(engine, prompts, sampling)
    return Endings(len(prompts), most, tuned=False, base=base)


def _any_ends(engine: Engine, prompts: Sequence[Sequence[int]], sampling: Sampling) -> bool:
    return any(answer.finish_reason == "stop" for answer in engine.generate(prompts, sampling))


def _taught_by(rows: Rows, stop_ids: frozenset[int]) -> Iterator[Taught]:
    for number in islice(range(len(rows)), _LOOKED_AT):
        taught = taught_by(rows[number], stop_ids)
        if taught is not None:
            yield taught


def taught_by(row: Row, stop_ids: frozenset[int]) -> Taught | None:
    """The first question of a row; None where the row does not say how its answer ends.

    >>> taught_by(Row([7, 8, 9, 1, 7, 9], [1, 2, 4]), frozenset({1}))
    Taught(prompt=[7, 8], tokens=2)
    >>> taught_by(Row([7, 8, 9, 9], [1, 2]), frozenset({1}))
    """
    if not row.loss_at:
        return None
    first = row.loss_at[0]
    # Turns of others lie between two answers, so the first answer's positions are those without a gap.
    tokens = sum(1 for place, at in enumerate(row.loss_at) if at == first + place)
    if row.ids[first + tokens] not in stop_ids:
        return None
    return Taught(row.ids[: first + 1], tokens)
