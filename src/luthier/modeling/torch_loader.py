"""Bases and adapters that torch computes: what answers unless another engine was chosen."""

from __future__ import annotations

from pathlib import Path

from luthier.errors import ArtifactCorrupt
from luthier.modeling import adapter_files, kernels
from luthier.modeling.engines import why_not_fast
from luthier.modeling.fast import weights_of
from luthier.modeling.fast_passes import FastPasses
from luthier.modeling.load import Device, LoadedBase, load_base
from luthier.modeling.lora import Adapter
from luthier.modeling.passes import Passes
from luthier.modeling.plain_passes import PlainPasses


def passes_on(base: LoadedBase) -> Passes:
    """The fastest there are for this base."""
    fast = kernels.library() is not None and why_not_fast(base) is None
    weights = weights_of(base) if fast else None
    return PlainPasses(base) if weights is None else FastPasses(base, weights)


class TorchLoader:
    """Implements `passes.Loader`."""

    def __init__(self, device: Device) -> None:
        self._device: Device = device

    def base(self, folder: Path) -> LoadedBase:
        """See `passes.Loader`."""
        return load_base(folder, self._device)

    def adapter(self, base: LoadedBase, base_folder: Path, folder: Path) -> Adapter:  # noqa: ARG002  # its layers say it all
        """See `passes.Loader`."""
        try:
            adapter = adapter_files.load(base.linears, folder, base.device)
        except ValueError as error:
            raise ArtifactCorrupt(
                f"This model's adapter cannot be used: {error}.", hint="Train it again, or use another version of the model."
            ) from error
        if not adapter.is_finite:
            raise ArtifactCorrupt(
                "This model's adapter holds numbers that are not finite.", hint="Train it again with a lower learning rate."
            )
        for weight in adapter.parameters.values():
            weight.requires_grad_(False)
        return adapter

    def passes(self, base: LoadedBase) -> Passes:
        """See `passes.Loader`."""
        return passes_on(base)
