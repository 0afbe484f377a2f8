"""PlainEngine: a transformers model, our LoRA, autograd. It runs on every device and architecture, and is right.

The fast path packs rows (`attention.py`) and takes the head in chunks (`head.py`). Before its first use it is compared
with the model's own forward on two short rows; an architecture that does not pass goes row by row, slower and as right.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter, functional

from luthier.modeling import adapter_files, generate, lora
from luthier.modeling.attention import Rows, RowsUnsupported, attending_by_rows
from luthier.modeling.dropout import Drop, Dropout
from luthier.modeling.flops import training_flops
from luthier.modeling.head import chunk_of, head_of, tempered, token_logprobs
from luthier.modeling.load import LoadedBase
from luthier.modeling.recompute import computed_twice
from luthier.modeling.shapes import bounded
from luthier.modeling.types import Completion, LoraShape, Packed, Sampling, Wants

_SAME = 1e-3
"""Largest difference of a logit, relative to the largest, at which the fast path counts as the model's own."""
_PLAIN_LAYERS = frozenset({"full_attention", "sliding_attention"})


class PlainEngine:
    """A frozen base and one adapter; implements `types.TrainingEngine` and `types.Generator`.

    Engines may share a base: each puts its own adapter on before it computes. One thread at a time a base.
    """

    def __init__(self, base: LoadedBase, shape: LoraShape, seed: int) -> None:
        self.base = base
        self._adapter = lora.new_adapter(base.linears, shape, seed, base.device)
        self._learning = sum(weight.numel() for weight in self._adapter.parameters.values())
        self._chunk = chunk_of(base.vocab)
        self._pending: Tensor | None = None
        self._bare = False
        self._dropout = Dropout(shape.dropout)
        self.recompute = False
        """Keep only each block's input, and go through the block again on the way back: a third more work, a tenth of
        the memory. In a gang, one that wants it has it for all."""
        self._packs = _packs_right(self)

    @property
    def parameters(self) -> dict[str, Parameter]:
        return self._adapter.parameters

    def logprobs(self, packed: Packed, *, training: bool) -> Tensor:
        """See `types.TrainingEngine`. Raises: ValueError for a pack that is none."""
        check_pack(packed, self.base, "logprobs")
        drop = self._dropout.take(len(packed.ids_T)) if training else None
        self._carry(drop)
        with torch.set_grad_enabled(training), self._keeping(training):
            logprob_N = self._logprobs(packed, drop)
        self._pending = logprob_N if training else None
        return logprob_N.detach()

    def hidden(self, packed: Packed, *, training: bool) -> Tensor:
        """See `types.TrainingEngine`. Raises: ValueError for a pack that is none."""
        check_pack(packed, self.base, "hidden")
        drop = self._dropout.take(len(packed.ids_T)) if training else None
        self._carry(drop)
        with torch.set_grad_enabled(training), self._keeping(training):
            hidden_ND = self._read(packed, drop).float()
        self._pending = hidden_ND if training else None
        return hidden_ND.detach()

    def backward(self, grad: Tensor) -> None:
        """See `types.TrainingEngine`. Once for each pass with `training`. Raises: RuntimeError without one."""
        pending, self._pending = self._pending, None
        if pending is None:
            raise RuntimeError("backward follows a pass with training, once")
        if pending.requires_grad:
            torch.autograd.backward([pending], [grad.to(pending)])

    def bytes_per_token(self, longest: int) -> int:
        """About how much a pass holds for each of its tokens, where the longest row has so many."""
        del longest
        config = self.base.model.config.get_text_config()
        hidden, layers = int(getattr(config, "hidden_size", 1024)), int(getattr(config, "num_hidden_layers", 16))
        inner = int(getattr(config, "intermediate_size", None) or 4 * hidden)
        # Of every layer its activations, and the logits, in 4 bytes each: autograd keeps both types of what it casts.
        block = 16 * hidden + 5 * inner
        return 4 * ((block + layers * hidden if self.recompute else layers * block) + 4 * self.base.vocab)

    def save_memory(self) -> bool:
        """See `types.TrainingEngine`."""
        before, self.recompute = self.recompute, True
        return not before

    def flops(self, packed: Packed) -> int:
        return training_flops(self.base, self._learning, packed)

    def seed(self, number: int) -> None:
        self._dropout.seed(number)

    def pass_over(self, packed: Packed) -> None:
        self._dropout.take(len(packed.ids_T))

    @torch.no_grad()
    def logits(self, ids: Sequence[int]) -> Tensor:
        self._carry()
        ids_1T = torch.tensor([list(ids)], device=self.base.device)
        return self.base.model(input_ids=ids_1T, use_cache=False).logits[0].float()

    def adapter_off(self) -> _AdapterOff:
        """A context in which the bare base answers; it may be nested."""
        return _AdapterOff(self)

    def save_adapter(self, folder: Path, *, base_model: str, revision: str, head: Tensor | None = None) -> None:
        adapter_files.save(adapter_files.Trained(self._adapter, self.base.linears, base_model, revision, head), folder)

    @torch.no_grad()
    def load_adapter(self, folder: Path, *, head: Tensor | None = None) -> None:
        """In place: an optimiser that holds the parameters goes on with them. Raises: ValueError where shapes differ."""
        saved, saved_CD = self._saved(folder, head)
        own, read = self.parameters, saved.parameters
        if own.keys() != read.keys() or any(own[name].shape != read[name].shape for name in own):
            raise ValueError("the saved adapter has other layers or another rank than this one")
        if saved.shape.scale != self._adapter.shape.scale:
            raise ValueError("the saved adapter is scaled otherwise than this one (alpha, rank or rsLoRA differ)")
        for name, weight in own.items():
            weight.copy_(read[name])
        if head is not None and saved_CD is not None:
            head.copy_(saved_CD)

    def _saved(self, folder: Path, head: Tensor | None) -> tuple[lora.Adapter, Tensor | None]:
        linears, device = self.base.linears, self.base.device
        if head is None:
            return adapter_files.load(linears, folder, device), None
        return adapter_files.load_with_head(linears, folder, device, (head.shape[0], head.shape[1]))

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Completion]:
        """See `types.Generator`."""
        self._carry()
        return generate.generate(self.base, prompts, sampling)

    def _keeping(self, training: bool) -> AbstractContextManager[None]:
        return computed_twice(self.base) if training and self.recompute else nullcontext()

    def _carry(self, drop: Drop | None = None) -> None:
        self.base.linears.carry(None if self._bare else self._adapter, drop)

    def _logprobs(self, packed: Packed, drop: Drop | None) -> Tensor:
        if not packed.loss_at_N:
            return torch.zeros(0, device=self.base.device)
        if self._packs:
            try:
                return self._packed_logprobs(packed)
            except RowsUnsupported:  # only rows beyond a window that this architecture hides from us
                pass
        return self._row_logprobs(packed, drop)

    def _packed_logprobs(self, packed: Packed) -> Tensor:
        ids_T = torch.tensor(packed.ids_T, device=self.base.device)
        at = packed.loss_at_N
        at_N = torch.tensor([*at, *[0] * self._spare(len(at))], device=self.base.device)
        hidden_TD = self._hidden(ids_T, packed.lengths)
        head = tempered(self._head, packed.temperature)
        return token_logprobs(head, hidden_TD.index_select(0, at_N), ids_T[at_N + 1], self._chunk)[: len(at)]

    def packed_logits(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Logits of rows that go through the model together, shape (T, V), fp32. Raises: RowsUnsupported."""
        self._carry()
        ids_T = torch.tensor([token for row in rows for token in row], device=self.base.device)
        return self._head(self._hidden(ids_T, [len(row) for row in rows]))

    def _hidden(self, ids_T: Tensor, lengths: Sequence[int]) -> Tensor:
        """Last hidden states of packed rows, shape (T, D)."""
        spare, longest = self._spare(len(ids_T)), max(lengths)
        # In rows of their own, which nobody sees; none longer than the rows there are, for the base may know no more places.
        rows = Rows([*lengths, *(min(longest, spare - start) for start in range(0, spare, longest))], self.base.device)
        ids_1S = functional.pad(ids_T, (0, spare))[None]
        with attending_by_rows(self.base.model):
            output = self.base.model.base_model(input_ids=ids_1S, position_ids=rows.positions_1T, use_cache=False, rows=rows)
        return output.last_hidden_state[0, : len(ids_T)]

    def _spare(self, size: int) -> int:
        """How many more there are to be of so many tokens, so that a CPU meets few shapes (`shapes.py`)."""
        return bounded(size) - size if self.base.device.type == "cpu" else 0

    def _read(self, packed: Packed, drop: Drop | None) -> Tensor:
        """Last hidden states at the positions of a pack, in the base's own type."""
        ids_T = torch.tensor(packed.ids_T, device=self.base.device)
        at_N = torch.tensor(packed.loss_at_N, device=self.base.device, dtype=torch.long)
        if self._packs:
            try:
                return self._hidden(ids_T, packed.lengths).index_select(0, at_N)
            except RowsUnsupported:  # as in `_logprobs`
                pass
        rows: list[Tensor] = []
        start = 0
        for row_T in ids_T.split(list(packed.lengths)):
            if drop is not None:
                self._carry(drop.after(start))
            start += len(row_T)
            rows.append(self.base.model.base_model(input_ids=row_T[None], use_cache=False).last_hidden_state[0])
        return torch.cat(rows).index_select(0, at_N)

    def _row_logprobs(self, packed: Packed, drop: Drop | None) -> Tensor:
        """Each row alone through the model's own forward, head included."""
        parts: list[Tensor] = []
        start = 0
        for length in packed.lengths:
            at = [t - start for t in packed.loss_at_N if start <= t < start + length]
            ids_T = torch.tensor(packed.ids_T[start : start + length], device=self.base.device)
            if drop is not None:
                self._carry(drop.after(start))
            start += length
            if at:
                at_N = torch.tensor(at, device=self.base.device)
                logits_NV = self.base.model(input_ids=ids_T[None], use_cache=False).logits[0].index_select(0, at_N)
                head = tempered(torch.Tensor.float, packed.temperature)
                parts.append(token_logprobs(head, logits_NV, ids_T[at_N + 1], self._chunk))
        return torch.cat(parts)

    @cached_property
    def _head(self):
        return head_of(self.base.model)


def _packs_right(engine: PlainEngine) -> bool:
    """Whether packed rows give what the model itself computes; measured on the bare base."""
    base = engine.base
    config = base.model.config.get_text_config()
    if not _PLAIN_LAYERS.issuperset(getattr(config, "layer_types", None) or ()) or base.context < 8:
        return False
    rows = [[i % base.vocab for i in range(3, 8)], [i % base.vocab for i in range(11, 14)]]
    with torch.no_grad(), engine.adapter_off():
        alone_TV = torch.cat([engine.logits(row) for row in rows])
        try:
            packed_TV = engine.packed_logits(rows)
        except (RowsUnsupported, TypeError, AttributeError):
            return False
    # bf16 rounds each layer to 8 bits, and packing changes the order of sums.
    allowed = _SAME if base.dtype == torch.float32 else 0.05
    return bool((packed_TV - alone_TV).abs().max() <= allowed * alone_TV.abs().max())


class _AdapterOff:
    def __init__(self, engine: PlainEngine) -> None:
        self._engine = engine
        self._before = False

    def __enter__(self) -> None:
        self._before, self._engine._bare = self._engine._bare, True  # pyright: ignore[reportPrivateUsage]  # one unit

    def __exit__(self, *details: object) -> None:
        self._engine._bare = self._before  # pyright: ignore[reportPrivateUsage]


def check_pack(packed: Packed, base: LoadedBase, wants: Wants) -> None:
    """What would give wrong numbers in silence is refused."""
    if packed.wants != wants:
        raise ValueError(f"this pack wants {packed.wants}, not {wants}")
    if not packed.lengths or min(packed.lengths) < 1 or sum(packed.lengths) != len(packed.ids_T):
        raise ValueError("the lengths of a pack are at least 1 each and sum to its tokens")
    if max(packed.lengths) > base.context:
        raise ValueError(f"a row has {max(packed.lengths)} tokens; the context of this base is {base.context}")
    if min(packed.ids_T) < 0 or max(packed.ids_T) >= base.vocab:
        raise ValueError(f"token ids lie between 0 and {base.vocab - 1}")
    ends, end = set[int](), 0
    for length in packed.lengths:
        end += length
        ends.add(end - 1)
    at = packed.loss_at_N
    ascending = all(a < b for a, b in pairwise(at))
    last = wants == "logprobs" and not ends.isdisjoint(at)
    if at and (at[0] < 0 or at[-1] >= end or not ascending or last):
        raise ValueError("the positions of a pack ascend and lie in it; of its loss positions none is the last of its row")
