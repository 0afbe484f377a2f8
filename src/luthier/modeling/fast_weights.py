"""The weights of a Llama-shaped model as the fast engine wants them: layers with the same input are one matrix.

The model's own modules keep working: their weights become views of the joined ones, so nothing is held twice. Shapes as
suffixes: O outputs of a layer, I its inputs, D the model's width, E the width of a head, L positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from luthier.modeling.int8 import Int8
from luthier.modeling.kernels import Gate
from luthier.modeling.load import LoadedBase
from luthier.modeling.products import Weight
from luthier.modeling.quantised import Int8Linear

# Blocks of these have the form below; what a config can still change is looked at one by one in `recognise`.
_MODEL_TYPES: Final = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "phi3"})
_GATES: Final[dict[str, Gate]] = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
_FIXED_ROPE: Final = frozenset({"default", "linear", "llama3"})
"""Kinds of rotary embedding whose tables do not depend on how long the rows of a batch are."""


@dataclass(frozen=True)
class Joined:
    """Linear layers with the same input as one: y (T, O) = x (T, I) W^T + b."""

    weight_OI: Weight
    bias_O: Tensor | None
    paths: tuple[str, ...]
    widths: tuple[int, ...]
    """Outputs of each layer; their sum is O."""


@dataclass(frozen=True)
class Block:
    """x + attention(norm(x)), then that + mlp(norm(that))."""

    norm_in_D: Tensor
    qkv: Joined
    norm_q_E: Tensor | None
    norm_k_E: Tensor | None
    out: Joined
    norm_mid_D: Tensor
    gate_up: Joined
    down: Joined


@dataclass(frozen=True)
class HeadShape:
    """How attention is cut into heads."""

    queries: int
    keys: int
    width: int
    scale: float

    @property
    def qkv_width(self) -> int:
        return (self.queries + 2 * self.keys) * self.width

    @property
    def group(self) -> int:
        """Query heads that share one key head."""
        return self.queries // self.keys


@dataclass(frozen=True)
class FastWeights:
    """A whole model. All norms' weights are fp32, and have the 1 added that Gemma leaves out."""

    blocks: Sequence[Block]
    embed_VD: Tensor
    embed_scale: float
    norm_D: Tensor
    head_VD: Tensor
    heads: HeadShape
    gate: Gate
    eps: float
    cos_LE: Tensor
    sin_LE: Tensor
    window: int
    """Tokens that a token sees back, itself included; 0 = all."""


def recognise(base: LoadedBase) -> FastWeights | None:
    """The model's weights, joined, or None where the model is of another form. Nothing has changed then."""
    model, config = base.model, base.model.config
    if config.model_type not in _MODEL_TYPES or not _plain_config(config):
        return None
    inner, head = model.base_model, model.get_output_embeddings()
    embed = model.get_input_embeddings()
    if type(head) is not nn.Linear or _bias(head) is not None or not isinstance(embed, nn.Embedding):
        return None
    heads = _heads(config)
    gemma = config.model_type == "gemma"
    with torch.no_grad():
        cos_LE, sin_LE = _rotary(inner, base)
        if cos_LE.shape[1] != heads.width:
            return None  # only a part of each head turns
        blocks = [
            _block(f"{_path_of(model, inner)}layers.{n}.", layer, gemma) for n, layer in enumerate(_children(inner, "layers"))
        ]
        return FastWeights(
            blocks=blocks,
            embed_VD=embed.weight,
            embed_scale=_embed_scale(config, base.dtype) if gemma else 1.0,
            norm_D=_norm(inner.get_submodule("norm"), gemma),
            head_VD=head.weight,
            heads=heads,
            gate=_GATES[_activation(config)],
            eps=float(config.rms_norm_eps),
            cos_LE=cos_LE,
            sin_LE=sin_LE,
            window=int(getattr(config, "sliding_window", None) or 0) if _slides(config) else 0,
        )


def _plain_config(config: Any) -> bool:
    """Whether nothing in it asks for more than a block of the form above does."""
    rope = getattr(config, "rope_parameters", None) or {}
    layer_types = set(getattr(config, "layer_types", None) or ["full_attention"])
    return (
        rope.get("rope_type", "default") in _FIXED_ROPE
        and len(layer_types) == 1
        and _activation(config) in _GATES
        and float(getattr(config, "attention_dropout", 0.0) or 0.0) == 0.0
        and not getattr(config, "attn_logit_softcapping", None)
        and not getattr(config, "mlp_bias", False)
    )


