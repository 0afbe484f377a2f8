"""A classifier of texts as it was saved: an adapter and a head of classes, on a base that is loaded already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from luthier.modeling import adapter_files
from luthier.modeling.classes import class_logits
from luthier.modeling.classifiers.saving import About, corrupt, read_about
from luthier.modeling.engines import Prefer, open_engine
from luthier.modeling.load import LoadedBase
from luthier.modeling.types import TrainingEngine

_TOKENS_AT_ONCE = 4096


@dataclass(frozen=True)
class OnBase:
    """Tells how likely each class of a row of token ids is."""

    about: About
    engine: TrainingEngine
    head_CD: Tensor

    def logits(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Of rows of token ids, each cut to what it was trained on, shape (N, C)."""
        cut = [row[: self.about.max_tokens] for row in rows]
        return class_logits(self.engine, self.head_CD, cut, _TOKENS_AT_ONCE)


def load(folder: Path, base: LoadedBase, prefer: Prefer = "auto") -> OnBase:
    """A classifier as it was saved, on its base. Raises: ArtifactCorrupt for anything else."""
    about = read_about(folder)
    if about.max_tokens is None:
        raise corrupt("it does not stand on a base model")
    hidden = int(base.model.config.get_text_config().hidden_size)
    try:
        form = (len(about.classes), hidden)
        adapter, head_CD = adapter_files.load_with_head(base.linears, folder, base.device, form)
        engine = open_engine(base, adapter.shape, 0, prefer)
        engine.load_adapter(folder, head=head_CD)
    except ValueError as error:
        raise corrupt(str(error)) from None
    if not all(bool(weight.isfinite().all()) for weight in [*engine.parameters.values(), head_CD]):
        raise corrupt("it holds weights that are not numbers")
    return OnBase(about, engine, head_CD.cpu())
