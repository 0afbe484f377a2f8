"""Parquet, read a few rows at a time: texts, numbers, and lists of structs for conversations.

Only the process that checks uploads reads it; what a trainer gets are the rows as JSON lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from luthier.datasets import rules
from luthier.datasets.containers import Limits, check_unpacked
from luthier.datasets.examples import BadRow
from luthier.datasets.tables import Fields

MAGIC = b"PAR1"
_ENCRYPTED = b"PARE"
_EXTENSION, _PICKLED = b"ARROW:extension:name", b"arrow.py_extension_type"
_BATCH = 64
"""Rows at a time: one of them may be as large as a row may be."""
_MAX_RATIO, _SLACK_BYTES = 1000, 32 * 1024 * 1024
"""Parquet holds equal texts once: it may pack better than other containers."""
_INDEX = "__index_level_"
"""How pandas calls a column that is only a row's number."""


def is_parquet(head: bytes, tail: bytes) -> bool:
    """Whether a file that starts and ends like this is meant as Parquet."""
    return head[:4] in {MAGIC, _ENCRYPTED} or tail[-4:] in {MAGIC, _ENCRYPTED}


def parquet_rows(path: Path, limits: Limits) -> Iterator[Fields | BadRow]:
    """The rows in order, numbered from 1. A `BadRow` that is `fatal` is the last one. Raises: MemoryError."""
    import pyarrow as pa

    try:
        # The system's allocator: others reserve more addresses than this process may have.
        pa.set_memory_pool(pa.system_memory_pool())
        yield from _rows(path, limits)
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError):
        said = "The Parquet file is damaged, cut off or encrypted: its rows cannot be read."
        yield BadRow(None, "parquet", said, "Write it anew.", fatal=True)
    except BadRow as bad:
        bad.fatal = True
        yield bad


def _rows(path: Path, limits: Limits) -> Iterator[Fields | BadRow]:
    from pyarrow import parquet

    with path.open("rb") as start:
        if start.read(4) != MAGIC:
            raise ValueError
    # Without buffering ahead a row group is read page by page, and its size costs no memory.
    with parquet.ParquetFile(path, pre_buffer=False, buffer_size=1024 * 1024) as file:
        if file.metadata.num_rows > rules.MAX_ROWS:
            said = f"The file says that it holds more than {rules.MAX_ROWS:,} rows."
            raise BadRow(None, "too_many_rows", said, "Split the file.", fatal=True)
        names = [name for name in file.schema_arrow.names if not name.startswith(_INDEX)]
        if len(set(names)) != len(names):
            said = "Two columns have the same name."
            raise BadRow(None, "duplicate_column", said, "Rename or remove one: which of them counts cannot be known.")
        if any(dict(field.metadata or {}).get(_EXTENSION) == _PICKLED for field in file.schema_arrow):
            said = "The type of a column is a pickled Python object, which is never loaded."
            raise BadRow(None, "columns", said, "Write the column as a plain type.")
        plain = {field.name: _reader(field.type) for field in file.schema_arrow if field.name in names}
        number = size = 0
        for batch in file.iter_batches(batch_size=_BATCH, columns=names, use_threads=False):
            rows = _unfolded(batch)
            size += rows.nbytes
            _check_size(size, limits)
            for row in rows.to_pylist(maps_as_pydicts="lossy"):
                number += 1
                yield _row(number, cast("dict[str, Any]", row), plain)


def _check_size(unpacked: int, limits: Limits) -> None:
    """Raises: BadRow where more comes out than is read, or than an honest file of that size holds."""
    check_unpacked(unpacked, limits)
    if unpacked > max(_SLACK_BYTES, _MAX_RATIO * limits.packed_bytes):
        said = f"Unpacked, the file is more than {_MAX_RATIO:,} times as large: that is no data to learn from."
        raise BadRow(None, "ratio", said, "Upload its rows as JSON lines, if it is.")


def _unfolded(batch: Any) -> Any:
    """The batch with equal values as often as they occur: a dictionary says nothing of how large its rows are."""
    import pyarrow as pa

    if not any(pa.types.is_dictionary(column.type) for column in batch.columns):
        return batch
    columns = [column.dictionary_decode() if pa.types.is_dictionary(column.type) else column for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _row(number: int, row: dict[str, Any], plain: dict[str, Callable[[Any], Any] | None]) -> Fields | BadRow:
    found: dict[str, Any] = {}
    for name, value in row.items():
        try:
            found[name] = value if (read := plain[name]) is None else read(value)
        except _Binary:
            named = f"The column `{name}`" if rules.FIELD.fullmatch(name) else "A column"
            said = f"{named} holds bytes: they are no text."
            return BadRow(number, "columns", said, "Write the column as strings (UTF-8), or leave it out.")
    return Fields(number, found)


class _Binary(Exception):
    """A value is bytes."""


def _reader(kind: Any) -> Callable[[Any], Any] | None:
    """How values of a type become what JSON would hold; None where they are that already."""
    import pyarrow.types as of

    if of.is_string(kind) or of.is_large_string(kind) or of.is_integer(kind) or of.is_boolean(kind) or of.is_null(kind):
        return None
    return _plain


def _plain(value: Any) -> Any:
    """A value as JSON would hold it. Fields that are null are left out inside of structs: arrow fills them in.

    Raises: _Binary.
    """
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in cast("dict[Any, Any]", value).items() if part is not None}
    if isinstance(value, list):
        return [_plain(part) for part in cast("list[Any]", value)]
    if isinstance(value, bytes):
        raise _Binary
    if isinstance(value, float):
        return value if value == value else None  # noqa: PLR0124  # what is no number is missing
    return value if value is None or isinstance(value, str | int) else str(value)
