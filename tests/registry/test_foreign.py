"""Adapters made elsewhere: what is refused before anything is loaded, and what becomes a version. (M07 to M12)"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
from pathlib import Path

import pytest

from luthier.bases.rules import DENIED_KEYS
from luthier.errors import FieldInvalid, ModelNotAllowed
from luthier.registry.arrivals import Arrivals, Arriving
from luthier.registry.foreign import is_finite
from luthier.registry.types import Stage

from .adapters import HIDDEN, RANK, Q, files, header, tar, tensors


@pytest.fixture
def send(world, registry, alice, tmp_path):
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    arrivals = Arrivals(registry, world.bases, world.storage, tmp_path / "scratch", 4 * 1024 * 1024, environment)

    def send(members: dict[str, bytes] | bytes, base_model: str | None = None):
        body = members if isinstance(members, bytes) else tar(members)
        try:
            return arrivals.take(alice, Arriving("foreign", base_model), [body[:100], body[100:]])
        finally:
            assert list((tmp_path / "scratch").iterdir()) == []
            assert list(world.storage.names("users/team_alice/imports")) == []

    return send


def refused(send, members, code: str, **more) -> FieldInvalid:
    with pytest.raises(FieldInvalid) as caught:
        send(members, **more)
    assert caught.value.error_code == code, caught.value
    return caught.value


def test_an_adapter_becomes_a_version_that_was_measured_nowhere(send, registry, alice, world):
    first = send(files(config={"junk": {"deep": [1]}, "lora_alpha": 4.0}))
    assert (first.name, first.version, first.stage, first.base_model) == ("foreign", "1", Stage.NONE, "luthier/tiny")
    assert first.card.evaluation is None
    assert first.card.tags == ("imported", "lora")
    with registry.open(alice, first.id, "adapter_config.json")[1] as stream:
        kept = json.loads(stream.read())
    assert (kept["r"], kept["target_modules"], "junk" in kept) == (RANK, ["q_proj"], False)
    with registry.open(alice, first.id, "adapter_model.safetensors")[1] as stream:
        assert stream.read() == files()["adapter_model.safetensors"]
    assert send({f"folder/{name}": data for name, data in files().items()}).version == "2"


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize(
    "name", ["adapter_model.bin", "x.pt", "x.PKL", "x.joblib", "x.h5", "x.keras", "x.npy", "training_args.bin", "x.py", "x.pth"]
)
def test_a_format_that_can_run_code_is_refused_and_never_run(send, tmp_path, name):
    """M07"""
    canary = tmp_path / "ran"
    evil = pickle.dumps(Canary(canary))
    refused(send, files(**{name: evil}), "unsafe_format")
    refused(send, {name: evil, "adapter_config.json": b"{}"}, "unsafe_format")
    assert not canary.exists()
    pickle.loads(evil)  # the canary sings where it is let
    assert canary.exists()


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
BROKEN = {
    "header of 2^60 bytes": struct.pack("<Q", 2**60) + b"{}",
    "header longer than the file": struct.pack("<Q", 999) + b"{}",
    "no header": b"\0\0",
    "no JSON": struct.pack("<Q", 2) + b"{]",
    "no object": struct.pack("<Q", 2) + b"[]",
    "nested": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "a name twice": struct.pack("<Q", 14) + b'{"a":1,"a":2}}',
    "overlap": header({"a": ONE, "b": {**ONE, "data_offsets": [2, 6]}}),
    "gap": header({"a": ONE, "b": {**ONE, "data_offsets": [8, 12]}}),
    "trailing bytes": header({"a": ONE}, data=bytes(5)),
    "too few bytes": header({"a": ONE}, data=bytes(3)),
    "unknown type": header({"a": {**ONE, "dtype": "PICKLE"}}),
    "whole numbers": header({"a": {**ONE, "dtype": "I32"}}),
    "shape of another size": header({"a": {**ONE, "shape": [2]}}),
    "shape that overflows": header({"a": {**ONE, "shape": [2**40, 2**40]}}),
    "negative": header({"a": {**ONE, "shape": [-1]}}),
    "backwards": header({"a": {**ONE, "data_offsets": [4, 0]}}, data=bytes(4)),
    "true": header({"a": {**ONE, "shape": [True]}}),
    "nothing in it": header({}),
}


@pytest.mark.parametrize("weights", BROKEN.values(), ids=BROKEN.keys())
def test_a_safetensors_header_is_checked_before_anything_maps_the_file(send, weights):
    """M08"""
    refused(send, files(weights), "safetensors_invalid")


@pytest.mark.parametrize("key", sorted(DENIED_KEYS))
def test_a_config_that_asks_for_code_is_refused(send, key):
    """M09"""
    assert key in refused(send, files(config={"nested": [{key: "evil/repo"}]}), "config_key").message
    refused(send, files(**{"tokenizer_config.json": json.dumps({key: True}).encode()}), "config_key")
    refused(send, files(config={"attn_implementation": "evil/kernel"}), "config_key")


@pytest.mark.parametrize(
    "config",
    [
        {"r": 4},
        {"r": 0},
        {"r": True},
        {"r": 1e400},
        {"lora_alpha": "4"},
        {"use_dora": True},
        {"bias": "all"},
        {"peft_type": "IA3"},
        {"task_type": "SEQ_CLS"},
        {"modules_to_save": ["lm_head"]},
    ],
)
def test_an_adapter_that_is_no_plain_lora_of_its_rank_is_refused(send, config):
    """M10"""
    refused(send, files(config=config), "adapter_invalid")


def test_an_adapter_of_another_base_is_refused(send):
    """M10"""
    with pytest.raises(ModelNotAllowed):
        send(files(config={"base_model_name_or_path": "somebody/else"}))
    refused(send, files(config={"base_model_name_or_path": None}), "missing")
    assert send(files(config={"base_model_name_or_path": "/home/them/tiny"}), "luthier/tiny").version == "1"
    alone = {Q.format("A"): tensors()[Q.format("A")]}
    refused(send, files(header(alone)), "adapter_invalid")
    refused(
        send,
        files(header({name.replace("layers.0", "layers.99"): facts for name, facts in tensors().items()})),
        "adapter_invalid",
    )
    refused(send, files(header({"lm_head.weight": ONE})), "adapter_invalid")


@pytest.mark.parametrize(
    ("dtype", "width", "number"),
    [
        *(("F32", 4, struct.pack("<f", value)) for value in (float("nan"), float("inf"), -float("inf"))),
        ("F64", 8, struct.pack("<d", float("nan"))),
        ("F16", 2, b"\x00\x7e"),
        ("BF16", 2, b"\xc0\xff"),
    ],
)
def test_weights_that_are_no_numbers_are_refused(send, dtype, width, number):
    """M10"""
    named = tensors(dtype=dtype, width=width)
    size = 2 * RANK * HIDDEN * width
    assert send(files(header(named))).version == "1"
    refused(send, files(header(named, data=bytes(size - width) + number)), "not_finite")


def test_the_largest_numbers_are_numbers():
    assert is_finite(struct.pack("<2f", 3.4e38, 3.4e38), "F32")
    assert is_finite(b"\xff\x7b", "F16")
    assert is_finite(b"\x7f\x7f", "BF16")


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__()() }}",
        "{{ cycler.__init__.__globals__.os.popen('touch /tmp/x') }}",
        "{% for a in range(99999999) %}{% for b in range(99999999) %}x{% endfor %}{% endfor %}",
        "{% if",
        "{{ raise_exception('no') }}",
    ],
)
def test_a_template_that_tries_to_get_out_is_refused(send, template):
    """M11"""
    refused(send, files(**{"chat_template.jinja": template.encode()}), "template_invalid")
    inside = json.dumps({"chat_template": template}).encode()
    refused(send, files(**{"tokenizer_config.json": inside}), "template_invalid")


def test_a_foreign_template_is_looked_at_and_never_used(send, registry, alice):
    """M11"""
    model = send(files(**{"chat_template.jinja": b"{% for m in messages %}EVIL{{ m.content }}{% endfor %}"}))
    with registry.open(alice, model.id, "chat_template.jinja")[1] as stream:
        assert b"EVIL" not in stream.read()


def bomb(counts: tuple[int, int], rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, *counts) + rest


BOMBS = {
    "2^63 tensors": bomb((2**63, 0)),
    "2^63 keys": bomb((0, 2**63 - 1)),
    "a string of 2^63": bomb((0, 1), struct.pack("<Q", 2**63) + b"x"),
    "an array of 2^62": bomb((0, 1), struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 4, 2**62)),
    "no gguf": b"GGUX" + bytes(100),
    "nothing in it": bomb((0, 0)),
    "empty": b"",
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS.keys())
def test_a_gguf_with_impossible_counts_breaks_a_process_of_its_own(send, data):
    """M12"""
    refused(send, {"adapter.gguf": data}, "gguf_invalid", base_model="luthier/tiny")


def test_an_adapter_gguf_becomes_a_version(send, world, registry, alice, tmp_path):
    np = pytest.importorskip("numpy")
    gguf_adapters = pytest.importorskip("luthier.modeling.gguf_adapters")
    base = world.bases.tokenizer_folder(world.bases.get("luthier/tiny"))
    shapes = {"A": (RANK, HIDDEN), "B": (HIDDEN, RANK)}
    drawn = np.random.default_rng(0)
    made = {
        f"model.layers.1.self_attn.q_proj.lora_{letter}.weight": drawn.normal(size=shape).astype(np.float32)
        for letter, shape in shapes.items()
    }
    gguf_adapters.write(made, 2.0, base, tmp_path / "adapter.gguf", "f32")
    model = send({"adapter.gguf": (tmp_path / "adapter.gguf").read_bytes()}, base_model="luthier/tiny")
    from safetensors.numpy import load

    with registry.open(alice, model.id, "adapter_model.safetensors")[1] as stream:
        found = load(stream.read())
    assert {name: matrix.tolist() for name, matrix in found.items()} == {
        f"base_model.model.{name}": matrix.tolist() for name, matrix in made.items()
    }
    with registry.open(alice, model.id, "adapter_config.json")[1] as stream:
        assert (kept := json.loads(stream.read()))["lora_alpha"] == 4
    assert kept["r"] == RANK


def linked() -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        info = tarfile.TarInfo("adapter_config.json")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    return held.getvalue()


@pytest.mark.parametrize(
    "body", [b"", b"not a tar", linked(), tar({}), tar({f"f{n}.json": b"" for n in range(80)}), tar({"a\nb": b""})]
)
def test_a_body_that_is_no_plain_tar_is_refused(send, body):
    refused(send, body, "archive_invalid")


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"adapter_config.json": b"{}"}, "missing"),
        ({"adapter_model.safetensors": header(tensors())}, "missing"),
        (files(**{"notes.txt": b"x"}), "unknown_file"),
        (files(**{"adapter.gguf": b"x"}), "missing"),
        ({**files(), "adapter_config.json": b"[]"}, "adapter_invalid"),
        ({**files(), "adapter_config.json": b"{"}, "adapter_invalid"),
        (files(**{"tokenizer_config.json": b"["}), "template_invalid"),
    ],
)
def test_what_is_missing_or_odd_is_named(send, members, code):
    refused(send, members, code)
