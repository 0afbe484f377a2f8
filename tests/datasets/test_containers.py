"""Rows D29 to D33 of the catalogue of bad input, and what is read of what is packed."""

import gzip
import io
import stat
import struct
import tarfile
import zipfile
from contextlib import suppress

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.datasets.containers import MAX_MEMBERS, SLACK_BYTES, Limits, unpack
from luthier.datasets.examples import BadRow

from .conftest import jsonl, rows

GOOD = jsonl(*rows(40))


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


def tarred(*members: tuple[tarfile.TarInfo | str, bytes], mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def read(data: bytes, most: int = 10**9) -> tuple[bytes, tuple[str, ...]]:
    found = unpack(io.BytesIO(data), Limits(len(data), most))
    parts = []
    while part := found.stream.read(1000):
        parts.append(part)
    return b"".join(parts), found.containers


def refusal(data: bytes, most: int = 10**9) -> str:
    with pytest.raises(BadRow) as bad:
        read(data, most)
    assert bad.value.fatal
    assert bad.value.hint
    return bad.value.code


PACKED = {
    (): GOOD,
    ("gzip",): gzip.compress(GOOD),
    ("zstd",): zstd.compress(GOOD),
    ("zip",): zipped(("data.jsonl", GOOD)),
    ("tar",): tarred(("data.jsonl", GOOD)),
    ("gzip", "tar"): tarred(("data/train.jsonl", GOOD), mode="w:gz"),
    ("zstd", "tar"): zstd.compress(tarred(("data.jsonl", GOOD))),
}


@pytest.mark.parametrize("containers", PACKED, ids="-".join)
def test_what_is_packed_comes_out_as_it_was(containers):
    assert read(PACKED[containers]) == (GOOD, containers)


def test_what_stands_beside_the_data_is_left_aside():
    beside = (
        ("README.md", b"# Rows"),
        ("LICENSE", b"MIT"),
        ("__MACOSX/._data.jsonl", b"\0"),
        (".DS_Store", b"\0"),
        ("data/", b""),
    )
    assert read(zipped(*beside, ("data/rows.jsonl", GOOD)))[0] == GOOD
    assert read(tarred(*beside[:-1], ("data/rows.jsonl", GOOD)))[0] == GOOD


def test_a_large_file_comes_out_in_small_pieces():
    plenty = b"".join(b'{"text": "%d"}\n' % number for number in range(400_000))
    for data in (gzip.compress(plenty), zstd.compress(plenty), tarred(("a", plenty), mode="w:gz"), zipped(("a", plenty))):
        assert read(data)[0] == plenty
        stream = unpack(io.BytesIO(data), Limits(len(data), 10**9)).stream
        while part := stream.read():
            assert len(part) <= 2**20


BOMB = b"\0" * 50_000_000


@pytest.mark.parametrize(
    "data",
    [gzip.compress(BOMB), zstd.compress(BOMB), zipped(("a.jsonl", BOMB)), tarred(("a.jsonl", BOMB), mode="w:gz")],
    ids=["gzip", "zstd", "zip", "tar"],
)
def test_d29_a_bomb_is_refused(data):
    assert refusal(data) == "ratio"


def test_d29_the_size_of_what_is_unpacked_has_a_limit():
    for data in (gzip.compress(GOOD), zipped(("a", GOOD))):
        assert refusal(data, len(GOOD) - 1) == "unpacked_size"
        assert read(data, len(GOOD))[0] == GOOD
    assert read(gzip.compress(b"a" * SLACK_BYTES))[0] == b"a" * SLACK_BYTES


NAMES = ["../../etc/x", "/abs", "C:\\x", "a\\..\\b", "c:x", "a\nb", "x" * 1025]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_d30_names_that_lead_elsewhere(name):
    assert refusal(zipped((name, GOOD))) == "member_path"
    assert refusal(tarred((name, GOOD))) == "member_path"


def test_d30_a_name_with_nul():
    data = zipped(("aXb.jsonl", GOOD)).replace(b"aXb.jsonl", b"a\0b.jsonl")
    assert refusal(data) in {"member_path", "archive"}


def member(kind: bytes = tarfile.REGTYPE, mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo("data.jsonl")
    info.type, info.mode, info.linkname = kind, mode, "/etc/passwd"
    return info


KINDS = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]


@pytest.mark.parametrize("kind", KINDS)
def test_d31_links_and_devices(kind):
    assert refusal(tarred((member(kind), b""), ("rows.jsonl", GOOD))) == "member_type"


def test_d31_members_that_run_as_another_user_and_links_in_zips():
    assert refusal(tarred((member(mode=0o4755), GOOD))) == "member_type"
    for mode in (stat.S_IFLNK | 0o777, stat.S_IFREG | 0o4755, stat.S_IFCHR | 0o600):
        info = zipfile.ZipInfo("data.jsonl")
        info.external_attr = mode << 16
        assert refusal(zipped((info, GOOD))) == "member_type"


def test_d32_many_members_twice_the_same_name_and_none():
    many = zipped(*((f"{number}.jsonl", b"") for number in range(MAX_MEMBERS + 1)))
    assert refusal(many) == "archive"
    assert refusal(tarred(*((f".{number}", b"") for number in range(MAX_MEMBERS + 1)))) == "archive"
    with pytest.warns(UserWarning, match="Duplicate"):
        assert refusal(zipped(("a.jsonl", GOOD), ("a.jsonl", GOOD))) == "archive"
    for pack in (zipped, tarred):
        assert refusal(pack(("a.jsonl", GOOD), ("b.jsonl", GOOD))) == "archive"
        assert refusal(pack(("README.md", b"#"))) == "archive"


def test_d32_a_million_members_are_not_even_listed():
    data = bytearray(zipped(("a.jsonl", GOOD)))
    struct.pack_into("<I", data, data.rfind(b"PK\x05\x06") + 12, 100_000_000)
    assert refusal(bytes(data)) == "archive"


def test_d32_encrypted_and_overlapping():
    data = bytearray(zipped(("a.jsonl", GOOD)))
    for at in (data.find(b"PK\x03\x04") + 6, data.find(b"PK\x01\x02") + 8):
        data[at] |= 1
    assert refusal(bytes(data)) == "encrypted"
    both = bytearray(zipped(("a.jsonl", GOOD), (".b", GOOD)))
    second = both.rfind(b"PK\x01\x02")
    struct.pack_into("<I", both, second + 42, 10)
    assert refusal(bytes(both)) == "archive"
    assert refusal(zipped(("a.jsonl", GOOD), method=zipfile.ZIP_LZMA)) == "archive"


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress])
def test_d33_joined_cut_and_nested(pack):
    assert refusal(pack(GOOD) + pack(GOOD)) == "archive"
    assert refusal(pack(GOOD) + b"junk") == "archive"
    assert refusal(pack(GOOD)[:-6]) == "archive"
    assert refusal(pack(GOOD)[:40] + b"?????" + pack(GOOD)[45:]) == "archive"
    assert refusal(pack(pack(GOOD))) == "archive"
    assert refusal(zipped(("a.gz", pack(GOOD)))) == "archive"
    assert refusal(tarred(("a.gz", pack(GOOD)))) == "archive"
    assert refusal(pack(zipped(("a.jsonl", GOOD)))) == "archive"
    assert read(pack(GOOD) + b"\0" * 512)[0] == GOOD


def test_d33_archives_that_are_cut_or_changed():
    for data in (zipped(("a.jsonl", GOOD), method=zipfile.ZIP_STORED), tarred(("a.jsonl", GOOD))):
        assert refusal(data[: len(GOOD) // 2]) == "archive"
    changed = zipped(("a.jsonl", GOOD), method=zipfile.ZIP_STORED).replace(b"Question 7", b"Question 8", 1)
    assert refusal(changed) == "archive"
    assert refusal(tarred(("a.jsonl", GOOD)) + b"junk" * 40_000) == "archive"


@settings(max_examples=300, deadline=2000)
@given(st.sampled_from(list(PACKED.values())), st.lists(st.tuples(st.integers(0, 3000), st.binary(max_size=3)), max_size=4))
def test_no_packed_file_breaks_the_unpacking(data, changes):
    broken = bytearray(data)
    for at, put in changes:
        broken[at : at + len(put)] = put
    with suppress(BadRow):
        assert set(read(bytes(broken))[1]) <= {"gzip", "zstd", "zip", "tar"}
