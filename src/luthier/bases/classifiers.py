"""Which classifiers there are, by name. A name is all that a spec says: what it stands for is loaded in the trainer alone."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points, version

from luthier.errors import FieldInvalid
from luthier.values import BaseSource

GROUP = "luthier.classifiers"
BUILT_IN = ("logistic-regression", "mlp", "mnist-cnn", "random-forest")
IN_ONE_GO = frozenset({"logistic-regression", "random-forest"})
"""Those that make no optimiser steps."""


def added() -> dict[str, EntryPoint]:
    """What an admin installed besides. A built-in name means the built-in."""
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in BUILT_IN}


def source_of(name: str) -> BaseSource:
    """What stands for the base of a classifier: its name, and the version of the package that it comes from.

    Raises: FieldInvalid for a name that is not known.
    """
    if name in BUILT_IN:
        return BaseSource(id=name, revision=f"luthier {version('luthier')}", url=f"classifier:{name}")
    known = added()
    if name not in known:
        listed = ", ".join(sorted([*BUILT_IN, *known]))
        raise FieldInvalid("There is no classifier of this name.", hint=f"Known are: {listed}.", param="classifier.model")
    package = known[name].dist
    revision = f"{package.name} {package.version}" if package is not None else "unknown"
    return BaseSource(id=name, revision=revision, url=f"classifier:{name}")
