"""What will be learned of some rows: each token as the trainer holds it, what is cut, what is left out, what lies together.

The rows come from `learning.lessons`, which the trainer fills its own from. They are rendered twice, as they are trained on and
whole, so that the tokens that are cut can be shown behind those that stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from pydantic import Field

from luthier.datasets.examples import Rated
from luthier.datasets.formats import BadRow, read_rows
from luthier.datasets.learning import PARTS, READS, Lesson, lessons, positions
from luthier.datasets.packing import TOKENS_PER_PASS, PassLimits, batch_size, grouped
from luthier.datasets.rendering import Rendered, Renderer
from luthier.errors import FieldInvalid
from luthier.values import Frozen

MOST_ROWS = 20
MOST_TOKENS = 20_000
"""Shown of one part; what is more is counted."""


class PreviewToken(Frozen):
    """One token."""

    id: int
    text: str = Field(description="What it adds to the text; empty where it is only the beginning of a character.")
    loss: bool = Field(description="The model learns to write it.")
    cut: bool = Field(default=False, description="It is beyond `max_seq_len` and does not reach the model.")


class PreviewPart(Frozen):
    """What goes through the model as one sequence. The texts of its tokens, joined, are the rendered template."""

    name: str = Field(description="`row`, of a pair `chosen` or `rejected`, of a question `prompt`.")
    length: int = Field(description="Tokens that go through the model.")
    learned: int = Field(description="How many of them carry loss.")
    cut: int = Field(description="Tokens beyond `max_seq_len`.")
    special_text: bool = Field(description="A text spelled a special token and was read as text.")
    tokens: tuple[PreviewToken, ...]
    hidden: int = Field(default=0, description="Tokens at the end that are not listed here, only counted.")


class PreviewRow(Frozen):
    """One row of the data, as the method learns it."""

    line: int = Field(description="Its line in the uploaded file.")
    left_out: str | None = Field(description="Why the trainer leaves it out; null where it learns from it.")
    weight: float = Field(description="What its loss counts beside that of other rows.")
    label: bool | None = Field(default=None, description="Of a rated answer: whether it is a good one.")
    parts: tuple[PreviewPart, ...]


class PreviewPass(Frozen):
    """Rows that lie end to end in one pass through the model; no token sees one of another row."""

    lines: tuple[int, ...]
    tokens: int


class Packing(Frozen):
    """How these rows would be packed, in this order. A run draws its own order from its seed."""

    rows_per_pass: int = Field(description="`train.batch_size`; 1 without packing.")
    tokens_per_pass: int = Field(description="The most of a pass; a machine with little memory takes less.")
    passes: tuple[PreviewPass, ...]


class Preview(Frozen):
    """Rows as a method learns them on a base model."""

    base_model: str
    method: str
    max_seq_len: int = Field(description="Where rows are cut, in tokens.")
    rendering_sha256: str = Field(description="Of tokenizer, template and rules; equal ones render equal tokens.")
    end_of_turn: str = Field(description="The token that ends each answer, in training and in serving.")
    stop_ids: tuple[int, ...] = Field(description="Generation ends at these.")
    packing: Packing | None = Field(description="Null for grpo, whose answers are written in training.")
    data: tuple[PreviewRow, ...]


@dataclass(frozen=True)
class Wish:
    """What is to be shown, and how it would be trained."""

    method: str | None = None
    """The first that learns from such rows, by default."""
    base_model: str | None = None
    max_seq_len: int | None = None
    line: int | None = None
    """From this line on; from the first by default."""
    rows: int = 3
    batch_size: int | None = None
    packing: bool = True


@dataclass(frozen=True)
class Known:
    """The base and the data that the rows are from."""

    base_model: str
    context: int
    methods: Sequence[str]
    """Those that learn from the data."""
    rows: int
    """Of the whole dataset."""


def preview(stored: Sequence[tuple[int, bytes]], renderer: Renderer, known: Known, wish: Wish) -> Preview:
    """What is learned of these canonical rows, each with its line.

    Raises: FieldInvalid (method); Invalid `template`.
    """
    method = method_of(known.methods, wish.method)
    max_seq_len = min(wish.max_seq_len or known.context, known.context)
    rows = _read(stored, method)
    cut, whole = lessons(method, rows, renderer, max_seq_len), lessons(method, rows, renderer, None)
    shown = [
        (line, lesson, _row(line, method, lesson, full, renderer))
        for (line, _), lesson, full in zip(stored, cut, whole, strict=True)
    ]
    limits = PassLimits((wish.batch_size or batch_size(known.rows)) if wish.packing else 1, TOKENS_PER_PASS)
    return Preview(
        base_model=known.base_model,
        method=method,
        max_seq_len=max_seq_len,
        rendering_sha256=renderer.fingerprint,
        end_of_turn="".join(renderer.spelled([renderer.end_id])),
        stop_ids=tuple(sorted(renderer.stop_ids)),
        packing=None if method == "grpo" else _packed([(line, lesson) for line, lesson, _ in shown], limits),
        data=tuple(row for _, _, row in shown),
    )


def method_of(serve: Sequence[str], asked: str | None) -> str:
    """The method to show. `serve`: those that learn from the data. Raises: FieldInvalid."""
    shown = [method for method in serve if method in READS]
    if asked is None and shown:
        return shown[0]
    if asked in shown:
        return asked
    if not shown:
        raise FieldInvalid("No method learns tokens of these rows.", hint="A classifier reads them as they are.", param="method")
    raise FieldInvalid("This method does not learn from these rows.", hint=f"Ask for {' or '.join(shown)}.", param="method")


def _read(stored: Sequence[tuple[int, bytes]], method: str) -> list[Any]:
    try:
        return list(read_rows(BytesIO(b"".join(row for _, row in stored)), READS[method]))
    except BadRow as bad:  # stored by a version that read it otherwise
        raise FieldInvalid(bad.message, hint=bad.hint, param="method") from bad


def _row(line: int, method: str, lesson: Lesson[Any], full: Lesson[Any], renderer: Renderer) -> PreviewRow:
    return PreviewRow(
        line=line,
        left_out=lesson.why_left_out,
        weight=lesson.parts[0].weight,
        label=lesson.row.label if isinstance(lesson.row, Rated) else None,
        parts=tuple(
            _part(name, part, whole, renderer)
            for name, part, whole in zip(PARTS[READS[method]], lesson.parts, full.parts, strict=True)
        ),
    )


def _part(name: str, part: Rendered, whole: Rendered, renderer: Renderer) -> PreviewPart:
    learned = {at + 1 for at in positions(part.loss)} if part.weight else set[int]()
    shown = whole.ids[:MOST_TOKENS]
    return PreviewPart(
        name=name,
        length=len(part.ids),
        learned=len(learned),
        cut=len(whole.ids) - len(part.ids),
        special_text=part.special_text,
        tokens=tuple(
            PreviewToken(id=token, text=text, loss=at in learned, cut=at >= len(part.ids))
            for at, (token, text) in enumerate(zip(shown, renderer.spelled(shown), strict=True))
        ),
        hidden=len(whole.ids) - len(shown),
    )


def _packed(rows: Sequence[tuple[int, Lesson[Any]]], limits: PassLimits) -> Packing:
    used = [(line, sum(len(part.ids) for part in lesson.parts)) for line, lesson in rows if lesson.why_left_out is None]
    return Packing(rows_per_pass=limits.rows, tokens_per_pass=limits.tokens, passes=tuple(_passes(used, limits)))


def _passes(units: Sequence[tuple[int, int]], limits: PassLimits) -> Iterator[PreviewPass]:
    for group in grouped(units, lambda unit: unit[1], limits):
        yield PreviewPass(lines=tuple(line for line, _ in group), tokens=sum(tokens for _, tokens in group))
