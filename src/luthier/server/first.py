"""The first start on a data folder: one admin, whose key lies in a file that nobody else can read."""

from __future__ import annotations

import os
from pathlib import Path

from luthier import ids
from luthier.wiring import Platform


def first_start(platform: Platform) -> None:
    """On an empty database make the admin and write `admin.key`, mode 0600. Does nothing later.

    Where folders of exactly one team lie here the database was lost: then that team gets its admin back.
    """
    teams = _teams(platform.settings.data)
    key = platform.accounts.first_start(tenant_id=teams[0] if len(teams) == 1 else None)
    if key is not None:
        write_key(platform.settings.key_path, key)


def write_key(path: Path, key: str) -> None:
    """A key into a file that nobody else can read, in place of what was there."""
    # Written beside and renamed: a moment in which others could read it, or half of it, would be one too many.
    arriving = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(arriving, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(key + "\n")
    arriving.replace(path)


def _teams(data: Path) -> list[str]:
    return [path.name for path in sorted(data.glob("users/*")) if path.is_dir() and ids.is_id(path.name, ids.TENANT)]
