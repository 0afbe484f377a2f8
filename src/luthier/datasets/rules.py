"""Decisions about datasets: names, lengths, how much is measured and how much a check may use. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

MAX_NAME = 128
MAX_ROWS = 5_000_000
SHOWN_A_CODE = 20
SHOWN_FIELDS = 100
FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}", re.ASCII)
"""Names of fields that a grader can read."""
FEW_ROWS = 10
USELESS = frozenset({"no_preference", "zero_weight"})
"""Rows with such a warning teach nothing: a cleaned version leaves them out."""
MAX_LABELS = 1000
"""Classes of one dataset."""
COMPARED_ROWS = 200_000
"""Rows that are looked through for near duplicates; of more, each n-th."""
CUT_SHARE = 0.2
"""If more of the long answers end without a stop, that is how they are written."""
REFERENCES = frozenset({"answer", "reference_answer", "reference", "solution", "ground_truth", "target", "expected"})
"""Fields of prompts that hold what a grader compares with."""
_SHARED_BYTES = 8 * 1024 * 1024
_MOST_WORKERS = 8
_LANGUAGE_BYTES = 4 * 1024 * 1024
_FEW_OF_A_LABEL = 3
_LABELS_APART = 20
REJECTED_KEPT = timedelta(hours=24)
"""How long the bytes of a rejected dataset are kept, for `dataset fix`."""
SAMPLE_CHARACTERS = 20_000
"""Most of one text of a sample."""
CHUNK_BYTES = 1024 * 1024
_MEASURED_BYTES = 32 * 1024 * 1024
_UNPACKS = 100
USUAL_RATIO = 6
"""How much comes out of packed rows, to tell how many of them are tokenised."""
_BINS = 20
_MIB = 1024 * 1024
_ENDING = re.compile(r"(\.(jsonl|ndjson|json|csv|tsv|txt|parquet))?(\.(tar\.gz|tar\.zst|gz|zst|zip|tar|tgz))?$", re.IGNORECASE)


@dataclass(frozen=True)
class Allowance:
    """What the process that reads an uploaded file may use."""

    memory_bytes: int
    cpu_s: int
    file_bytes: int
    unpacked_bytes: int = 10 * 1024 * _MIB
    """What may come out of a packed file."""
    max_rows: int = MAX_ROWS
    workers: int = 1
    """Processes that check it."""
    scans: bool = False
    """It is large enough to compile a reader for it, where that was not done before."""


def allowance(size_bytes: int, *, packed: bool = False, cores: int = 1) -> Allowance:
    """Enough for any honest file of this size. Memory does not grow with it; Alpaca rows grow when written as chat."""
    workers = _workers(size_bytes * USUAL_RATIO if packed else size_bytes, cores)
    most = Allowance.unpacked_bytes
    # Parquet holds equal texts once, so a good deal more comes out of it than of other files.
    size = max(size_bytes, min(most, _UNPACKS * size_bytes)) if packed else size_bytes
    seconds, file_bytes = 120 + size // (2 * _MIB), 8 * size + 64 * _MIB
    return Allowance(
        memory_bytes=2048 * _MIB, cpu_s=seconds, file_bytes=file_bytes, workers=workers, scans=size_bytes > _SHARED_BYTES
    )


def _workers(size_bytes: int, cores: int) -> int:
    """A file that is small is checked before other processes have started.

    >>> _workers(1000, cores=4), _workers(1024 ** 3, cores=4), _workers(1024 ** 3, cores=64)
    (1, 4, 8)
    """
    return min(cores, _MOST_WORKERS) if size_bytes > _SHARED_BYTES else 1


def measure_every(size_bytes: int) -> int:
    """Tokenise each n-th row, so that about 32 MiB are tokenised: all rows of a file up to that size.

    >>> measure_every(1000), measure_every(1024 ** 3)
    (1, 32)
    """
    return max(1, -(-size_bytes // _MEASURED_BYTES))


def language_every(size_bytes: int) -> int:
    """Look at the language of each n-th row, so that it is told from about 4 MiB."""
    return max(1, -(-size_bytes // _LANGUAGE_BYTES))


def language_mix(languages: Mapping[str, int]) -> list[tuple[str, str]]:
    """What is to be said of rows in other languages than most: a few of them are more often a mistake than meant.

    >>> language_mix({"en": 98, "de": 2, "und": 40})
    [('Most rows look like en, and 2.0% like de.', 'Remove what was not meant; `dataset samples` shows rows.')]
    >>> language_mix({"en": 50, "de": 50}), language_mix({"en": 3000, "de": 1})
    ([], [])
    """
    known = Counter({name: rows for name, rows in languages.items() if name != "und"})
    total, most = known.total(), known.most_common(1)
    others = [(name, rows / total) for name, rows in known.most_common() if rows / total < 0.2 and rows > max(1, total / 100)]
    if not most or not others or most[0][1] < 0.6 * total:
        return []
    told = ", ".join(f"{share:.1%} like {name}" for name, share in others[:3])
    return [(f"Most rows look like {most[0][0]}, and {told}.", "Remove what was not meant; `dataset samples` shows rows.")]


def odd_labels(labels: Mapping[str, int]) -> list[tuple[str, str, str]]:
    """What is odd about classes: (code, what, what to do).

    >>> [code for code, _, _ in odd_labels({"a": 100, "A": 100, "b": 2})]
    ['label_variants', 'label_imbalance']
    """
    found: list[tuple[str, str, str]] = []
    alike: dict[str, list[str]] = {}
    for label in labels:
        alike.setdefault(" ".join(label.casefold().split()), []).append(label)
    variants = [names for names in alike.values() if len(names) > 1]
    if variants:
        said = f"{len(variants)} labels are written in more than one way, that differ only in capitals or spaces."
        found.append(("label_variants", said, "Write each label in one way."))
    least, most = min(labels.values(), default=0), max(labels.values(), default=0)
    if len(labels) > 1 and (most >= _LABELS_APART * least or (least < _FEW_OF_A_LABEL and most >= 5 * _FEW_OF_A_LABEL)):
        said = f"The commonest label has {most:,} rows, the rarest {least:,}."
        found.append(("label_imbalance", said, "Add rows of the rare ones, or merge or remove them."))
    return found


def name_of(file_name: str | None) -> str:
    """A name for a dataset that was given none: its file's, without folder, ending and control characters.

    >>> name_of("C:\\\\data\\\\support.jsonl"), name_of("rows.csv.gz"), name_of("../../.."), name_of(None)
    ('support', 'rows', 'dataset', 'dataset')
    """
    last = re.split(r"[/\\]", shown(file_name) or "")[-1]
    name = _ENDING.sub("", last.strip()).strip()[:MAX_NAME].strip()
    return name if name.strip(".") else "dataset"


def shown(text: str | None) -> str | None:
    """A text from outside as it may be stored and shown: no control characters, no half characters, 255 at most."""
    if text is None:
        return None
    return "".join(c for c in text if ord(c) >= 32 and ord(c) != 127 and not "\ud800" <= c <= "\udfff")[-255:]


def lengths(counted: Mapping[int, int], unit: str) -> dict[str, Any] | None:
    """Summary of how many rows have which length, or None for no rows. Percentiles are nearest-rank.

    >>> lengths({1: 1, 3: 2}, "tokens")["median"]
    3
    """
    total = sum(counted.values())
    if not total:
        return None
    ordered = sorted(counted)
    return {
        "unit": unit,
        "min": ordered[0],
        "mean": round(sum(length * rows for length, rows in counted.items()) / total, 2),
        "median": _rank(counted, ordered, -(-total // 2)),
        "p95": _rank(counted, ordered, -(-total * 95 // 100)),
        "max": ordered[-1],
        "histogram": _bins(counted, ordered[0], ordered[-1]),
    }


def _rank(counted: Mapping[int, int], ordered: list[int], rank: int) -> int:
    seen = 0
    for length in ordered:
        seen += counted[length]
        if seen >= rank:
            return length
    return ordered[-1]


def _bins(counted: Mapping[int, int], low: int, high: int) -> list[dict[str, int]]:
    width = -(-(high - low + 1) // _BINS)
    rows: Counter[int] = Counter()
    for length, count in counted.items():
        rows[(length - low) // width] += count
    return [
        {"low": low + number * width, "high": min(high, low + (number + 1) * width - 1), "rows": rows[number]}
        for number in range((high - low) // width + 1)
    ]
