"""What a base's `config.json` may not ask for. No torch here: a fetch decides this before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

from luthier.bases.rules import asks_for_code
from luthier.errors import BaseUnavailable, ModelNotAllowed

_MAX_CONFIG_BYTES = 1024 * 1024


def check_config(folder: Path, *, weights: bool = True) -> None:
    """Refuse a `config.json` that is no plain description, and with `weights` a folder without any.

    Raises: ModelNotAllowed, BaseUnavailable.
    """
    path = folder / "config.json"
    if not path.is_file() or (weights and not any(folder.glob("*.safetensors"))):
        raise BaseUnavailable(
            "The files of this base model are not on this machine.", hint="Fetch them with `luthier bases fetch <id>`."
        )
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise ModelNotAllowed(f"config.json is {path.stat().st_size} bytes; at most {_MAX_CONFIG_BYTES} are read.")
    try:
        keys = set(asks_for_code(json.loads(path.read_text("utf-8"))))
    except (ValueError, RecursionError):
        raise BaseUnavailable("config.json of this base model is not JSON.", hint="Fetch the base again.") from None
    if keys:
        raise ModelNotAllowed(
            f"This base model asks to run code of its own (`{min(keys)}` in config.json).",
            hint="Luthier loads weights, never code. Use a base whose architecture is part of transformers.",
        )
