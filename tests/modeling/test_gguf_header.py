"""What a GGUF says of itself is held to its size before a reader believes it."""

import io
import struct

import pytest

from luthier.modeling import gguf_header


def head(tensors=0, keys=0, rest=b"", version=3):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + rest


def text(value):
    return struct.pack("<Q", len(value)) + value


def key(kind, value):
    return text(b"k") + struct.pack("<I", kind) + value


def array(kind, count, *values):
    return struct.pack("<IQ", kind, count) + b"".join(values)


def check(data):
    gguf_header.check(io.BytesIO(data), len(data))


@pytest.mark.parametrize(
    "value",
    [
        key(4, bytes(4)),
        key(7, b"\1"),
        key(12, bytes(8)),
        key(8, text(b"adapter")),
        key(9, array(4, 3, bytes(12))),
        key(9, array(8, 2, text(b"a"), text(b""))),
        key(9, array(9, 2, array(4, 0), array(8, 1, text(b"b")))),
        key(9, array(5, 0)),
    ],
)
def test_what_can_be_true_is_gone_through(value):
    check(head(keys=2, rest=value + key(0, b"x")))


@pytest.mark.parametrize(
    "data",
    [
        head(tensors=2**63),
        head(keys=2**63),
        head(tensors=1, rest=bytes(23)),
        head(keys=1, rest=text(b"k")),
        head(keys=1, rest=struct.pack("<Q", 2**63) + bytes(40)),
        head(keys=1, rest=key(8, struct.pack("<Q", 2**63) + b"x")),
        head(keys=1, rest=key(9, array(4, 2**62))),
        head(keys=1, rest=key(9, array(8, 2**60, text(b"a")))),
        head(keys=1, rest=key(9, array(9, 2**60))),
        head(keys=1, rest=key(13, bytes(8))),
        head(keys=1, rest=key(9, array(9, 1, array(9, 1, array(9, 1, array(9, 1, array(9, 1, array(4, 0)))))))),
        head(version=1),
        head()[:10],
        b"GGUX" + bytes(100),
        b"",
    ],
)
def test_what_cannot_be_true_is_refused_at_once(data):
    with pytest.raises(ValueError, match=r"it |a value"):
        check(data)
