"""Python's garbage collector in a process that others wait for."""

from __future__ import annotations

import gc


def keep_what_is_here() -> None:
    """Look no more through what was imported, for it stays: a full collection of it holds up every answer for a tenth of a
    second, and in the middle of a transaction all who want to write. Call it when the process is ready."""
    gc.collect()
    gc.freeze()
