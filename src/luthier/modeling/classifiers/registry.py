"""From the name of a classifier to what builds it. An admin adds to it by installing a package with an entry point of the
group `luthier.classifiers` that names a `TorchEntry` or a `SklearnEntry`; a spec only ever names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import ValidationError

from luthier.bases import classifiers
from luthier.errors import FieldInvalid
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


def entry_of(name: str) -> Entry:
    """Raises: FieldInvalid for a name that is not known, TypeError where an admin's package gives something else."""
    classifiers.source_of(name)
    if name in classifiers.BUILT_IN:
        from luthier.modeling.classifiers import estimators, networks

        return {**networks.ENTRIES, **estimators.ENTRIES}[name]
    found: Any = classifiers.added()[name].load()
    if not isinstance(found, (TorchEntry, SklearnEntry)):
        raise TypeError(f"the entry point {name} of {classifiers.GROUP} is neither a TorchEntry nor a SklearnEntry")
    return found


def options_of(entry: Entry, given: Mapping[str, Any]) -> Frozen:
    """The options of a model, with its defaults. Raises: FieldInvalid naming the first that is wrong, and those there are."""
    try:
        return entry.options.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "model"
        known = ", ".join(sorted(entry.options.model_fields)) or "none"
        raise FieldInvalid(
            f"`classifier.{name}`: {first['msg']}.", hint=f"Options of this model: {known}.", param=f"classifier.{name}"
        ) from None


def check_reads(entry: Entry, name: str, reads: Reads) -> None:
    """Raises: FieldInvalid where the model cannot learn from such rows."""
    if reads not in entry.reads:
        noun = {"images": "images", "labelled": "labelled texts"}
        wanted = " or ".join(noun[each] for each in sorted(entry.reads))
        raise FieldInvalid(
            f"{name} learns from {wanted}, and the rows are {noun[reads]}.",
            hint="Set `classifier.model` to logistic-regression or random-forest, or give another dataset.",
            param="classifier.model",
        )