def _slides(config: Any) -> bool:
    layer_types = getattr(config, "layer_types", None)
    return "sliding_attention" in layer_types if layer_types else bool(getattr(config, "use_sliding_window", True))


def _activation(config: Any) -> str:
    # Gemma's config keeps an old name beside the one that counts.
    return str(getattr(config, "hidden_activation", None) or config.hidden_act)


def _embed_scale(config: Any, dtype: torch.dtype) -> float:
    # The model rounds the factor to its own type before it multiplies.
    return float(torch.tensor(config.hidden_size**0.5, dtype=dtype))


def _heads(config: Any) -> HeadShape:
    queries = int(config.num_attention_heads)
    width = int(getattr(config, "head_dim", None) or config.hidden_size // queries)
    keys = int(getattr(config, "num_key_value_heads", None) or queries)
    return HeadShape(queries, keys, width, width**-0.5)


def _rotary(inner: nn.Module, base: LoadedBase) -> tuple[Tensor, Tensor]:
    """The model's own tables for all positions, fp32, shape (L, E)."""
    places_1L = torch.arange(base.context, device=base.device)[None]
    rotary: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = inner.get_submodule("rotary_emb")
    cos_1LE, sin_1LE = rotary(torch.zeros(1, device=base.device), places_1L)
    return cos_1LE[0].contiguous(), sin_1LE[0].contiguous()


def _block(path: str, layer: nn.Module, gemma: bool) -> Block:
    attention, mlp = layer.get_submodule("self_attn"), layer.get_submodule("mlp")
    qkv = ["qkv_proj"] if hasattr(attention, "qkv_proj") else ["q_proj", "k_proj", "v_proj"]
    gate_up = ["gate_up_proj"] if hasattr(mlp, "gate_up_proj") else ["gate_proj", "up_proj"]
    return Block(
        norm_in_D=_norm(layer.get_submodule("input_layernorm"), gemma),
        qkv=_joined(f"{path}self_attn.", attention, qkv),
        norm_q_E=_norm(attention.get_submodule("q_norm"), gemma) if hasattr(attention, "q_norm") else None,
        norm_k_E=_norm(attention.get_submodule("k_norm"), gemma) if hasattr(attention, "k_norm") else None,
        out=_joined(f"{path}self_attn.", attention, ["o_proj"]),
        norm_mid_D=_norm(layer.get_submodule("post_attention_layernorm"), gemma),
        gate_up=_joined(f"{path}mlp.", mlp, gate_up),
        down=_joined(f"{path}mlp.", mlp, ["down_proj"]),
    )


def _joined(path: str, parent: nn.Module, names: Sequence[str]) -> Joined:
    """The named layers as one; they become views of it."""
    layers = [parent.get_submodule(name) for name in names]
    widths = tuple(int(getattr(layer, "out_features")) for layer in layers)  # noqa: B009  # nn.Module's attributes are untyped
    paths = tuple(f"{path}{name}" for name in names)
    biases = [bias for layer in layers if (bias := _bias(layer)) is not None]
    bias_O = torch.cat(biases) if biases else None
    if isinstance(layers[0], Int8Linear):
        return Joined(Int8(_stacked(layers, "q_OI"), _stacked(layers, "s_O")), bias_O, paths, widths)
    return Joined(_stacked(layers, "weight"), bias_O, paths, widths)


def _stacked(layers: Sequence[nn.Module], name: str) -> Tensor:
    """The tensor of that name of all layers, one below the other."""
    parts: list[Tensor] = [getattr(layer, name).detach() for layer in layers]
    if len(parts) == 1:
        return parts[0]
    whole = torch.cat(parts)
    for layer, part in zip(layers, whole.split([len(part) for part in parts]), strict=True):
        getattr(layer, name).data = part
    return whole


def _norm(norm: nn.Module, gemma: bool) -> Tensor:
    weight_D = _tensor(norm, "weight").float()
    return (weight_D + 1.0 if gemma else weight_D).contiguous()


def _bias(layer: nn.Module) -> Tensor | None:
    return layer.get_parameter("bias").detach() if getattr(layer, "bias", None) is not None else None


def _tensor(module: nn.Module, name: str) -> Tensor:
    return module.get_parameter(name).detach()


def _children(module: nn.Module, name: str) -> list[nn.Module]:
    return list(module.get_submodule(name).children())


def _path_of(model: nn.Module, inner: nn.Module) -> str:
    return next(f"{path}." for path, module in model.named_modules() if module is inner)
