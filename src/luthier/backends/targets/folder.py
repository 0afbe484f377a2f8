"""A folder in serverless-llm's layout: `models/<name>.gguf`, and an entry for it in `config/models.json`."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from luthier.seams import Deployable, Done, NotDeployed

MODELS, CONFIG = "models", "config/models.json"
_MOST_CONFIG_BYTES = 4 * 1024 * 1024


class FolderTarget:
    """Implements `seams.DeployTarget`. The folder must be there: one that is not mounted is not quietly made."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()

    def deploy(self, model: Deployable) -> Done:
        """See `seams.DeployTarget`. File before entry: who reads the entry finds the file."""
        with self._lock:
            if not self._folder.is_dir():
                raise NotDeployed("its folder is missing")
            return put(self._folder, model)


def put(folder: Path, model: Deployable) -> Done:
    """Write file and entry, each whole or not at all. Raises: NotDeployed."""
    config = _read(folder)
    path = f"{MODELS}/{model.file_name}"
    entry = {"name": model.name, "path": path, **model.about}
    entries = _entries_beside(config, entry)
    try:
        if _entry_of(config, model.name) != entry or not (folder / path).is_file():
            _replaced(folder / path, model)
            text = json.dumps({**config, "models": [*entries, entry]}, indent=2, ensure_ascii=False) + "\n"
            _written(folder / CONFIG, text)
    except OSError as error:
        raise NotDeployed(f"its files cannot be written ({error.strerror})") from None
    return Done(path)


def _read(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    for part in (folder / MODELS, path.parent, path):
        if part.is_symlink():
            raise NotDeployed(f"its `{part.relative_to(folder)}` is a link, and may lead anywhere")
    try:
        if path.stat().st_size > _MOST_CONFIG_BYTES:
            raise NotDeployed(f"its {CONFIG} is too large")
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {"models": []}
    except (OSError, ValueError, RecursionError):
        raise NotDeployed(f"its {CONFIG} cannot be read") from None
    if not isinstance(found, dict) or not isinstance(cast(dict[str, Any], found).setdefault("models", []), list):
        raise NotDeployed(f"its {CONFIG} has no list `models`")
    return cast(dict[str, Any], found)


def _entry_of(config: Mapping[str, Any], name: str) -> Any:
    return next((entry for entry in config["models"] if isinstance(entry, dict) and entry.get("name") == name), None)


def _entries_beside(config: Mapping[str, Any], new: Mapping[str, Any]) -> list[Any]:
    """All entries but the one that gives way. Raises: NotDeployed where that belongs to somebody else."""
    kept: list[Any] = []
    for entry in config["models"]:
        known: Mapping[str, Any] = cast(Mapping[str, Any], entry) if isinstance(entry, dict) else {}
        same_name, same_path = known.get("name") == new["name"], known.get("path") == new["path"]
        if (same_name or same_path) and known.get("team", new["team"]) != new["team"]:
            raise NotDeployed("a model of another team has this name there")
        if same_path and not same_name:
            raise NotDeployed("another model's file has this name there")
        if not same_name:
            kept.append(entry)
    return kept


def _replaced(path: Path, model: Deployable) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arriving = path.with_name(f".{path.name}.arriving")
    try:
        with arriving.open("wb") as file:
            shutil.copyfileobj(model.stream, file, 1024 * 1024)
            file.flush()
            os.fsync(file.fileno())
        arriving.replace(path)
    finally:
        arriving.unlink(missing_ok=True)


def _written(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arriving = path.with_name(f".{path.name}.arriving")
    arriving.write_text(text, "utf-8")
    arriving.replace(path)
