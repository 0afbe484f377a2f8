"""What only scikit-learn's models need."""

from __future__ import annotations

from importlib.util import find_spec

from luthier.errors import BaseUnavailable


def needs_sklearn(packages: tuple[str, ...] = ("sklearn", "skops")) -> None:
    """Raises: BaseUnavailable naming what to install."""
    if any(find_spec(name) is None for name in packages):
        raise BaseUnavailable(
            "This model needs scikit-learn and skops, and they are not installed where the job runs.",
            hint='Ask your admin to run `pip install "luthier[classifiers]"` there, or choose mnist-cnn or mlp.',
            code="missing_extra",
        )
