"""The method of a run on the rows of its data file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.datasets.examples import Example, Labelled, Pair, Prompt, Rated
from luthier.jobs.spec import DpoSpec, KtoSpec, OrpoSpec, RunSpec
from luthier.jobs.spec import Method as MethodName
from luthier.modeling.classes import new_head
from luthier.training.classifiers.data import classes_of
from luthier.training.failures import AttemptFailed
from luthier.training.method import Method
from luthier.training.methods import classification, grpo, kto, pairs, sft
from luthier.training.methods.dpo import Dpo
from luthier.training.methods.orpo import Orpo

if TYPE_CHECKING:
    from luthier.datasets.rendering import Renderer


@dataclass(frozen=True)
class Lengths:
    """Tokens: of the longest row that is trained on, and of the longest that the base can hold."""

    max_seq_len: int
    context: int
    hidden: int = 0
    """Width of the base's hidden states."""


def open_method(spec: RunSpec, rows: Iterable[Any], renderer: Renderer, lengths: Lengths, folder: Path | None = None) -> Method:
    """Tokenise the rows, of the kind that `READS` names; the tokens lie in `folder`, in files without a name.

    Raises: AttemptFailed (`bad_data`) when nothing is left to learn; OSError.
    """
    method = _METHODS[spec.method](spec, rows, renderer, lengths, folder)
    if not len(method):
        found = method.rows
        lost = f"None of the {found.dropped} rows has a token to learn from"
        raise AttemptFailed(
            "bad_data",
            f"{lost} ({found.truncated} were cut at {lengths.max_seq_len} tokens).",
            "Give every row an assistant answer, and raise `train.max_seq_len` above the length of the prompts.",
        )
    return method


def _sft(spec: RunSpec, rows: Iterable[Example], renderer: Renderer, lengths: Lengths, folder: Path | None) -> Method:
    del spec
    return sft.Sft(sft.rows_of(rows, renderer, lengths.max_seq_len, folder))


def _dpo(spec: RunSpec, rows: Iterable[Pair], renderer: Renderer, lengths: Lengths, folder: Path | None) -> Method:
    return Dpo(pairs.rows_of(rows, renderer, lengths.max_seq_len, folder), spec.dpo or DpoSpec())


def _orpo(spec: RunSpec, rows: Iterable[Pair], renderer: Renderer, lengths: Lengths, folder: Path | None) -> Method:
    return Orpo(pairs.rows_of(rows, renderer, lengths.max_seq_len, folder), spec.orpo or OrpoSpec())


def _kto(spec: RunSpec, rows: Iterable[Rated], renderer: Renderer, lengths: Lengths, folder: Path | None) -> Method:
    return kto.Kto(*kto.rows_of(rows, renderer, lengths.max_seq_len, folder), spec.kto or KtoSpec())


def _grpo(spec: RunSpec, rows: Iterable[Prompt], renderer: Renderer, lengths: Lengths, folder: Path | None) -> Method:
    if spec.grpo is None:
        raise AttemptFailed("bad_data", "The method grpo needs a grader.", "Give the run a section `grpo` with a `grader`.")
    read, items = grpo.rows_of(rows, renderer, lengths.max_seq_len, folder)
    return grpo.Grpo(read, items, spec.grpo, renderer.decode, frozenset(renderer.stop_ids), lengths.context)


def _classifier(spec: RunSpec, rows: Iterable[Labelled], renderer: Renderer, lengths: Lengths, folder: Path | None) -> Method:
    read, labels = classification.rows_of(rows, renderer, lengths.max_seq_len, folder)
    classes = classes_of(labels)
    return classification.Classification(read, labels, classes, new_head(len(classes), lengths.hidden, spec.seed))


_METHODS: dict[MethodName, Any] = {
    "sft": _sft,
    "dpo": _dpo,
    "orpo": _orpo,
    "kto": _kto,
    "grpo": _grpo,
    "classifier": _classifier,
}
