"""Matrix products of the fast engine.

On a CPU, fp32 products go through oneDNN: three times as fast as the default on processors that are not Intel's, and as
right (`benchmarks/LOG.md`). bf16 goes there by itself.
"""

from __future__ import annotations

from typing import Any, TypeAlias, cast

import torch
from torch import Tensor
from torch.nn import functional

from luthier.modeling.int8 import Int8, widened

Weight: TypeAlias = Tensor | Int8
"""A frozen matrix."""


def linear(x_TI: Tensor, weight_OI: Weight, bias_O: Tensor | None = None) -> Tensor:
    """x W^T + b, shape (T, O)."""
    if isinstance(weight_OI, Int8):
        y_TO = linear(x_TI, widened(weight_OI)).mul_(weight_OI.s_O)
        return y_TO if bias_O is None else y_TO.add_(bias_O)
    if x_TI.dtype == torch.float32 and _one_dnn is not None and x_TI.device.type == "cpu":
        return _one_dnn(x_TI, weight_OI, bias_O, "none", [], "")
    return functional.linear(x_TI, weight_OI, bias_O)


def back(dy_TO: Tensor, weight_OI: Weight) -> Tensor:
    """dy W, the gradient of `linear` with respect to x; shape (T, I)."""
    if isinstance(weight_OI, Int8):
        return back(dy_TO * weight_OI.s_O, widened(weight_OI))
    return linear(dy_TO, weight_OI.t()) if dy_TO.dtype == torch.float32 else torch.mm(dy_TO, weight_OI)


def _find_one_dnn() -> Any:
    # It has no public name: where a version of torch lacks it, the public one is right too.
    return getattr(cast(Any, torch.ops.mkldnn), "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


_one_dnn: Any = _find_one_dnn()
