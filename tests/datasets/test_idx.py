"""MNIST's own files: what is read of two of them in a zip file, and what is wrong with them is said."""

from __future__ import annotations

import gzip
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.datasets.containers import Limits
from luthier.datasets.examples import BadRow, Labelled
from luthier.datasets.opening import Reading, opened

from .test_containers import zipped


def idx(*sizes: int, data: bytes, kind: int = 8) -> bytes:
    return struct.pack(f">BBBB{len(sizes)}I", 0, 0, kind, len(sizes), *sizes) + data


PIXELS = bytes(range(8))
IMAGES, LABELS = idx(2, 2, 2, data=PIXELS), idx(2, data=b"\x07\x01")


def read(data: bytes, tmp_path, most: int = 10**9) -> list:
    path = tmp_path / "upload"
    path.write_bytes(data)
    with path.open("rb") as source:
        found = opened(source, Reading(Limits(len(data), most), tmp_path / "scratch"))
        return [found.format, *found.records]


def refusal(data: bytes, tmp_path, most: int = 10**9) -> BadRow:
    last = read(data, tmp_path, most)[-1]
    assert isinstance(last, BadRow)
    assert last.fatal
    assert last.hint
    return last


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["as they are", "gzip"])
@pytest.mark.parametrize("turned", [False, True])
def test_images_and_labels_in_one_zip_are_labelled_images(tmp_path, pack, turned):
    members = [("train-images-idx3-ubyte", pack(IMAGES)), ("train-labels-idx1-ubyte", pack(LABELS))]
    form, *rows = read(zipped(*(members[::-1] if turned else members)), tmp_path)
    assert form == "idx"
    assert [row.row for row in rows] == [
        Labelled("7", pixels=(0, 1, 2, 3), line=1),
        Labelled("1", pixels=(4, 5, 6, 7), line=2),
    ]
    assert {row.schema_name for row in rows} == {"images"}


def test_files_beside_them_do_not_matter(tmp_path):
    members = (("README.md", b"MNIST"), ("a/images", IMAGES), ("a/labels", LABELS), ("__MACOSX/x", b""))
    assert len(read(zipped(*members), tmp_path)) == 3


BROKEN = {
    "more labels than images": (IMAGES, idx(3, data=b"\x07\x01\x02"), "2 images and 3 labels"),
    "images cut off": (IMAGES[:-1], LABELS, "images is cut off: it says 2 and holds 1"),
    "labels cut off": (IMAGES, LABELS[:-1], "labels is cut off: it says 2 and holds 1"),
    "a head cut off": (IMAGES[:9], LABELS, "head of an idx file is cut off"),
    "more than it says": (IMAGES + b"x", LABELS, "Something follows"),
    "more labels than it says": (IMAGES, LABELS + b"x", "Something follows"),
    "images twice": (IMAGES, IMAGES, "not one of images and one of labels"),
    "labels twice": (LABELS, LABELS, "not one of images and one of labels"),
    "floats": (idx(2, 2, 2, data=PIXELS * 4, kind=13), LABELS, "other numbers than unsigned bytes"),
    "something else": (IMAGES, b'{"label": 1}\n', "is not idx"),
    "no square": (idx(2, 2, 4, data=PIXELS * 2), LABELS, "2 x 4 pixels"),
    "as many pixels as a square, in one line": (idx(2, 1, 4, data=PIXELS), LABELS, "1 x 4 pixels"),
    "no pixels": (idx(2, 0, 0, data=b""), LABELS, "0 x 0 pixels"),
    "as many images as can be said": (idx(2**32 - 1, 2, 2, data=PIXELS), idx(2**32 - 1, data=b"\x07"), "is cut off"),
    "as many pixels as can be said": (
        idx(2, 2**32 - 1, 2**32 - 1, data=PIXELS),
        LABELS,
        "4,294,967,295 x 4,294,967,295 pixels",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_with_them_is_said(tmp_path, name):
    images, labels, said = BROKEN[name]
    assert said in refusal(zipped(("images", images), ("labels", labels)), tmp_path).message


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("alone", [IMAGES, LABELS])
def test_one_file_alone_says_that_there_are_two(tmp_path, pack, alone):
    bad = refusal(pack(alone), tmp_path)
    assert (bad.code, "one zip file" in bad.hint) == ("idx", True)


def test_two_other_files_are_refused_as_before(tmp_path):
    assert refusal(zipped(("a.jsonl", b"{}\n"), ("b.jsonl", b"{}\n")), tmp_path).code == "archive"


def test_a_bomb_is_refused_while_it_is_unpacked(tmp_path):
    bomb = gzip.compress(idx(2_000_000, 2, 2, data=b"\0" * 8_000_000))
    assert refusal(zipped(("i", bomb), ("l", gzip.compress(LABELS))), tmp_path).code == "idx"  # the counts differ
    labels = gzip.compress(idx(2_000_000, data=b"\0" * 2_000_000))
    assert refusal(zipped(("i", bomb), ("l", labels)), tmp_path).code == "ratio"


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=40), st.binary(max_size=40))
def test_whatever_two_files_hold_nothing_breaks(tmp_path_factory, one, other):
    folder = tmp_path_factory.mktemp("any")
    found = read(zipped(("a", b"\0\0\x08" + one), ("b", other)), folder)
    assert len(found) >= 2
