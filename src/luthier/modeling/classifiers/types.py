"""What a classifier is to be built from: its entry, the shape of its task, and its options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from luthier.values import Frozen

if TYPE_CHECKING:
    from torch import nn

Reads = Literal["images", "labelled"]


class Estimator(Protocol):
    """What is used of a scikit-learn classifier."""

    def fit(self, X: Any, y: Any) -> Any: ...
    def predict_proba(self, X: Any) -> Any: ...
    def set_params(self, **params: Any) -> Any: ...


class NoOptions(Frozen):
    """A model that has none."""


@dataclass(frozen=True)
class Shape:
    """What goes in and what comes out. pixels: of an image, 0 for texts."""

    reads: Reads
    pixels: int
    classes: int


@dataclass(frozen=True)
class TorchEntry:
    """A PyTorch module: images as fp32 from 0 to 1, shape (B, pixels) -> logits, shape (B, classes)."""

    build: Callable[[Any, Shape], nn.Module]
    """Options and shape -> a module with fresh weights."""
    options: type[Frozen] = NoOptions
    reads: frozenset[Reads] = frozenset({"images"})


@dataclass(frozen=True)
class SklearnEntry:
    """A scikit-learn estimator with `predict_proba`. Images come as (N, pixels); texts as a list, so it holds a vectorizer."""

    build: Callable[[Any, Shape, int], Estimator]
    """Options, shape and seed -> an estimator that has not learned yet."""
    trusted: frozenset[str]
    """Full names of all classes of which a saved model may consist; a file with any other is not loaded."""
    options: type[Frozen] = NoOptions
    reads: frozenset[Reads] = frozenset({"images", "labelled"})
    grows: str | None = None
    """The option that a warm start raises step by step, e.g. `n_estimators`: then progress is told while it learns."""


Entry = TorchEntry | SklearnEntry
