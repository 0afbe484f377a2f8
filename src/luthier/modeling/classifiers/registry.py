"""From the name of a classifier to what builds it. An admin adds to it by installing a package with an entry point of the
group `luthier.classifiers` that names a `TorchEntry` or a `SklearnEntry`; a spec only ever names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from luthier.bases import classifiers
from luthier.errors import FieldInvalid
from luthier.modeling.classifiers import estimators, networks
from luthier.modeling.classifiers.types import Entry, Reads, SklearnEntry, TorchEntry
from luthier.values import Frozen


def entry_of(name: str) -> Entry:
    """Raises: FieldInvalid for a name that is not known, TypeError where an admin's package gives something else."""
    classifiers.source_of(name)
    if name in classifiers.BUILT_IN:
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
