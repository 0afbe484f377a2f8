"""Files that are nearly right: a row of some kind, changed; written in some format, changed; packed, and changed once more.

One seed, one file. What is put in are the things that readers trip over: numbers at the edge of their type, characters that are
none, brackets without end, fields of another type, sizes and places in archives that lie.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any

import pyarrow as pa
from backports import zstd
from pyarrow import parquet

USER, ANSWER = {"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": [2]}'}}
TOOL = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "number"}}}},
}
ROWS: tuple[dict[str, Any], ...] = (
    {"messages": [{"role": "system", "content": "Be brief."}, USER, ANSWER]},
    {"messages": [USER, {**ANSWER, "weight": 0}, {"role": "user", "content": [{"type": "text", "text": "Grüße 😀"}]}, ANSWER]},
    {
        "messages": [
            USER,
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "3"},
            ANSWER,
        ],
        "tools": [TOOL],
    },
    {"prompt": "1 + 1 =", "completion": " 2", "weight": 0.5},
    {"prompt": [USER], "completion": [ANSWER]},
    {"instruction": "Add.", "input": "1, 1", "output": "2", "system": "Be brief.", "history": [["Hi", "Yes?"]]},
    {"conversations": [{"from": "human", "value": "1 + 1?"}, {"from": "gpt", "value": "2"}], "tools": "[]"},
    {
        "conversations": [
            {"from": "human", "value": "x"},
            {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
            {"from": "observation", "value": "2"},
            {"from": "gpt", "value": "2"},
        ]
    },
    {"text": "Luthiers mend violins.", "source": "books"},
    {"prompt": [USER], "chosen": [ANSWER], "rejected": [{"role": "assistant", "content": "3"}]},
    {"prompt": "1 + 1 =", "chosen": "2", "rejected": "3"},
    {"chosen": "\n\nHuman: 1 + 1?\n\nAssistant: 2", "rejected": "\n\nHuman: 1 + 1?\n\nAssistant: 3"},
    {"chosen": [USER, ANSWER], "rejected": [USER, {"role": "assistant", "content": "3"}]},
    {"input": {"messages": [USER], "tools": [TOOL]}, "preferred_output": [ANSWER], "non_preferred_output": [ANSWER]},
    {"prompt": "1 + 1 =", "completion": " 2", "label": True},
    {"prompt": [USER], "answer": 2, "unit": None},
    {"messages": [USER], "reference_answer": "2"},
    {"text": "Where is my parcel?", "label": "delivery"},
    {"image": [0, 0, 255, 255], "label": 0},
    {"question": "1 + 1?", "response": "2"},
)
NAMES = sorted({name for row in ROWS for name in row} | {"role", "content", "from", "value", "functions", "item", "label", ""})
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**400, 0.1, -0.0, 1e308, 5e-324),
    *("", " ", "0", "\0", "\ud800", "\u202e", "\ufeff", "\u2028", "é" * 40, "x" * 5000, "nan", "[]", "{", "<|im_end|>", "😀"),
    *([], {}, [[]], [None], {"": None}, [USER], [ANSWER], [USER, ANSWER], {"role": "assistant"}, [1, "a"], [0.5] * 4),
)
_LETTERS = b"\0|\xff|\xfe\xff|\xef\xbb\xbf|\xed\xa0\x80|\xc0\x80|\xf4\x90\x80\x80|\xe2\x80\xa8|\x85|\x1a|\r|\n|\r\n|\t| "
_JSON = b"\"|\\|'|[|{|]|}|,|:|null|NaN|-Infinity|1e999|-0|0x1|01|.5|1_0|tru|\\u0000|\\ud800|\\ud83d\\ude00|\\x|//|/**/"
_MAGIC = b'<html>|%PDF|\x80\x04|PAR1|PK\x03\x04|PK\x05\x06|\x1f\x8b|\x28\xb5\x2f\xfd|ustar|=cmd|""|;'
TOKENS = tuple(b"|".join((_LETTERS, _JSON, _MAGIC)).split(b"|"))
LONG = (
    b"[" * 3000,
    b'{"a":' * 2000,
    b"9" * 5000,
    b'"' * 500,
    b"\\" * 501,
    b"," * 2000,
    b"\n" * 2000,
    b" " * 70_000,
    b"a," * 9000,
)
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**63, 2**64 - 1)
MAPPINGS = (*[{}] * 20, {"prompt": "question", "completion": "response"}, {"text": "prompt+completion"}, {"label": "weight"})


class Mutator:
    """Draws everything from one seed."""

    def __init__(self, seed: str) -> None:
        self._by_chance = Random(seed)
        self._pick = self._by_chance.choice

    def input(self) -> tuple[bytes, dict[str, str]]:
        """The bytes of a file, and the mapping that it is read with."""
        data = self._pick(WRITERS)(self) if self._often(0.9) else self._pick(parquet_files())
        if self._often(0.35):
            data = self._changed(data)
        while self._often(0.25):
            data = self._pick(PACKERS)(self, data)
            if self._often(0.4):
                data = self._changed(data)
        return data, self._pick(MAPPINGS)

    def _often(self, share: float) -> bool:
        return self._by_chance.random() < share

    # -- rows ------------------------------------------------------------------------------------------------------------

    def rows(self) -> list[Any]:
        """A few rows, mostly of one kind; some are changed somewhere inside."""
        plain = self._pick(ROWS) if self._often(0.8) else ROWS[0]  # plain chats have a quick reading of their own
        rows = [plain if self._often(0.95) else self._pick(ROWS) for _ in range(self._by_chance.randint(1, 4))]
        return [self._bent(row, 0.5) for row in rows]

    def _bent(self, value: Any, share: float) -> Any:
        """The value, with something inside of it removed, renamed, doubled or replaced."""
        if not self._often(share):
            return value
        if isinstance(value, dict) and value and self._often(0.85):
            name = self._pick(list(value))
            kept = {key: part for key, part in value.items() if key != name or self._often(0.9)}
            return {**kept, (name if self._often(0.9) else self._pick(NAMES)): self._bent(value[name], 0.9)}
        if isinstance(value, list) and value and self._often(0.85):
            at = self._by_chance.randrange(len(value))
            return [*value[:at], *[self._bent(value[at], 0.9)] * self._pick((0, 1, 1, 1, 2)), *value[at + 1 :]]
        return self._pick(VALUES)

    # -- bytes -----------------------------------------------------------------------------------------------------------

    def _changed(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(self._pick((1, 1, 1, 2, 3, 8))):
            self._pick((self._flip, self._put, self._put, self._number, self._cut, self._double, self._splice, self._end))(
                changed
            )
        return bytes(changed)

    def _span(self, data: bytearray) -> tuple[int, int]:
        start = self._by_chance.randint(0, len(data))
        return start, min(len(data), start + self._pick((1, 2, 4, 16, 200)))

    def _flip(self, data: bytearray) -> None:
        if data:
            data[self._by_chance.randrange(len(data))] ^= 1 << self._by_chance.randrange(8)

    def _put(self, data: bytearray) -> None:
        start, end = self._span(data)
        data[start : start if self._often(0.7) else end] = self._pick(TOKENS if self._often(0.95) else LONG)

    def _number(self, data: bytearray) -> None:
        width, order = self._pick("BHIQ"), self._pick("<>")
        start = self._by_chance.randint(0, len(data))
        number = struct.pack(f"{order}{width}", self._pick(NUMBERS) & (2 ** (8 * struct.calcsize(width)) - 1))
        data[start : start + len(number)] = number

    def _cut(self, data: bytearray) -> None:
        start, end = self._span(data)
        del data[start:end]

    def _double(self, data: bytearray) -> None:
        start, end = self._span(data)
        data[start:start] = data[start:end]

    def _splice(self, data: bytearray) -> None:
        other = self._pick(WRITERS)(self) if self._often(0.7) else self._pick(parquet_files())
        start, end = self._span(data)
        data[start:] = other[start:] if self._often(0.5) else other[:end] + data[end:]

    def _end(self, data: bytearray) -> None:
        del data[self._by_chance.randint(0, len(data)) :]

    # -- formats ---------------------------------------------------------------------------------------------------------

    def lines(self) -> bytes:
        return b"".join(self._json(row) + self._pick((b"\n", b"\n", b"\n", b"\r\n", b"\n\n", b"")) for row in self.rows())

    def array(self) -> bytes:
        return b"[" + self._pick((b",", b", ", b",\n")).join(self._json(row) for row in self.rows()) + b"]"

    def table(self) -> bytes:
        rows = [row if isinstance(row, dict) else {"text": row} for row in self.rows()]
        text = io.StringIO()
        names = list(dict.fromkeys(str(name) for row in rows for name in row))
        quoting = self._pick((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
        writer = csv.writer(text, delimiter=self._pick(",,,;\t"), quoting=quoting, lineterminator=self._pick(("\n", "\r\n")))
        writer.writerow(names)
        for row in rows:
            cells = (row.get(name, "") for name in names)
            writer.writerow([cell if isinstance(cell, str | float) else self._text(cell) for cell in cells])
        return text.getvalue().encode("utf-8", "surrogatepass")

    def pixels(self) -> bytes:
        cells = self._pick((5, 10, 17))
        lines = [",".join(self._pick(("0", "255", "1.5", "-1", "1e3", "x", "")[: self._pick((3, 7))]) for _ in range(cells))]
        return "\n".join(lines * self._pick((1, 3))).encode()

    def prose(self) -> bytes:
        return "\n".join(str(self._pick(VALUES)) for _ in range(self._pick((1, 5)))).encode("utf-8", "replace")

    def idx(self) -> bytes:
        count, side = self._pick((0, 1, 2, 2, 2**32 - 1)), self._pick((2, 2, 2, 0, 300, 2**31))
        images = struct.pack(">BBBBIII", 0, 0, self._pick((8, 8, 8, 13)), 3, count, side, side) + bytes(range(8))
        labels = struct.pack(">BBBBI", 0, 0, 8, self._pick((1, 1, 1, 3)), count) + b"\x07\x01"
        if self._often(0.3):
            images = self._changed(images)
        pack = self._pick((bytes, gzip.compress))
        return zipped(("images", pack(images)), ("labels", labels))

    def _json(self, value: Any) -> bytes:
        return self._text(value).encode("utf-8", "surrogatepass")

    def _text(self, value: Any) -> str:
        return json.dumps(value, ensure_ascii=self._often(0.5), indent=self._pick((None, None, None, 1)))

    # -- containers ------------------------------------------------------------------------------------------------------

    def zip(self, data: bytes) -> bytes:
        info = zipfile.ZipInfo(self._pick(("rows.jsonl", "a/b", "../x", "/x", "é", "README.md", "x" * 2000)))
        info.external_attr = self._pick((0, 0, 0, 0o120777 << 16, 0o104755 << 16, 0x10))
        info.compress_type = self._pick((zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_BZIP2))
        beside = [(self._pick(("LICENSE", ".x", "rows.jsonl", "b.jsonl")), self._pick((b"", data)))] if self._often(0.2) else []
        return zipped((info, data), *beside)

    def tar(self, data: bytes) -> bytes:
        info = tarfile.TarInfo(self._pick(("rows.jsonl", "a/b", "../x", "/x", "é", "README.md", "x" * 200)))
        info.type = self._pick(
            (*[tarfile.REGTYPE] * 8, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.GNUTYPE_SPARSE, tarfile.DIRTYPE)
        )
        info.size = len(data)
        form = self._pick((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT))
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as archive:
            archive.addfile(info if form != tarfile.USTAR_FORMAT or len(info.name) < 100 else _short(info), io.BytesIO(data))
        return file.getvalue()


def _short(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.name = "rows"
    return info


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")  # a name that is there twice is one of the inputs
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


@cache
def parquet_files() -> tuple[bytes, ...]:
    """Parquet files of each way to write them. They are made once: writing takes longer than reading."""
    talk = {"messages": [[USER, ANSWER]] * 3}
    texts = {"text": ["a", "b", "c"], "label": pa.array(["x", "y", "x"]).dictionary_encode()}
    odd = {
        "prompt": ["a", None],
        "answer": [1.5, float("inf")],
        "raw": [b"\xff", b""],
        "map": pa.array([[("a", 1)]] * 2, pa.map_("string", "int8")),
    }
    codecs = ("none", "snappy", "gzip", "zstd", "lz4")
    return tuple(_parquet(columns, codec, page) for columns in (talk, texts, odd) for codec in codecs for page in ("1.0", "2.0"))


def _parquet(columns: dict[str, Any], codec: str, page: str) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.table(columns), file, compression=codec, data_page_version=page, row_group_size=2)
    return file.getvalue()


WRITERS: tuple[Callable[[Mutator], bytes], ...] = (
    *[Mutator.lines] * 6,
    *[Mutator.array] * 2,
    *[Mutator.table] * 3,
    *(Mutator.pixels, Mutator.prose, Mutator.idx),
)
PACKERS: tuple[Callable[[Mutator, bytes], bytes], ...] = (
    lambda _, data: gzip.compress(data, 1),
    lambda _, data: zstd.compress(data),
    Mutator.zip,
    Mutator.tar,
)
