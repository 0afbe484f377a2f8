"""The report of a file while its rows go by: constant memory, plain values (the reader process loads no pydantic)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from luthier.datasets import rules
from luthier.datasets.examples import BadRow, Example, Labelled, Message, Parsed, Prompt, Rated
from luthier.datasets.kinds import KINDS
from luthier.datasets.mapping import proposed, written
from luthier.datasets.near_duplicates import NearDuplicates
from luthier.datasets.plain_chats import Shape
from luthier.datasets.row_hashes import Overlap, Repeats
from luthier.errors import counted

# Warnings that are an error when every row has them: (code, what is wrong then, what to do).
_ALL_USELESS = (
    ("no_preference", "Both answers are the same in every row: there is nothing to prefer.", "Give two different answers."),
    ("zero_weight", "The `weight` of every row is 0: there is nothing to learn.", "Leave `weight` out where a row counts."),
)


class Counted(NamedTuple):
    """A row in tokens."""

    tokens: Sequence[int]
    """Of each of its examples."""
    loss_tokens: int
    learns_late: bool
    """An example of it has no token to learn within the context."""


class Tally:
    """Counts rows, roles, duplicates, lengths and findings."""

    def __init__(self, *, drop: bool = False) -> None:
        self._drop = drop
        self._dropped = 0
        self.rows = 0
        self.usable = 0
        self.schema_name: str | None = None
        self.errors = 0
        self.warnings = 0
        self._counts: Counter[str] = Counter()
        self._shown: list[dict[str, Any]] = []
        self._roles: Counter[str] = Counter()
        self._duplicates = 0
        self._conflicts = 0
        self._near = {"near_duplicates": 0, "compared_rows": 0}
        self._against: list[dict[str, Any]] = []
        self._characters: Counter[int] = Counter()
        self._tokens: Counter[int] = Counter()
        self._measured = 0
        self._labels: Counter[str] = Counter()
        self._item_fields: set[str] | None = None
        self._unread: Counter[str] = Counter()
        self._texts = 0
        self._pixels: int | None = None
        self._loss_tokens = 0
        self._over_context = 0

    @property
    def labels(self) -> Mapping[str, int]:
        """Rows by their label so far."""
        return self._labels

    def bad(self, bad: BadRow) -> None:
        """A record that cannot be used."""
        self.rows += bad.line is not None
        leave_out = self._drop and not bad.fatal
        self._dropped += leave_out
        self.note(bad.line, bad.code, "warning" if leave_out else "error", (bad.message, bad.hint))

    def good(self, parsed: Parsed) -> None:
        """A record that can."""
        self.rows += 1
        self.usable += 1
        self.schema_name = self.schema_name or parsed.schema_name
        for remark in parsed.remarks:
            self.note(parsed.line, remark.code, "warning", (remark.message, remark.fix))
        for name in parsed.unread:
            if name in self._unread or len(self._unread) < rules.SHOWN_FIELDS:
                self._unread[name] += 1
        self._roles.update(message["role"] for message in parsed.row.messages)
        self._texts += not parsed.row.messages
        if isinstance(parsed.row, Rated):
            self._labels["true" if parsed.row.label else "false"] += 1
        if isinstance(parsed.row, Labelled):
            self._classified(parsed.row)
        if isinstance(parsed.row, Prompt):
            self._characters[_characters(parsed.row.messages, parsed.row.text)] += 1
            filled = {name for name, value in parsed.row.item.items() if value is not None and rules.FIELD.fullmatch(name)}
            self._item_fields = filled if self._item_fields is None else self._item_fields & filled
        self._characters.update(_characters(example.messages, _text(example)) for example in parsed.row.examples)

    def chats(self, shapes: Mapping[Shape, int], characters: Iterable[int]) -> None:
        """Plain conversations, in any order: rows by their shape, and the lengths of all."""
        if shapes:
            self.rows += sum(shapes.values())
            self.usable += sum(shapes.values())
            self.schema_name = self.schema_name or "chat"
            for shape, rows in shapes.items():
                for role, messages in shape.roles.items():
                    self._roles[role] += rows * messages
            self._characters.update(characters)

    def fresh(self) -> Tally:
        """One that counts in the same way, and nothing yet."""
        return Tally(drop=self._drop)

    def add(self, other: Tally) -> None:
        """What follows in the file, and was counted by itself; of rows with labels the first only can be told so."""
        self.rows += other.rows
        self.usable += other.usable
        self.schema_name = self.schema_name or other.schema_name
        self.errors += other.errors
        self.warnings += other.warnings
        self._dropped += other._dropped
        self._texts += other._texts
        if other._item_fields is not None:
            self._item_fields = other._item_fields if self._item_fields is None else self._item_fields & other._item_fields
        room = {code: rules.SHOWN_A_CODE - self._counts[code] for code in other._counts}
        for finding in other._shown:
            if room[finding["code"]] > 0:
                self._shown.append(finding)
                room[finding["code"]] -= 1
        for mine, theirs in self._counters(other):
            mine.update(theirs)

    def repeats(self, found: Repeats) -> None:
        """Rows that are there twice, and rows that contradict each other."""
        self._duplicates, self._conflicts = found.duplicates.count, found.conflicts.count
        for line, first in found.duplicates:
            said = f"The row is the same as line {first}."
            self._show(line, "duplicate", "warning", (said, "Remove it, unless it is meant."))
        for line, first in found.conflicts:
            said = f"The row asks the same as line {first}, with another answer."
            self._show(line, "conflict", "warning", (said, "Keep the right one, unless several answers are meant."))
        self.count("duplicate", found.duplicates.count)
        self.count("conflict", found.conflicts.count)

    def near(self, found: NearDuplicates) -> None:
        """Rows that are nearly the same as another."""
        self._near = {"near_duplicates": found.found.count, "compared_rows": found.looked_at}
        for line, other in found.found:
            said = f"The row is nearly the same as line {other}."
            self._show(line, "near_duplicate", "warning", (said, "Keep one of them, unless both are meant."))
        self.count("near_duplicate", found.found.count)

    def overlaps(self, name: str, found: Overlap) -> None:
        """Rows that another dataset holds, too: of training and validation data none should be."""
        self._against.append({"name": name, "rows": found.rows.count, "prompts": found.prompts.count})
        fix = "Remove it from one of the two: what was trained on proves nothing."
        for pairs, said in ((found.rows, "The row is also line {} of {}."), (found.prompts, "Line {} of {} asks the same.")):
            for line, other in pairs:
                self._show(line, "train_val_overlap", "warning", (said.format(other, name), fix))
            self.count("train_val_overlap", pairs.count)

    def measured(self, line: int | None, counted: Counted, context: int | None) -> None:
        """A row was tokenised."""
        self._measured += 1
        self._tokens.update(counted.tokens)
        self._loss_tokens += counted.loss_tokens
        longest = max(counted.tokens)
        if context is not None and longest > context:
            self._over_context += 1
            cut = "nothing to learn is left" if counted.learns_late else f"training cuts the last {longest - context:,}"
            said = f"The row has {longest:,} tokens, but the base reads {context:,}: {cut}."
            self.note(line, "too_long", "warning", (said, "Shorten or split it, or choose a base with a longer context."))

    def measured_prompt(self, line: int | None, tokens: int, context: int | None) -> None:
        """A prompt was tokenised, whose answers are written in training."""
        self._measured += 1
        self._tokens[tokens] += 1
        if context is not None and tokens >= context:
            self._over_context += 1
            said = f"The prompt has {tokens:,} tokens, and the base reads {context:,}: no answer fits."
            self.note(line, "too_long", "warning", (said, "Shorten it, or choose a base with a longer context."))

    def note(self, line: int | None, code: str, severity: str, said: tuple[str, str]) -> None:
        """Count a finding, and show it unless enough of its kind are shown."""
        self._counts[code] += 1
        if severity == "error":
            self.errors += 1
        else:
            self.warnings += 1
        if self._counts[code] <= rules.SHOWN_A_CODE:
            self._show(line, code, severity, said)

    def close(self) -> None:
        """What only the whole file can tell."""
        if not self.rows and not self.errors:
            self.note(None, "dataset_empty", "error", ("The file holds no rows.", "Write one JSON object a line."))
        elif not self.usable and not self.errors:
            self.note(None, "dataset_empty", "error", ("No row is left: all of them are bad.", "Mend the file."))
        different = self.usable - self._duplicates
        if self.usable and not self.errors and different < rules.FEW_ROWS:
            said = f"Only {counted(different, 'different row')}: a model learns little from so few."
            self.note(None, "too_few_rows", "warning", (said, "Add examples; a few hundred good ones are a start."))
        for code, said, fix in _ALL_USELESS:
            if self.usable and self._counts[code] == self.usable:
                self.note(None, code, "error", (said, fix))
        if 0 < self._texts < self.usable:
            said = f"{self._texts} of {self.usable} rows are texts: only the others go through the base's chat template."
            self.note(None, "mixed_schema", "warning", (said, "Write all rows as messages, or all as texts."))
        fit = proposed({"text", *self._unread}) if self.schema_name == "text" and not self.errors else None
        if fit is not None:
            said = "The rows are learned as texts, and another field looks like their label."
            self.note(None, "unread_field", "warning", (said, f"For a classifier, upload it with `--map {written(fit)}`."))
        if len(self._labels) == 1 and self.schema_name in {"labelled", "images"}:
            said = "Every row has the same label: there is nothing to tell apart."
            self.note(None, "one_label", "error", (said, "Add rows of another class."))
        elif len(self._labels) == 1:
            said = f"Every answer is rated {next(iter(self._labels))}."
            self.note(None, "one_label", "warning", (said, "Add answers that are rated the other way: kto learns from both."))

    def report(self, *, size_bytes: int, format_name: str | None) -> dict[str, Any]:
        """The fields of `types.Report`, but for the name of the tokenizer and its context."""
        measured = self._measured
        scale = self.usable / measured if measured else 0.0
        total = sum(length * rows for length, rows in self._tokens.items())
        return {
            "format": format_name if self.rows else None,
            "schema_name": self.schema_name,
            "methods": list(KINDS[self.schema_name].methods) if self.schema_name else [],
            "item_fields": sorted(self._item_fields or ())[: rules.SHOWN_FIELDS],
            "unread_fields": dict(sorted(self._unread.items(), key=lambda named: (-named[1], named[0]))[: rules.SHOWN_A_CODE]),
            "bytes": size_bytes,
            "rows": self.rows,
            "usable_rows": self.usable,
            "tokens": round(total * scale) if measured else None,
            "loss_tokens": round(self._loss_tokens * scale) if measured else None,
            "measured_rows": measured,
            "lengths": rules.lengths(self._tokens, "tokens") or rules.lengths(self._characters, "characters"),
            "over_context": round(self._over_context * scale) if measured else None,
            "duplicates": self._duplicates,
            "conflicts": self._conflicts,
            **self._near,
            "against": self._against,
            "dropped_rows": self._dropped,
            "roles": dict(self._roles),
            "labels": dict(self._labels),
            "errors": self.errors,
            "warnings": self.warnings,
            "counts": dict(self._counts),
            "findings": sorted(self._shown, key=lambda finding: finding["line"] or 0),
        }

    def _classified(self, row: Labelled) -> None:
        if row.label in self._labels or len(self._labels) < rules.MAX_LABELS:
            self._labels[row.label] += 1
        elif not self._counts["too_many_labels"]:
            said = f"The rows have more than {rules.MAX_LABELS:,} different labels."
            self.note(row.line, "too_many_labels", "error", (said, "Is `label` the name of a class?"))
        if row.text is not None:
            self._characters[len(row.text)] += 1
        elif row.pixels is not None:
            self._pixels = self._pixels or len(row.pixels)
            if len(row.pixels) != self._pixels:
                said = f"The image has {len(row.pixels):,} pixels, the first one {self._pixels:,}."
                self.note(row.line, "bad_value", "error", (said, "Give all images the same size."))

    def _counters(self, other: Tally) -> tuple[tuple[Counter[Any], Counter[Any]], ...]:
        names = ("_counts", "_roles", "_characters", "_labels", "_unread")
        return tuple((getattr(self, name), getattr(other, name)) for name in names)

    def _show(self, line: int | None, code: str, severity: str, said: tuple[str, str]) -> None:
        message, fix = said
        self._shown.append({"line": line, "code": code, "severity": severity, "message": message, "fix": fix})

    def count(self, code: str, warnings: int) -> None:
        """Count findings that are shown otherwise, or not at all."""
        if warnings:
            self._counts[code] += warnings
            self.warnings += warnings


def _characters(messages: Sequence[Message], text: str | None) -> int:
    return sum(len(message["content"]) for message in messages) if text is None else len(text)


def _text(example: Example) -> str | None:
    return None if example.prompt is None else example.prompt + (example.completion or "")
