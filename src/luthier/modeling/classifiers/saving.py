"""Classifiers on disk: `classifier.json` says what it is, and the weights lie beside it, in a form whose reading runs no code.

PyTorch: `model.safetensors`. scikit-learn: `model.skops`, with the types that its registry entry trusts. What builds the model
comes from the registry, by name; a file that is not exactly what that makes is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from luthier.errors import ArtifactCorrupt, FieldInvalid
from luthier.modeling.classifiers import skops_files
from luthier.modeling.classifiers.registry import check_reads, entry_of, options_of
from luthier.modeling.classifiers.types import Estimator, Reads, Shape, SklearnEntry, TorchEntry
from luthier.values import Frozen, Option

ABOUT = "classifier.json"
TORCH_FILE = "model.safetensors"
SKLEARN_FILE = "model.skops"
Matrix: TypeAlias = NDArray[np.float32]
Inputs: TypeAlias = "Matrix | list[str]"
_ROWS_AT_ONCE = 512
_MOST_ABOUT_BYTES = 4 * 1024 * 1024


class About(Frozen):
    """`classifier.json`."""

    model_config = ConfigDict(strict=False)

    format: Literal[1] = 1
    model: str = Field(description="Name in the registry.")
    options: dict[str, Option] = Field(description="Defaults included; what is left out is not set.")
    reads: Reads
    pixels: int = Field(ge=0, le=1_000_000, description="Of an image, from 0 to 1 each; 0 for texts.")
    classes: tuple[str, ...] = Field(min_length=2, max_length=100_000, description="In the order of the answers.")
    max_tokens: int | None = Field(
        default=None, ge=1, description="Of a model on a base, whose id is `model` then: longer texts are cut."
    )

    @property
    def shape(self) -> Shape:
        return Shape(self.reads, self.pixels, len(self.classes))


class Classifier(Protocol):
    """Tells how likely each class is."""

    @property
    def about(self) -> About: ...

    def probabilities(self, inputs: Inputs) -> NDArray[np.float64]:
        """Of each class for each input, shape (N, C). Images are given from 0 to 1, shape (N, pixels)."""
        ...

    def save(self, folder: Path) -> None:
        """Write it into an empty folder."""
        ...

    @property
    def finite(self) -> bool:
        """Whether all that it learned are numbers, as far as it can be seen into."""
        ...


@dataclass(frozen=True)
class TorchClassifier:
    """A module on its device."""

    library: ClassVar[str] = "torch"
    about: About
    module: nn.Module

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @torch.no_grad()
    def probabilities(self, inputs: Inputs) -> NDArray[np.float64]:
        self.module.eval()
        images = torch.from_numpy(np.asarray(inputs, np.float32))
        logits = [self.module(part.to(self.device)).cpu().double() for part in images.split(_ROWS_AT_ONCE)]
        return torch.cat(logits).softmax(-1).numpy()

    def save(self, folder: Path) -> None:
        write_about(folder, self.about)
        save_weights(self.module, folder)

    @property
    def finite(self) -> bool:
        tensors = self.module.state_dict().values()
        return all(bool(torch.isfinite(tensor).all()) for tensor in tensors if tensor.is_floating_point())


@dataclass(frozen=True)
class SklearnClassifier:
    """An estimator that has learned."""

    library: ClassVar[str] = "scikit-learn"
    about: About
    estimator: Estimator

    def probabilities(self, inputs: Inputs) -> NDArray[np.float64]:
        return np.asarray(self.estimator.predict_proba(inputs), np.float64)

    def save(self, folder: Path) -> None:
        write_about(folder, self.about)
        skops_files.dump(self.estimator, folder / SKLEARN_FILE)

    @property
    def finite(self) -> bool:
        weights = getattr(self.estimator, "coef_", None)
        return weights is None or bool(np.isfinite(weights).all())


def save_weights(module: nn.Module, folder: Path) -> None:
    """`model.safetensors` with parameters and buffers."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}, folder / TORCH_FILE)


def load_weights(module: nn.Module, folder: Path) -> None:
    """Put saved weights in. Raises: ValueError where they are not exactly those of the module."""
    try:
        found = load_file(folder / TORCH_FILE)
    except (OSError, SafetensorError):
        raise ValueError(f"{TORCH_FILE} cannot be read") from None
    wanted = {name: (tensor.shape, tensor.dtype) for name, tensor in module.state_dict().items()}
    if {name: (tensor.shape, tensor.dtype) for name, tensor in found.items()} != wanted:
        raise ValueError(f"{TORCH_FILE} holds other weights than the model has")
    module.load_state_dict(found)


def load(folder: Path) -> Classifier:
    """A classifier as it was saved, on the CPU. Raises: ArtifactCorrupt for anything else; BaseUnavailable."""
    about = read_about(folder)
    if about.max_tokens is not None:
        raise corrupt("it stands on a base model, and is loaded with it")
    try:
        entry = entry_of(about.model)
        check_reads(entry, about.model, about.reads)
        options = options_of(entry, about.options)
        if isinstance(entry, TorchEntry):
            classifier = TorchClassifier(about, entry.build(options, about.shape))
            load_weights(classifier.module, folder)
            return classifier
    except FieldInvalid as error:
        raise corrupt(f"{ABOUT} names what the registry does not have ({error.message})") from None
    except ValueError as error:
        raise corrupt(str(error)) from None
    return SklearnClassifier(about, _load_estimator(folder, about, entry))


def _load_estimator(folder: Path, about: About, entry: SklearnEntry) -> Estimator:
    try:
        estimator: Any = skops_files.load(folder / SKLEARN_FILE, entry.trusted)
        classes = [int(place) for place in estimator.classes_]
    except (OSError, skops_files.Untrusted, AttributeError, TypeError, ValueError) as error:
        why = str(error) if isinstance(error, skops_files.Untrusted) else "it is not what the registry's entry makes"
        raise corrupt(f"{SKLEARN_FILE} is not loaded: {why}") from None
    if classes != list(range(len(about.classes))):
        raise corrupt(f"{SKLEARN_FILE} knows other classes than {ABOUT}")
    return cast(Estimator, estimator)


def write_about(folder: Path, about: About) -> None:
    """Write `classifier.json`."""
    (folder / ABOUT).write_text(about.model_dump_json(indent=2, exclude_none=True) + "\n", "utf-8")


def read_about(folder: Path) -> About:
    """What `write_about` wrote. Raises: ArtifactCorrupt."""
    try:
        path = folder / ABOUT
        if path.stat().st_size > _MOST_ABOUT_BYTES:
            raise corrupt(f"{ABOUT} is too large")
        return About.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise corrupt(f"{ABOUT} cannot be read") from None


def corrupt(what: str) -> ArtifactCorrupt:
    """The error of a saved classifier that is none."""
    return ArtifactCorrupt(f"The classifier cannot be used: {what}.", hint="Train it again.")
