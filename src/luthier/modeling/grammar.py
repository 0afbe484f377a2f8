"""Answers that must be JSON, or JSON of a schema: what cannot come next is never drawn. The grammar is llguidance's."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from luthier.errors import FieldInvalid

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_MOST_SCHEMA = 64 * 1024
_BETWEEN = {"whitespace_pattern": r"\n?[ \t]{0,32}"}
"""Between the signs of JSON: at most a line's end and its indent. A model that is lost would write blanks to its limit."""


class JsonGuide:
    """What may come next in one answer. Not for two threads at once."""

    def __init__(self, tokenizer: Path, stop_ids: Collection[int], schema: str, vocab: int) -> None:
        """schema: JSON Schema as text; `{}` is any JSON. Raises: FieldInvalid."""
        self._matcher = _matcher(tokenizer, tuple(sorted(stop_ids)), schema, vocab)
        self._stop_ids = list(stop_ids)

    def allowed(self, logits_V: Tensor) -> Tensor:
        """The logits, with what must not come next at minus infinity; at the end only a stop token may."""
        self._check()
        allowed_V = torch.zeros(logits_V.shape[0], dtype=torch.bool)
        if self._matcher.is_stopped():
            allowed_V[self._stop_ids] = True
        else:
            mask = self._matcher.compute_bitmask()
            self._check()
            bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")
            size = min(len(bits), len(allowed_V))
            allowed_V[:size] = torch.from_numpy(bits[:size].astype(bool))
        return logits_V.masked_fill(~allowed_V.to(logits_V.device), float("-inf"))

    def took(self, token_id: int) -> None:
        """The next token is this one."""
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token_id)

    def _check(self) -> None:
        # One that met a limit of the grammar counts as stopped: the answer would end, and not be the JSON that was asked for.
        if self._matcher.is_error():
            raise _refused(_said(self._matcher))


def _matcher(tokenizer: Path, stop_ids: tuple[int, ...], schema: str, vocab: int) -> LLMatcher:
    from llguidance import LLMatcher

    if len(schema) > _MOST_SCHEMA:
        raise _refused(f"it has {len(schema):,} characters, and {_MOST_SCHEMA:,} are allowed")
    made = LLMatcher(_tokenizer(tokenizer, stop_ids, vocab), cast(Any, LLMatcher).grammar_from_json_schema(schema, _BETWEEN))
    if made.is_error():
        raise _refused(_said(made))
    # What grows without end shows at the first step, before the answer has begun: then it is refused, not broken off.
    made.compute_bitmask()
    if made.is_error():
        raise _refused(_said(made))
    return made


@lru_cache(maxsize=4)
def _tokenizer(file: Path, stop_ids: tuple[int, ...], vocab: int) -> LLTokenizer:
    from llguidance import LLTokenizer

    return LLTokenizer(file.read_text("utf-8"), n_vocab=vocab, eos_token=list(stop_ids) or None)


def _said(matcher: LLMatcher) -> str:
    return matcher.get_error().splitlines()[0][:200]


def _refused(why: str) -> FieldInvalid:
    return FieldInvalid(
        f"This JSON schema cannot be followed: {why}.", hint="Simplify the schema, or leave it out.", param="response_format"
    )
