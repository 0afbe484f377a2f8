"""How a base is held in fewer bits: 8 by ourselves on any device, 4 by bitsandbytes. The head and the embeddings stay whole."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import torch
from torch import Tensor, nn

from luthier.errors import BaseUnavailable
from luthier.modeling import products
from luthier.modeling.int8 import Int8, in_8_bits

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedModel

Quantization = Literal["none", "8bit", "4bit"]

_FOUR_BITS: Final = "bitsandbytes.nn.modules.Linear4bit"


class Int8Linear(nn.Module):
    """A frozen linear layer whose matrix is held in 8 bits."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        held = in_8_bits(layer.weight.detach())
        self.register_buffer("q_OI", held.q_OI)
        self.register_buffer("s_O", held.s_O)
        self.register_parameter("bias", layer.bias)

    @property
    def held(self) -> Int8:
        return Int8(self.get_buffer("q_OI"), self.get_buffer("s_O"))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name in nn.Linear
        x_TI = input.reshape(-1, self.in_features)
        y_TO = cast(Tensor, _Product.apply(x_TI, self.held, cast(Tensor | None, self.bias)))
        return y_TO.view(*input.shape[:-1], self.out_features)


class _Product(torch.autograd.Function):
    """For autograd, which would keep the widened matrix of every layer."""

    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, held: Int8, bias_O: Tensor | None) -> Tensor:
        ctx.held = held
        return products.linear(x_TI, held, bias_O)

    @staticmethod
    def backward(ctx: Any, *dy_TO: Tensor) -> tuple[Tensor, None, None]:
        return products.back(dy_TO[0], ctx.held), None, None


def put_into_8_bits(model: PreTrainedModel) -> None:
    """Replace every linear layer but the head, one after the other, so that the model is never held twice."""
    head = model.get_output_embeddings()
    for path, layer in list(model.named_modules()):
        if type(layer) is nn.Linear and layer is not head:
            parent, _, name = path.rpartition(".")
            model.get_submodule(parent).register_module(name, Int8Linear(layer))


def four_bits(compute: torch.dtype) -> BitsAndBytesConfig:
    """How QLoRA holds its base: NF4, its constants quantised too. https://arxiv.org/abs/2305.14314

    compute: type of the products; bf16 on a GPU that has it.

    Raises: BaseUnavailable where a package is missing that it takes.
    """
    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None or find_spec("accelerate") is None:
        raise BaseUnavailable(
            "A base in 4 bits needs the packages bitsandbytes and accelerate; this machine lacks one of them.",
            hint="Install them with `pip install 'luthier[quant]'`, or use `train.quantization: 8bit`, which needs neither.",
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


@cache
def is_linear(kind: type[nn.Module]) -> bool:
    """Whether layers of exactly this class multiply by a frozen matrix and add a bias: a subclass has a forward of its own
    that must not be lost."""
    return kind in (nn.Linear, Int8Linear) or f"{kind.__module__}.{kind.__qualname__}" == _FOUR_BITS
