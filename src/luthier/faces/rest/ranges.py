"""`Range` of a request, and what is sent for it (RFC 9110, section 14). Pure: no file is touched here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

MOST = 8
"""Ranges in one request. Each costs a seek and a header; whoever wants more of them wants to cost us something."""
_MOST_CHARACTERS = 256
_ONE = re.compile(r"(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))", re.ASCII)


class NotARange(ValueError):
    """Nothing of the file is meant by this."""


@dataclass(frozen=True, order=True)
class Span:
    """Bytes of a file, the last one included."""

    first: int
    last: int

    @property
    def size(self) -> int:
        return self.last - self.first + 1


def of(header: str, size: int) -> list[Span]:
    """The spans that a header asks for, in the file's order; those that touch are one, so no byte is sent twice.

    Raises: NotARange where it asks for none of the file's bytes, for too many ranges, or in a way that is not known.

    >>> of("bytes=0-4, 3-9, -2", 100)
    [Span(first=0, last=9), Span(first=98, last=99)]
    """
    unit, _, listed = header.strip().partition("=")
    parts = [part.strip() for part in listed.split(",", MOST)] if len(header) <= _MOST_CHARACTERS and unit == "bytes" else []
    if not parts or len(parts) > MOST:
        raise NotARange
    found = sorted(span for part in parts if (span := _span(part, size)) is not None)
    if not found:
        raise NotARange
    merged = [found[0]]
    for span in found[1:]:
        if span.first <= merged[-1].last + 1:
            merged[-1] = Span(merged[-1].first, max(merged[-1].last, span.last))
        else:
            merged.append(span)
    return merged


def _span(part: str, size: int) -> Span | None:
    """None for one that lies beyond the end. Raises: NotARange for what is none."""
    match = _ONE.fullmatch(part)
    if match is None:
        raise NotARange
    start, end, tail = match.groups()
    if not tail and end and int(end) < int(start):
        raise NotARange
    first = max(0, size - int(tail)) if tail else int(start)
    last = size - 1 if tail or not end else min(int(end), size - 1)
    return Span(first, last) if first <= last else None


def whole(size: int) -> list[bytes | Span]:
    """All of a file."""
    return [Span(0, size - 1)] if size else []


def plain(span: Span) -> list[bytes | Span]:
    """One span as it is."""
    return [span]


def multipart(spans: Sequence[Span], size: int, media_type: str, boundary: str) -> list[bytes | Span]:
    """Several, as `multipart/byteranges`: a header before each."""
    pieces: list[bytes | Span] = []
    for span in spans:
        head = f"--{boundary}\r\ncontent-type: {media_type}\r\ncontent-range: bytes {span.first}-{span.last}/{size}\r\n\r\n"
        pieces += [head.encode(), span, b"\r\n"]
    return [*pieces, f"--{boundary}--\r\n".encode()]
