"""How many processes make the steps of a run together. Pure; supervisor and trainer ask the same."""

from __future__ import annotations

from collections.abc import Sequence

from luthier.jobs.spec import RunSpec


def trains_in_parts(spec: RunSpec) -> bool:
    """Whether several processes may make the steps of this run together: what a step learns from must not be drawn at random
    on the way, and there must be a base that all of them hold."""
    return spec.kind == "train" and spec.method in ("sft", "dpo", "orpo", "kto")


def processes_of(specs: Sequence[RunSpec], gpus: int) -> int:
    """How many processes make the steps of these jobs: one for each GPU that they may have, for a single run that has parts.

    >>> processes_of([RunSpec(base_model="luthier/tiny", dataset="x", hardware="local-gpu")], 4)
    4
    """
    parts = len(specs) == 1 and specs[0].hardware != "local-cpu" and specs[0].train.device in ("auto", "cuda")
    return gpus if parts and trains_in_parts(specs[0]) else 1
