"""What the texts of rows are like: secrets and personal data, cut answers, tool calls beside their schema, languages, labels.

All of it warns, nothing here rejects a row.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, cast

from luthier.datasets import rules
from luthier.datasets.endings import Ends
from luthier.datasets.examples import Labelled, Message, Parsed, Prompt, Row, is_learned
from luthier.datasets.languages import language_of
from luthier.datasets.personal_data import found_in
from luthier.datasets.strict_json import dump
from luthier.datasets.tally import Tally

_SCHEMA_SECONDS = 10.0
"""For the schemas of tools, all rows together: a schema is a stranger's, too."""
_NO_SCHEMA = (
    "tool_schema",
    "The `parameters` of a tool are no JSON schema that can be checked here, so neither are its calls.",
    'Write {"type": "object", "properties": {...}}, and keep references within it.',
)
_NO_FIT = (
    "tool_args",
    "The arguments of a tool call are not as the tool's `parameters` say.",
    "Mend the arguments, or the schema.",
)


class Content:
    """Looks at each good row, and at the end at what they have in common."""

    def __init__(self, language_every: int) -> None:
        self.languages: Counter[str] = Counter()
        self.ends = Ends()
        self.every = language_every
        self._schemas: dict[bytes, bool] = {}
        self._schema_seconds = _SCHEMA_SECONDS

    def look(self, tally: Tally, ends: Ends, parsed: Parsed, canonical: bytes) -> None:
        """One good row, and the bytes that are kept of it."""
        row = parsed.row
        if isinstance(row, Labelled) and row.text is None:
            return
        search(tally, parsed.line, canonical)
        ends.look(parsed.line, _answer_of(row) or "")
        if row.messages and any("tool_calls" in message for message in row.messages):
            self._check_calls(tally, parsed)
        if isinstance(row, Prompt):
            _check_reference(tally, parsed.line, row.item)

    def listen(self, row: Row) -> None:
        """In which language one row is."""
        self.languages[language_of(_text_of(row))] += 1

    def close(self, tally: Tally) -> None:
        """What only all rows together can tell."""
        cut = self.ends.cut
        if cut.count and cut.count <= rules.CUT_SHARE * self.ends.long:
            for line, _ in cut:
                said = "A long answer ends in the middle of a sentence: it looks cut off."
                tally.note(line, "truncated_answer", "warning", (said, "Write the rest of it, or remove the row."))
            tally.count("truncated_answer", cut.count - len(list(cut)))
        for line in rules.language_mix(self.languages):
            tally.note(None, "language_mix", "warning", line)
        for code, message, fix in rules.odd_labels(tally.labels):
            tally.note(None, code, "warning", (message, fix))

    def _check_calls(self, tally: Tally, parsed: Parsed) -> None:
        schemas = {name: schema for tool in _tools_of(parsed) for name, schema in _parameters(tool)}
        for message in parsed.row.messages:
            for call in message.get("tool_calls", ()):
                wrong = self._wrong(schemas.get(call["function"]["name"]), call["function"]["arguments"])
                if wrong is not None:
                    code, *said = wrong
                    tally.note(parsed.line, code, "warning", (said[0], said[1]))
                    return

    def _wrong(self, schema: Any, arguments: Any) -> tuple[str, str, str] | None:
        """Of a call and what its tool says of it: (code, what is wrong, what to do)."""
        from luthier.graders.json_schema import fits
        from luthier.graders.templates import Ungradable

        if not schema and (schema is None or isinstance(schema, dict)):
            return None
        if not isinstance(schema, dict):
            return _NO_SCHEMA
        if self._schema_seconds < 0:
            return None
        given = cast("dict[str, Any]", schema)
        started = time.monotonic()
        try:
            written = dump(given)
            if written not in self._schemas and len(self._schemas) < rules.MAX_LABELS:
                self._schemas[written] = _usable(given)
            if not self._schemas.get(written, True):
                return _NO_SCHEMA
            return None if written not in self._schemas or fits(given, arguments) else _NO_FIT
        except Ungradable:
            return None
        finally:
            self._schema_seconds -= time.monotonic() - started


def search(tally: Tally, line: int, canonical: bytes) -> None:
    """Whether a row holds secrets or personal data."""
    for code, noun in found_in(canonical):
        _warn(tally, line, code, noun)


def _warn(tally: Tally, line: int, code: str, noun: str) -> None:
    fix = "Remove or replace it: a model can learn it by heart and tell it to anyone."
    tally.note(line, code, "warning", (f"The row seems to hold {noun}.", fix))


def _usable(schema: Mapping[str, Any]) -> bool:
    from luthier.graders.json_schema import check_schema

    try:
        check_schema(schema)
    except ValueError:
        return False
    return True


def _parameters(tool: Mapping[str, Any]) -> list[tuple[str, Any]]:
    function = tool.get("function", tool)
    fields = cast("dict[str, Any]", function) if isinstance(function, dict) else {}
    schema = fields.get("parameters")
    return [] if schema is None else [(str(fields.get("name")), schema)]


def _tools_of(parsed: Parsed) -> tuple[Mapping[str, Any], ...]:
    row = parsed.row
    if isinstance(row, Labelled):
        return ()
    return (row.tools if isinstance(row, Prompt) else row.examples[0].tools) or ()


def _answer_of(row: Row) -> str | None:
    """The last text that is learned."""
    for example in row.examples[:1]:
        if example.prompt is not None:
            return example.completion
        if example.messages and is_learned(example.messages[-1]) and "tool_calls" not in example.messages[-1]:
            return _said(example.messages[-1])
    return None


def _said(message: Message) -> str:
    return cast("str", message["content"])


def _text_of(row: Row) -> str:
    """What tells the language of a row: its answer, or else what is asked."""
    if isinstance(row, Labelled):
        return row.text or ""
    if isinstance(row, Prompt) and row.text is not None:
        return row.text
    answer = _answer_of(row)
    return answer if answer else " ".join(_said(message) for message in row.messages[-2:])


def _check_reference(tally: Tally, line: int, item: Mapping[str, Any]) -> None:
    for name in rules.REFERENCES & item.keys():
        if item[name] is None or item[name] in ([], {}) or (isinstance(item[name], str) and not item[name].strip()):
            said = f"`{name}` is empty: a grader has nothing to compare with."
            tally.note(line, "empty_reference", "warning", (said, "Write the right answer, or remove the row."))
