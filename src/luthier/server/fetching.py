"""Fetching a base: torch's work, so a child process does it; here its progress is drawn."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from luthier.bases.service import Bases
from luthier.errors import BaseUnavailable
from luthier.settings import Settings, child_environment


def fetch(settings: Settings, base_id: str, *, quiet: bool = False) -> Path:
    """Have a base in the cache, and return its folder. Raises: ModelNotAllowed, BaseUnavailable."""
    bases = Bases(settings.data / "bases", settings.bases)
    source = bases.fetchable(base_id)
    command = [
        sys.executable,
        "-m",
        "luthier.modeling.fetch",
        "--id",
        source.id,
        "--revision",
        source.revision,
        "--url",
        source.url,
    ]
    command += ["--cache", str(bases.cache)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=child_environment(settings))
    last = _drawn(child, source.id, quiet=quiet)
    if child.wait() != 0:
        error = last.get("error") or {}
        message = error.get("message", f"{source.id} could not be fetched.")
        raise BaseUnavailable(message, hint=error.get("hint") or "luthier/tiny needs no hub: it is built on this machine.")
    return bases.folder(bases.get(base_id))


def _drawn(child: subprocess.Popen[str], base_id: str, *, quiet: bool) -> dict[str, Any]:
    """Draw the child's progress lines on stderr and return its last word."""
    last: dict[str, Any] = {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=quiet, transient=False) as progress:
        task = progress.add_task(base_id, total=1.0)
        for line in child.stdout or ():
            try:
                last = json.loads(line)
            except json.JSONDecodeError:
                continue
            if "error" not in last:
                progress.update(task, completed=float(last.get("progress", 1.0)))
    return last
