"""What a finished attempt leaves in `results/`: the model in PEFT's format, the resolved spec, metrics, evaluation, checks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from luthier.jobs.directory import AttemptDirectory
from luthier.training.state import TrainState

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
_MOST_CURVE_POINTS = 500


def copy_tokenizer(base: Path, folder: Path) -> None:
    """Tokenizer and chat template beside the adapter: who loads it must render exactly as it was trained."""
    for name in TOKENIZER_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    config = folder / "tokenizer_config.json"
    if not (folder / "chat_template.jinja").exists() and config.exists():
        template = json.loads(config.read_text("utf-8")).get("chat_template")
        if isinstance(template, str):  # older models carry it inside
            (folder / "chat_template.jinja").write_text(template, "utf-8")


def publish_model(attempt: AttemptDirectory, folder: Path) -> None:
    """Put the files of `folder` at `results/final_model/`."""
    for path in sorted(folder.iterdir()):
        attempt.storage.put_file(attempt.name("results", "final_model", path.name), path)


def publish_json(attempt: AttemptDirectory, name: str, value: Mapping[str, Any]) -> None:
    """Write `results/<name>`."""
    data = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    attempt.storage.write(attempt.name("results", name), data.encode())


def publish_config(attempt: AttemptDirectory, resolved: Mapping[str, Any]) -> None:
    """Write `results/config.yaml`: the spec with nothing left open, itself a spec that can be run."""
    text = yaml.safe_dump(dict(resolved), sort_keys=False, allow_unicode=True)
    attempt.storage.write(attempt.name("results", "config.yaml"), text.encode())


def metrics_of(state: TrainState, steps_per_epoch: int, peak_memory_bytes: int) -> dict[str, Any]:
    """`results/metrics.json`."""
    return {
        "steps": state.step,
        "epochs": round(state.step / steps_per_epoch, 4),
        "tokens_seen": state.tokens_seen,
        "train_loss": state.loss,
        "eval_loss": state.best.eval_loss,
        "best_step": state.best.step if state.best.eval_loss is not None else None,
        "seconds": round(state.seconds, 1),
        "tokens_per_second": round(state.tokens_seen / state.train_seconds, 1) if state.train_seconds else None,
        "peak_memory_bytes": peak_memory_bytes,
        "loss_curve": thinned(state.curve, _MOST_CURVE_POINTS),
    }


def thinned(curve: list[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    """At most `most` points, evenly taken, the last one always among them.

    >>> thinned([(step, 0.0) for step in range(1, 8)], 3)
    [(1, 0.0), (4, 0.0), (7, 0.0)]
    """
    if len(curve) <= most:
        return curve
    last = len(curve) - 1
    return [curve[round(place * last / (most - 1))] for place in range(most)]
