"""The bases that only judge, brought beside the one that is trained."""

from __future__ import annotations

from luthier.bases.footprint import KEPT_SCORES_TO
from luthier.jobs import automatic
from luthier.modeling.engines import open_engine
from luthier.modeling.fetch import fetch_base
from luthier.modeling.types import LoraShape
from luthier.training import machine
from luthier.training.materials import judge_sources, renderer_of
from luthier.training.methods.judges import Judge
from luthier.training.reading import Data
from luthier.training.run import Run
from luthier.values import BaseSource

_NO_ADAPTER = LoraShape(rank=1, alpha=1)
"""The smallest there is; a judge answers without it."""


def seat_judges(run: Run, data: Data) -> None:
    """Load every other base that the grader asks, held as the trained one is, and give them to the method.

    Raises: BaseUnavailable, ModelNotAllowed, AttemptFailed (`rendering_differs`).
    """
    judges = {name: _judge(run, source) for name, source in judge_sources(run.spec).items()}
    for method in (data.method, data.validation):
        if method is not None and judges:
            method.seat(judges)


def _judge(run: Run, source: BaseSource) -> Judge:
    run.journal.phase("loading judge", f"Loading the base model {source.id}, which judges.")
    train = run.spec.train
    folder = fetch_base((source.id, source.revision, source.url), run.bases, run.progress)
    words = renderer_of(folder, source)
    device = machine.resolve_device(train.device)
    engine = open_engine(run.loaded.get(folder, device, train.precision, train.quantization), _NO_ADAPTER, run.spec.seed)
    context = engine.base.context
    most = automatic.tokens_per_pass(
        engine.bytes_per_token(min(context, KEPT_SCORES_TO)), on_cpu=device == "cpu", free_bytes=machine.free_bytes(device)
    )
    return Judge(engine, words, context, most)
