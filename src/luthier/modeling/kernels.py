"""The pointwise work of the fast engine: norms, gates, rotary embedding, softmax, dropout, and the slope of a log-probability.

On a CPU it is done by kernels.c, compiled at first use; elsewhere, and where that is not possible, by torch
(`kernels_torch.py`, whose docstrings say what each function computes). All arithmetic is fp32; tensors are bf16 or fp32.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from luthier.modeling import kernels_build, kernels_torch
from luthier.modeling.kernels_torch import Bucket, Gate, Heads, Mask

_TYPES = (torch.float32, torch.bfloat16)


class _BucketStruct(ctypes.Structure):
    _fields_ = [("starts", ctypes.c_void_p), ("lengths", ctypes.c_void_p), *((name, ctypes.c_int64) for name in "nLHKE")]


_POINTER, _COUNT, _NUMBER, _FLAG = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
_BUCKET = ctypes.POINTER(_BucketStruct)
_SIGNATURES: dict[str, Sequence[Any]] = {
    "rms_norm": [*[_POINTER] * 5, _COUNT, _COUNT, _NUMBER],
    "rms_norm_backward": [*[_POINTER] * 5, _COUNT, _COUNT, _NUMBER],
    "gated": [*[_POINTER] * 2, _COUNT, _COUNT, _FLAG],
    "gated_backward": [*[_POINTER] * 4, _COUNT, _COUNT, _FLAG],
    "heads_out": [_POINTER, _BUCKET, *[_POINTER] * 5],
    "heads_back": [*[_POINTER] * 3, _BUCKET, *[_POINTER] * 3],
    "attention_out": [_POINTER, _BUCKET, _POINTER],
    "attention_in": [_POINTER, _BUCKET, _POINTER],
    "causal_softmax": [_POINTER, _COUNT, _COUNT, _NUMBER, _COUNT],
    "softmax_backward": [_POINTER, _POINTER, _COUNT, _COUNT, _NUMBER],
    "logprob_slope": [*[_POINTER] * 3, _COUNT, _COUNT],
    "attend": [*[_POINTER] * 5, *[_COUNT] * 6, _NUMBER],
    "add_low_rank": [*[_POINTER] * 4, *[_COUNT] * 3],
    "few_tokens": [*[_POINTER] * 3, *[_COUNT] * 3],
    "dropped": [*[_POINTER] * 2, *[_COUNT] * 4, ctypes.c_int32],
    "add_dropped": [*[_POINTER] * 2, *[_COUNT] * 4, ctypes.c_int32],
}


class Switch:
    """Whether kernels.c is used where it can be; tests turn it off."""

    native = True


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where there are none."""
    found = kernels_build.load()
    if found is None:
        return None
    for name, arguments in _SIGNATURES.items():
        function = getattr(found, name)
        function.argtypes = [*arguments, ctypes.c_int, ctypes.c_int]
        function.restype = None
    return found


def native(*tensors: Tensor, wide: Sequence[Tensor] = ()) -> ctypes.CDLL | None:
    """The library, if it can take these tensors: whole in memory, all of one type, and those of `wide` in fp32."""
    kind = tensors[0].dtype
    if kind not in _TYPES or not Switch.native:
        return None
    whole = all(_lies_as(tensor, kind) for tensor in tensors) and all(_lies_as(tensor, torch.float32) for tensor in wide)
    return library() if whole else None


def _lies_as(tensor: Tensor, kind: torch.dtype) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype == kind and tensor.is_contiguous()


def how(tensor: Tensor) -> tuple[int, int]:
    return int(tensor.dtype == torch.bfloat16), torch.get_num_threads()


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    lib = native(x_TD, wide=(weight_D,))
    if lib is None:
        return kernels_torch.rms_norm(x_TD, weight_D, eps)
    y_TD = torch.empty_like(x_TD)
    lib.rms_norm(x_TD.data_ptr(), None, None, weight_D.data_ptr(), y_TD.data_ptr(), *x_TD.shape, eps, *how(x_TD))
    return y_TD


