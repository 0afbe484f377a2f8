"""The PyTorch classifiers that are built in."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pydantic import Field
from torch import Tensor, nn

from luthier.errors import FieldInvalid
from luthier.modeling.classifiers.types import Shape, TorchEntry
from luthier.values import Frozen, Whole

_LEAST_SIDE = 4


class CnnOptions(Frozen):
    """Of `mnist-cnn`."""

    hidden_size: Whole = Field(default=128, ge=1, le=8192, description="Width of the layer before the classes.")


class MlpOptions(Frozen):
    """Of `mlp`."""

    hidden_size: Whole = Field(default=128, ge=1, le=8192, description="Width of each hidden layer.")
    layers: Whole = Field(default=1, ge=1, le=16, description="Hidden layers.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Share of each hidden layer that is zeroed in training.")


class _Square(nn.Module):
    """(B, pixels) -> (B, 1, side, side)."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, image_BP: Tensor) -> Tensor:
        return image_BP.unflatten(1, (1, self.side, self.side))


def mnist_cnn(options: CnnOptions, shape: Shape) -> nn.Module:
    """Two convolutions of 3 x 3, each halved by a maximum, then one hidden layer."""
    side = math.isqrt(shape.pixels)
    if side < _LEAST_SIDE:
        said = f"mnist-cnn needs images of at least {_LEAST_SIDE} x {_LEAST_SIDE} pixels."
        raise FieldInvalid(said, hint="Use mlp for smaller ones.", param="classifier.model")
    return nn.Sequential(
        _Square(side),
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (side // 4) ** 2, options.hidden_size),
        nn.ReLU(),
        nn.Linear(options.hidden_size, shape.classes),
    )


def mlp(options: MlpOptions, shape: Shape) -> nn.Module:
    """Hidden layers of one width."""
    layers: list[nn.Module] = []
    width = shape.pixels
    for _ in range(options.layers):
        layers += [nn.Linear(width, options.hidden_size), nn.ReLU(), nn.Dropout(options.dropout)]
        width = options.hidden_size
    return nn.Sequential(*layers, nn.Linear(width, shape.classes))


ENTRIES: Mapping[str, TorchEntry] = {
    "mnist-cnn": TorchEntry(mnist_cnn, CnnOptions),
    "mlp": TorchEntry(mlp, MlpOptions),
}
