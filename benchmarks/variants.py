"""Who is measured, and in which settings of its own."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from environments import BENCH, python_of_llamafactory

PEERS = Path(__file__).parent / "peers"
Precision = Literal["bf16", "fp32"]


@dataclass(frozen=True)
class Work:
    """What every trainer is asked to do."""

    shape: str
    precision: Precision
    threads: int
    rows_per_step: int = 8
    rank: int = 16
    alpha: int = 32
    learning_rate: float = 2e-4
    seed: int = 42
    steps: int = 120

    @property
    def folder(self) -> Path:
        """Where its base and its rows are."""
        return BENCH / f"data-{self.shape}"


@dataclass(frozen=True)
class Variant:
    """One trainer in one of its settings."""

    script: str
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    own_environment: bool = False
    same_rows: bool = True
    """Whether each of its steps sees the rows that ours sees. One that packs the whole file first does not."""


def variants(precision: Precision) -> dict[str, Variant]:
    """By name. Where the precision is fp32, so is everybody's; else a default is what its makers chose."""
    bf16 = precision == "bf16"
    trl = {} if bf16 else {"bf16": False}
    trl_lean = {**trl, "gradient_checkpointing": False, "model_init_kwargs": {"dtype": "bfloat16" if bf16 else "float32"}}
    # Packs come longest rows first: only in random order is a handful of them like all.
    trl_packs = {**trl_lean, "packing": True, "max_length": 1024, "train_sampling_strategy": "random"}
    factory_lean = {"bf16": bf16, "disable_gradient_checkpointing": True}
    factory_packs = {**factory_lean, "packing": True, "neat_packing": True, "cutoff_len": 1024, "disable_shuffling": False}
    return {
        "luthier": Variant("with_luthier.py"),
        "luthier_plain": Variant("with_luthier.py", {"engine": "plain"}),
        "trl_default": Variant("with_trl.py", trl),
        "trl_lean": Variant("with_trl.py", trl_lean),
        "trl_passes_of_2": Variant("with_trl.py", {**trl_lean, "passes": 4}),
        "trl_padding_free": Variant("with_trl.py", {**trl_lean, "padding_free": True, "max_length": None}),
        "trl_packed_2": Variant("with_trl.py", {**trl_packs, "per_device_train_batch_size": 2}, same_rows=False),
        "trl_packed_1": Variant("with_trl.py", {**trl_packs, "per_device_train_batch_size": 1}, same_rows=False),
        "llamafactory_default": Variant("with_llamafactory.py", {}, own_environment=True),
        "llamafactory_lean": Variant("with_llamafactory.py", factory_lean, own_environment=True),
        "llamafactory_packed_2": Variant(
            "with_llamafactory.py", {**factory_packs, "per_device_train_batch_size": 2}, own_environment=True, same_rows=False
        ),
        "llamafactory_packed_1": Variant(
            "with_llamafactory.py", {**factory_packs, "per_device_train_batch_size": 1}, own_environment=True, same_rows=False
        ),
    }


BEST = {
    "trl_best": ("trl_lean", "trl_padding_free", "trl_passes_of_2", "trl_packed_1", "trl_packed_2"),
    "llamafactory_best": ("llamafactory_lean", "llamafactory_packed_1", "llamafactory_packed_2"),
}
"""Which of its settings is a peer's best is measured, not believed."""


def python_of(variant: Variant) -> str:
    return python_of_llamafactory() if variant.own_environment else sys.executable


def command(variant: Variant, work: Work, scratch: Path) -> list[str]:
    """How the process starts. `scratch`: an empty folder of its own."""
    given = {
        **asdict(work),
        "options": variant.options,
        "model": str(work.folder / "model"),
        "tokens": str(work.folder / "in-order-tokens.jsonl"),
        "chats": str(work.folder / "in-order-rows.jsonl"),
        "work": str(scratch),
    }
    if variant.script == "with_luthier.py":
        jobs = write_jobs(work, variant.options.get("gang", 1), scratch)
        given |= {"jobs": [str(job) for job in jobs], "bases": str(base_cache(work))}
    return [python_of(variant), str(PEERS / variant.script), json.dumps(given)]


def environment(threads: int) -> dict[str, str]:
    """The same for all. A spinning thread of one would take the others' cores: they sleep soon."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "GOMP_SPINCOUNT": "20000",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(BENCH / "huggingface"),
        "TOKENIZERS_PARALLELISM": "true",
        "CUDA_VISIBLE_DEVICES": "",
        "DISABLE_VERSION_CHECK": "1",
        "PYTHONWARNINGS": "ignore",
    }


# -- our own job directories -------------------------------------------------------------------------------------------


def write_jobs(work: Work, count: int, scratch: Path) -> list[Path]:
    """A sweep of so many learning rates over the same rows. The first is the one that all other trainers take."""
    rates = [work.learning_rate * (1 + number / 4) for number in range(count)]
    return [write_job(replace(work, learning_rate=rate), scratch / f"job-{number}") for number, rate in enumerate(rates)]


def write_job(work: Work, folder: Path) -> Path:
    """A job directory as a person would write it by hand."""
    folder.mkdir(parents=True)
    os.link(work.folder / "rows.jsonl", folder / "rows.jsonl")
    spec = {
        "base_model": f"benchmark/{work.shape}",
        "dataset": "rows.jsonl",
        "seed": work.seed,
        "train": {
            "max_steps": work.steps,
            "batch_size": work.rows_per_step,
            "learning_rate": work.learning_rate,
            "schedule": "constant",
            "precision": work.precision,
            "device": "cpu",
        },
        "lora": {"rank": work.rank, "alpha": work.alpha},
        "evaluate": {"rows": 0},
        "sources": {"dataset": source_of(folder / "rows.jsonl"), "base": base_of(work)},
    }
    (folder / "run.yaml").write_text(json.dumps(spec, indent=2), "utf-8")
    return folder


def source_of(path: Path) -> dict[str, str]:
    return {"id": "ds_rows", "url": path.resolve().as_uri(), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def base_of(work: Work) -> dict[str, str]:
    return {"id": f"benchmark/{work.shape}", "revision": "1", "url": f"hub:benchmark/{work.shape}"}


def base_cache(work: Work) -> Path:
    """A cache of bases in which this base is found already."""
    from luthier.bases.rules import folder_name

    cache = BENCH / "bases"
    place = cache / folder_name(f"benchmark/{work.shape}") / "1"
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_symlink():
        place.symlink_to((work.folder / "model").resolve(), target_is_directory=True)
    return cache


def in_order(rows: int, work: Work) -> Sequence[int]:
    """The order in which our trainer takes the rows; every other one gets them laid out so."""
    from luthier.training.batches import order_of

    return order_of(work.seed, 0, rows)