def add_rms_norm(x_TD: Tensor, delta_TD: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    lib = native(x_TD, delta_TD, wide=(weight_D,))
    if lib is None:
        return kernels_torch.add_rms_norm(x_TD, delta_TD, weight_D, eps)
    sum_TD, y_TD = torch.empty_like(x_TD), torch.empty_like(x_TD)
    pointers = [each.data_ptr() for each in (x_TD, delta_TD, sum_TD, weight_D, y_TD)]
    lib.rms_norm(*pointers, *x_TD.shape, eps, *how(x_TD))
    return sum_TD, y_TD


def rms_norm_backward(dy_TD: Tensor, x_TD: Tensor, weight_D: Tensor, eps: float, residual_TD: Tensor | None) -> Tensor:
    lib = native(x_TD, dy_TD, *([] if residual_TD is None else [residual_TD]), wide=(weight_D,))
    if lib is None:
        return kernels_torch.rms_norm_backward(dy_TD, x_TD, weight_D, eps, residual_TD)
    dx_TD = torch.empty_like(x_TD)
    residual = None if residual_TD is None else residual_TD.data_ptr()
    pointers = [dy_TD.data_ptr(), x_TD.data_ptr(), weight_D.data_ptr(), residual, dx_TD.data_ptr()]
    lib.rms_norm_backward(*pointers, *x_TD.shape, eps, *how(x_TD))
    return dx_TD


def gated(gate_up_TI: Tensor, gate: Gate) -> Tensor:
    lib = native(gate_up_TI)
    if lib is None:
        return kernels_torch.gated(gate_up_TI, gate)
    tokens, inner = gate_up_TI.shape[0], gate_up_TI.shape[1] // 2
    y_TI = gate_up_TI.new_empty(tokens, inner)
    lib.gated(gate_up_TI.data_ptr(), y_TI.data_ptr(), tokens, inner, int(gate == "gelu_tanh"), *how(y_TI))
    return y_TI


def gated_backward(gate_up_TI: Tensor, dy_TI: Tensor, gate: Gate) -> tuple[Tensor, Tensor]:
    lib = native(gate_up_TI, dy_TI)
    if lib is None:
        return kernels_torch.gated_backward(gate_up_TI, dy_TI, gate)
    tokens, inner = dy_TI.shape
    dgate_up_TI, y_TI = torch.empty_like(gate_up_TI), torch.empty_like(dy_TI)
    pointers = [each.data_ptr() for each in (gate_up_TI, dy_TI, dgate_up_TI, y_TI)]
    lib.gated_backward(*pointers, tokens, inner, int(gate == "gelu_tanh"), *how(y_TI))
    return dgate_up_TI, y_TI


def heads_out(qkv_TX: Tensor, bucket: Bucket, tables: tuple[Tensor, Tensor], heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
    lib = native(qkv_TX, wide=tables)
    if lib is None or bucket.longest > len(tables[0]):
        return kernels_torch.heads_out(qkv_TX, bucket, tables, heads)
    rows, length = bucket.count * heads.keys, bucket.longest
    query = qkv_TX.new_empty(rows, heads.group * length, heads.width)
    key, value = (qkv_TX.new_empty(rows, length, heads.width) for _ in range(2))
    pointers = [each.data_ptr() for each in (*tables, query, key, value)]
    lib.heads_out(qkv_TX.data_ptr(), _struct(bucket, heads), *pointers, *how(qkv_TX))
    return query, key, value


def heads_back(
    grads: tuple[Tensor, Tensor, Tensor], bucket: Bucket, tables: tuple[Tensor, Tensor], heads: Heads, dqkv_TX: Tensor
) -> None:
    lib = native(dqkv_TX, *grads, wide=tables)
    if lib is None or bucket.longest > len(tables[0]):
        kernels_torch.heads_back(grads, bucket, tables, heads, dqkv_TX)
        return
    pointers = [each.data_ptr() for each in (*tables, dqkv_TX)]
    lib.heads_back(*(each.data_ptr() for each in grads), _struct(bucket, heads), *pointers, *how(dqkv_TX))


def attention_out(answers: Tensor, bucket: Bucket, heads: Heads, out_TX: Tensor) -> None:
    lib = native(answers, out_TX)
    if lib is None:
        kernels_torch.attention_out(answers, bucket, heads, out_TX)
        return
    lib.attention_out(answers.data_ptr(), _struct(bucket, heads), out_TX.data_ptr(), *how(answers))


def attention_in(out_TX: Tensor, bucket: Bucket, heads: Heads) -> Tensor:
    lib = native(out_TX)
    if lib is None:
        return kernels_torch.attention_in(out_TX, bucket, heads)
    answers = out_TX.new_empty(bucket.count * heads.keys, heads.group * bucket.longest, heads.width)
    lib.attention_in(out_TX.data_ptr(), _struct(bucket, heads), answers.data_ptr(), *how(answers))
    return answers


def causal_softmax_(scores: Tensor, scale: float, window: int) -> None:
    lib = native(scores)
    if lib is None:
        kernels_torch.causal_softmax_(scores, scale, window)
        return
    rows, length = scores.shape[0] * scores.shape[1], scores.shape[2]
    lib.causal_softmax(scores.data_ptr(), rows, length, scale, window, *how(scores))


def softmax_backward_(probs: Tensor, dprobs: Tensor, scale: float) -> None:
    lib = native(probs, dprobs)
    if lib is None:
        kernels_torch.softmax_backward_(probs, dprobs, scale)
        return
    rows, length = probs.shape[0] * probs.shape[1], probs.shape[2]
    lib.softmax_backward(probs.data_ptr(), dprobs.data_ptr(), rows, length, scale, *how(probs))


def logprob_slope_(logits_CV: Tensor, target_C: Tensor) -> Tensor:
    lib = native(logits_CV)
    if lib is None or not _are_places(target_C, logits_CV.shape[1]):
        return kernels_torch.logprob_slope_(logits_CV, target_C)
    logp_C = torch.empty(len(target_C))
    lib.logprob_slope(logits_CV.data_ptr(), target_C.data_ptr(), logp_C.data_ptr(), *logits_CV.shape, *how(logits_CV))
    return logp_C


def dropped(x_TI: Tensor, mask: Mask) -> Tensor:
    lib = native(x_TI)
    if lib is None:
        return kernels_torch.dropped(x_TI, mask)
    y_TI = torch.empty_like(x_TI)
    lib.dropped(x_TI.data_ptr(), y_TI.data_ptr(), *x_TI.shape, mask.key, mask.first, mask.below, *how(x_TI))
    return y_TI


def add_dropped_(sum_TI: Tensor, x_TI: Tensor, mask: Mask) -> None:
    lib = native(sum_TI, x_TI)
    if lib is None:
        kernels_torch.add_dropped_(sum_TI, x_TI, mask)
        return
    lib.add_dropped(sum_TI.data_ptr(), x_TI.data_ptr(), *x_TI.shape, mask.key, mask.first, mask.below, *how(x_TI))


def _are_places(target_C: Tensor, vocabulary: int) -> bool:
    # C would write wherever a wrong number points to; torch says what is wrong with it.
    if not _lies_as(target_C, torch.int64):
        return False
    return len(target_C) == 0 or (int(target_C.min()) >= 0 and int(target_C.max()) < vocabulary)


def _struct(bucket: Bucket, heads: Heads) -> _BucketStruct:
    return _BucketStruct(
        bucket.starts.data_ptr(), bucket.lengths.data_ptr(), bucket.count, bucket.longest, heads.queries, heads.keys, heads.width
    )
