"""Continuous batching: rows join a running batch when their prompt is read, and leave it when they end.

Rows of one batch stand on one base, each with its own adapter, sampling and limits. Prompts are read piece by piece between
two steps of the others, so a long one holds up nobody. What a row answers does not depend on its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from luthier.modeling import kernels
from luthier.modeling.engines import why_not_fast
from luthier.modeling.fast import weights_of
from luthier.modeling.fast_passes import FastPasses
from luthier.modeling.generate import Row, Token, drawn
from luthier.modeling.load import LoadedBase
from luthier.modeling.lora import Adapter
from luthier.modeling.passes import Passes
from luthier.modeling.plain_passes import PlainPasses

K = TypeVar("K")

_PIECE = 256
"""Tokens of a prompt that are read at a time."""


@dataclass
class Member(Generic[K]):
    """A row of the batch: what it asks, with which adapter, and whose it is."""

    key: K
    row: Row
    adapter: Adapter | None
    read: int = 0
    """Tokens of its prompt that were read."""
    kept: Any = None
    """What stands for it in the passes."""
    next_id: int = 0
    """The token that it goes on with."""


def passes_on(base: LoadedBase) -> Passes:
    """The fastest there are for this base."""
    fast = kernels.library() is not None and why_not_fast(base) is None
    weights = weights_of(base) if fast else None
    return PlainPasses(base) if weights is None else FastPasses(base, weights)


class Batch(Generic[K]):
    """The rows that are answered now on one base. Not for two threads at once."""

    def __init__(self, base: LoadedBase, passes: Passes | None = None) -> None:
        self.base = base
        self._passes = passes or passes_on(base)
        self._reading: list[Member[K]] = []
        self._members: list[Member[K]] = []

    def __len__(self) -> int:
        return len(self._reading) + len(self._members)

    def add(self, member: Member[K]) -> None:
        """Begin with a row; its prompt is read by the steps to come."""
        member.kept = self._passes.begin(member.adapter, len(member.row.prompt))
        self._reading.append(member)

    def drop(self, key: K) -> None:
        """Forget a row whose answer nobody wants any more."""
        self._reading = [member for member in self._reading if member.key != key]
        self._members = [member for member in self._members if member.key != key]

    @property
    def keys(self) -> list[K]:
        """Whose rows it has."""
        return [*(member.key for member in self._reading), *self.decodes_for]

    @property
    def reads_for(self) -> list[K]:
        """Whose prompt `read` goes on with: one, or none."""
        return [member.key for member in self._reading[:1]]

    @property
    def decodes_for(self) -> list[K]:
        """Whose answers `decode` goes on with."""
        return [member.key for member in self._members]

    @torch.no_grad()
    def read(self) -> list[tuple[K, Token]]:
        """A piece of the prompt that waits longest; with its end comes the first token."""
        member = self._reading[0]
        piece = member.row.prompt[member.read : member.read + _PIECE]
        logits_V = self._passes.read(member.kept, piece)
        member.read += len(piece)
        self._reading.pop(0)
        if member.read < len(member.row.prompt):
            self._reading.append(member)  # the next prompt's turn
            return []
        token, member.next_id = drawn(member.row, logits_V)
        if token.finish_reason is None:
            self._members.append(member)
        return [(member.key, token)]

    @torch.no_grad()
    def decode(self) -> list[tuple[K, Token]]:
        """One token for each row whose prompt was read."""
        members = self._members
        logits_BV = self._passes.decode([member.kept for member in members], [member.next_id for member in members])
        told: list[tuple[K, Token]] = []
        self._members = []
        for member, logits_V in zip(members, logits_BV, strict=True):
            token, member.next_id = drawn(member.row, logits_V)
            told.append((member.key, token))
            if token.finish_reason is None:
                self._members.append(member)
        return told
