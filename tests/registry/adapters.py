"""Adapters as somebody else would send them, made by hand."""

from __future__ import annotations

import io
import json
import struct
import tarfile

HIDDEN, RANK = 192, 2
"""Of the base that is shipped."""
CONFIG = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "luthier/tiny", "r": RANK, "lora_alpha": 4}
Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"


def header(tensors: dict, *, more: bytes = b"", data: bytes | None = None) -> bytes:
    text = json.dumps(tensors).encode() + more
    size = max((facts["data_offsets"][1] for facts in tensors.values() if isinstance(facts, dict)), default=0)
    return struct.pack("<Q", len(text)) + text + (bytes(size) if data is None else data)


def tensors(rank: int = RANK, dtype: str = "F32", width: int = 4) -> dict:
    size = rank * HIDDEN * width
    return {
        Q.format("A"): {"dtype": dtype, "shape": [rank, HIDDEN], "data_offsets": [0, size]},
        Q.format("B"): {"dtype": dtype, "shape": [HIDDEN, rank], "data_offsets": [size, 2 * size]},
    }


def files(weights: bytes | None = None, config: dict | None = None, **more: bytes) -> dict[str, bytes]:
    named = {"adapter_model.safetensors": header(tensors()) if weights is None else weights}
    return named | {"adapter_config.json": json.dumps(CONFIG | (config or {})).encode()} | more


def tar(members: dict[str, bytes]) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return held.getvalue()
