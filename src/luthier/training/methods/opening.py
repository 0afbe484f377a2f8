"""The method of a run on the tokens of its data file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from luthier.graders.types import judges_of
from luthier.jobs.spec import DpoSpec, KtoSpec, OrpoSpec, RunSpec
from luthier.jobs.spec import Method as MethodName
from luthier.modeling.classes import new_head
from luthier.training.classifiers.data import classes_of
from luthier.training.failures import AttemptFailed
from luthier.training.method import Method
from luthier.training.methods import classification, grpo, kto, sft
from luthier.training.methods.dpo import Dpo
from luthier.training.methods.orpo import Orpo
from luthier.training.token_cache import Kept

if TYPE_CHECKING:
    from luthier.datasets.rendering import Renderer


@dataclass(frozen=True)
class Lengths:
    """Tokens: of the longest row that is trained on, and of the longest that the base can hold."""

    max_seq_len: int
    context: int
    hidden: int = 0
    """Width of the base's hidden states."""


def open_method(spec: RunSpec, found: Kept, renderer: Renderer, lengths: Lengths) -> Method:
    """The run's method on these tokens. Raises: AttemptFailed (`bad_data`) when nothing is left to learn."""
    if not len(found.rows):
        lost = f"None of the {found.rows.dropped} rows has a token to learn from"
        raise AttemptFailed(
            "bad_data",
            f"{lost} ({found.rows.truncated} were cut at {lengths.max_seq_len} tokens).",
            "Give every row an assistant answer, and raise `train.max_seq_len` above the length of the prompts.",
        )
    return _METHODS[spec.method](spec, found, renderer, lengths)


def _sft(spec: RunSpec, found: Kept, renderer: Renderer, lengths: Lengths) -> Method:
    del spec, renderer, lengths
    return sft.Sft(found.rows)


def _dpo(spec: RunSpec, found: Kept, renderer: Renderer, lengths: Lengths) -> Method:
    del renderer, lengths
    return Dpo(found.rows, spec.dpo or DpoSpec())


def _orpo(spec: RunSpec, found: Kept, renderer: Renderer, lengths: Lengths) -> Method:
    del renderer, lengths
    return Orpo(found.rows, spec.orpo or OrpoSpec())


def _kto(spec: RunSpec, found: Kept, renderer: Renderer, lengths: Lengths) -> Method:
    del renderer, lengths
    return kto.Kto(found.rows, found.beside, spec.kto or KtoSpec())


def _grpo(spec: RunSpec, found: Kept, renderer: Renderer, lengths: Lengths) -> Method:
    if spec.grpo is None:
        raise AttemptFailed("bad_data", "The method grpo needs a grader.", "Give the run a section `grpo` with a `grader`.")
    words = renderer if judges_of(spec.grpo.grader) else None
    return grpo.Grpo(found.rows, found.beside, spec.grpo, renderer.decode, frozenset(renderer.stop_ids), lengths.context, words)


def _classifier(spec: RunSpec, found: Kept, renderer: Renderer, lengths: Lengths) -> Method:
    del renderer
    classes = classes_of(found.beside)
    return classification.Classification(found.rows, found.beside, classes, new_head(len(classes), lengths.hidden, spec.seed))


_METHODS: dict[MethodName, Callable[[RunSpec, Kept, Renderer, Lengths], Method]] = {
    "sft": _sft,
    "dpo": _dpo,
    "orpo": _orpo,
    "kto": _kto,
    "grpo": _grpo,
    "classifier": _classifier,
}
"""How the tokens of a file become the method."""
