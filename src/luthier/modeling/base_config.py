"""What a base's `config.json` may not ask for. No torch here: a fetch decides this before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from luthier.errors import BaseUnavailable, ModelNotAllowed

DENIED_KEYS = frozenset({"auto_map", "trust_remote_code", "_attn_implementation_internal", "custom_pipelines"})
"""Keys of a `config.json` that make transformers import code which came with the model, or from a hub."""

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
        keys = set(_suspects(json.loads(path.read_text("utf-8"))))
    except (ValueError, RecursionError):
        raise BaseUnavailable("config.json of this base model is not JSON.", hint="Fetch the base again.") from None
    if keys:
        raise ModelNotAllowed(
            f"This base model asks to run code of its own (`{min(keys)}` in config.json).",
            hint="Luthier loads weights, never code. Use a base whose architecture is part of transformers.",
        )


def _suspects(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in cast(list[Any], value):
            yield from _suspects(item)
    if not isinstance(value, dict):
        return
    for key, item in cast(dict[str, Any], value).items():
        # An attention implementation "user/repo" is a kernel that transformers would download and run.
        if key in DENIED_KEYS or ("attn_implementation" in key and "/" in str(item)):
            yield key
        yield from _suspects(item)
