"""Continuous batching: rows join a running batch when their prompt is read, and leave it when they end.

Rows of one batch stand on one base, each with its own adapter, sampling and limits. Prompts are read between two steps of the
others, short ones together and long ones piece by piece, so one holds up nobody. What a row answers does not depend on its
neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from luthier.modeling.generate import Row, Token, drawn
from luthier.modeling.passes import Answering, Passes

K = TypeVar("K")

_PIECE = 256
"""Tokens of prompts that are read at a time."""


@dataclass(eq=False)
class Member(Generic[K]):
    """A row of the batch: what it asks, with which adapter, and whose it is."""

    key: K
    row: Row
    adapter: Any
    """As its loader made it; None is the bare base."""
    read: int = 0
    """Tokens of its prompt that were read."""
    kept: Any = None
    """What stands for it in the passes."""
    next_id: int = 0
    """The token that it goes on with."""


class Batch(Generic[K]):
    """The rows that are answered now on one base. Not for two threads at once."""

    def __init__(self, base: Answering, passes: Passes) -> None:
        self.base = base
        self._passes = passes
        self._reading: list[Member[K]] = []
        self._members: list[Member[K]] = []

    def __len__(self) -> int:
        return len(self._reading) + len(self._members)

    def add(self, member: Member[K]) -> bool:
        """Begin with a row; its prompt is read by the steps to come. False where there is no room for it yet."""
        kept = self._passes.begin(member.adapter, member.row.prompt, member.row.left)
        if kept is None:
            return False
        member.kept, member.read = kept, kept.length
        self._reading.append(member)
        return True

    def drop(self, key: K) -> None:
        """Forget a row whose answer nobody wants any more."""
        for member in (*self._reading, *self._members):
            if member.key == key:
                self._passes.end(member.kept)
        self._reading = [member for member in self._reading if member.key != key]
        self._members = [member for member in self._members if member.key != key]

    @property
    def keys(self) -> list[K]:
        """Whose rows it has."""
        return [*(member.key for member in self._reading), *self.decodes_for]

    @property
    def reads_for(self) -> list[K]:
        """Whose prompts `read` goes on with."""
        return [member.key for member, _ in self._pieces()]

    @property
    def decodes_for(self) -> list[K]:
        """Whose answers `decode` goes on with."""
        return [member.key for member in self._members]

    @torch.no_grad()
    def read(self) -> list[tuple[K, Token]]:
        """Pieces of the prompts that wait longest; with the end of each comes its first token."""
        pieces = self._pieces()
        logits_RV = self._passes.read([member.kept for member, _ in pieces], [piece for _, piece in pieces])
        told: list[tuple[K, Token]] = []
        for (member, piece), logits_V in zip(pieces, logits_RV, strict=True):
            member.read += len(piece)
            if member.read < len(member.row.prompt):
                self._reading = [*self._reading[1:], member]  # the next prompt's turn
                continue
            token = self._drawn(member, logits_V)
            self._reading.remove(member)
            if token.finish_reason is None:
                self._members.append(member)
            told.append((member.key, token))
        return told

    def _pieces(self) -> list[tuple[Member[K], Sequence[int]]]:
        """As many whole prompts as fit, or the beginning of one."""
        pieces: list[tuple[Member[K], Sequence[int]]] = []
        left = _PIECE
        for member in self._reading:
            piece = member.row.prompt[member.read : member.read + _PIECE]
            if len(piece) > left:
                break
            pieces.append((member, piece))
            left -= len(piece)
        return pieces

    @torch.no_grad()
    def decode(self) -> list[tuple[K, Token]]:
        """One token for each row whose prompt was read."""
        members = self._members
        logits_BV = self._passes.decode([member.kept for member in members], [member.next_id for member in members])
        tokens = [self._drawn(member, logits_V) for member, logits_V in zip(members, logits_BV, strict=True)]
        told = list(zip(members, tokens, strict=True))
        self._members = [member for member, token in told if token.finish_reason is None]
        return [(member.key, token) for member, token in told]

    def _drawn(self, member: Member[K], logits_V: Tensor) -> Token:
        """The next token of a row; its place is given back with the last one."""
        token, member.next_id = drawn(member.row, logits_V)
        if token.finish_reason is not None:
            self._passes.end(member.kept)
        return token
