"""What each method learns of the rows of its data: their tokens, which of those carry loss, and what is left out.

A trainer fills its rows from this and a preview shows it, so that what is shown is what is learned. Rows are looked at one by
one; that they are tokenised many at a time is only faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, islice, tee
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from luthier.datasets.examples import Example, Labelled, Pair, Prompt, Rated

if TYPE_CHECKING:
    from luthier.datasets.rendering import Rendered, Renderer

_ROWS_TOGETHER, _CHARACTERS_TOGETHER = 2048, 1 << 20
"""What is tokenised at once: enough for all processors, and few megabytes of results however long the rows are."""
Unit = type[Example] | type[Pair] | type[Rated] | type[Prompt]
READS: Mapping[str, Unit] = {
    "sft": Example,
    "dpo": Pair,
    "orpo": Pair,
    "kto": Rated,
    "grpo": Prompt,
}
"""What a row of the data is, by method: of those whose tokens a preview shows."""
TRAINS_ON: Mapping[str, Unit | type[Labelled]] = {**READS, "classifier": Labelled}
"""The same of all that train on tokens."""
PARTS: Mapping[Unit, tuple[str, ...]] = {Example: ("row",), Pair: ("chosen", "rejected"), Rated: ("row",), Prompt: ("prompt",)}
"""What goes through the model of it, by name."""
R = TypeVar("R", bound=Example | Pair | Rated | Prompt | Labelled)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Lesson(Generic[R]):
    """One row of the data, as its method reads it."""

    row: R
    parts: tuple[Rendered, ...]
    """What goes through the model, in the order of `PARTS`."""
    why_left_out: str | None = None

    @property
    def truncated(self) -> int:
        """How many parts have lost their end."""
        return sum(part.truncated for part in self.parts)


def of_examples(examples: Iterable[Example], renderer: Renderer, max_len: int | None) -> Iterator[Lesson[Example]]:
    """Rows that are cut to `max_len`; left out where then no token carries loss, or where they weigh nothing."""
    for group, rendered_rows in _rendered(examples, renderer, max_len, lambda group: group):
        for example, rendered in zip(group, rendered_rows, strict=True):
            why = _nothing_left(rendered) if rendered.weight else "The row has the weight 0."
            yield Lesson(example, (rendered,), why)


def of_pairs(pairs: Iterable[Pair], renderer: Renderer, max_len: int | None) -> Iterator[Lesson[Pair]]:
    """Each answer with its prompt, cut to `max_len`; left out where then one lacks its answer."""
    from luthier.datasets.rendering import answers_of, paired

    for group, answers in _rendered(pairs, renderer, max_len, answers_of):
        for pair, rendered in zip(group, paired(answers), strict=True):
            yield Lesson(pair, tuple(rendered), _nothing_left(rendered.chosen) or _nothing_left(rendered.rejected))


def of_rated(rated: Iterable[Rated], renderer: Renderer, max_len: int | None) -> Iterator[Lesson[Rated]]:
    """Rows that are cut to `max_len`; left out where then no token carries loss."""
    for group, rendered_rows in _rendered(rated, renderer, max_len, lambda group: [one.example for one in group]):
        for each, rendered in zip(group, rendered_rows, strict=True):
            yield Lesson(each, (rendered,), _nothing_left(rendered))


def of_prompts(prompts: Iterable[Prompt], renderer: Renderer, max_len: int | None) -> Iterator[Lesson[Prompt]]:
    """Questions up to where the answer starts, whole; left out where that leaves no room for an answer."""
    from luthier.datasets.rendering import Rendered

    for prompt in prompts:
        ids = renderer.prompt_of(prompt)
        full = max_len is not None and len(ids) >= max_len
        why = f"Its {len(ids)} tokens leave no room for an answer." if full else None
        yield Lesson(prompt, (Rendered(ids, [False] * len(ids)),), why)


def of_labelled(labelled: Iterable[Labelled], renderer: Renderer, max_len: int | None) -> Iterator[Lesson[Labelled]]:
    """Texts that are cut to `max_len`. What is learned, their class, stands behind the last token."""
    from luthier.datasets.rendering import Rendered

    for row in labelled:
        whole = renderer.text(row.text or "")
        ids = whole[:max_len]
        yield Lesson(row, (Rendered(ids, [False] * len(ids) + [True], truncated=len(ids) < len(whole)),))


_OF: Mapping[Unit | type[Labelled], Callable[[Iterable[Any], Renderer, int | None], Iterator[Lesson[Any]]]] = {
    Example: of_examples,
    Pair: of_pairs,
    Rated: of_rated,
    Prompt: of_prompts,
    Labelled: of_labelled,
}


def lessons(method: str, rows: Iterable[Any], renderer: Renderer, max_len: int | None) -> Iterator[Lesson[Any]]:
    """What `method` learns of rows of the kind that `TRAINS_ON` names, in their order. Raises: Invalid `template`."""
    return _OF[TRAINS_ON[method]](rows, renderer, max_len)


def positions(carries_loss: Sequence[bool]) -> list[int]:
    """Where the model is asked for the next token. The first token has nothing before it that could predict it.

    >>> positions([True, False, True])
    [1]
    """
    return list(compress(range(len(carries_loss) - 1), islice(carries_loss, 1, None)))


def _nothing_left(rendered: Rendered) -> str | None:
    if any(rendered.loss[1:]):
        return None
    cut = f" within the first {len(rendered.ids)}" if rendered.truncated else ""
    return f"No token{cut} carries loss."


def _rendered(
    rows: Iterable[_T], renderer: Renderer, max_len: int | None, examples_of: Callable[[list[_T]], Sequence[Example]]
) -> Iterator[tuple[list[_T], list[Rendered]]]:
    """The rows in groups, each with its tokens."""
    groups, known = tee(_groups(rows, lambda row: sum(map(_characters, examples_of([row])))))
    return zip(known, renderer.render_groups(map(examples_of, groups), max_len), strict=True)


def _groups(rows: Iterable[_T], characters_of: Callable[[_T], int]) -> Iterator[list[_T]]:
    """As many as are worth tokenising together."""
    group: list[_T] = []
    characters = 0
    for row in rows:
        group.append(row)
        characters += characters_of(row)
        if len(group) == _ROWS_TOGETHER or characters >= _CHARACTERS_TOGETHER:
            yield group
            group, characters = [], 0
    if group:
        yield group


def _characters(example: Example) -> int:
    return len(example.prompt or "") + len(example.completion or "") + sum(len(each["content"]) for each in example.messages)
