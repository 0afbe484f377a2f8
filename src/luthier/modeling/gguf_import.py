"""Somebody else's adapter GGUF as PEFT's files: `python -P -m luthier.modeling.gguf_import FILE BASE-FOLDER TARGET`.

A process of its own, with little memory and time: counts and lengths in a GGUF are whatever its maker wrote, and a reader that
believes them takes all that a machine has. It prints `{"rank", "alpha"}`, or `{"refused"}` and ends with status 3.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

MEMORY_BYTES = 4 * 1024**3
SECONDS = 60
REFUSED = 3


def main(arguments: list[str]) -> int:
    """Convert, within limits."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    source, base, target = map(Path, arguments)
    from safetensors.numpy import save_file

    from luthier.modeling import gguf_adapters, gguf_header

    try:
        with source.open("rb") as file:
            gguf_header.check(file, source.stat().st_size)
        matrices, scale = gguf_adapters.read(source, base)
        rank = next(matrix.shape[0] for name, matrix in matrices.items() if ".lora_A." in name)
        save_file({f"base_model.model.{name}": matrix for name, matrix in matrices.items()}, target)
    except Exception as error:  # noqa: BLE001  # a hostile file breaks the reader in every way there is: all of them mean no
        print(json.dumps({"refused": f"{type(error).__name__}"}))  # noqa: T201  # what its caller reads
        return REFUSED
    print(json.dumps({"rank": rank, "alpha": scale * rank}))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
