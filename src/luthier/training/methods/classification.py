"""Classification: raise the probability of a text's class, with a linear head on the hidden state of its last token.

L = -mean log softmax(W h)_y over the texts of the optimiser step; h is the hidden state of the last token after the final norm,
W the head, which learns beside the adapter. This is what `AutoModelForSequenceClassification` does, and texts are tokenised as
its tokenizers do by default: no chat template, the beginning-of-text token where the base has one, cut at the longest length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from luthier.datasets.packing import PassLimits, grouped
from luthier.modeling.classes import class_logits, logits_of
from luthier.modeling.types import Packed
from luthier.training.batches import Row, Rows, pack
from luthier.training.classifiers.data import Numbers, check_classes, numbers_of, remarks_on
from luthier.training.classifiers.scores import Scores, scores_of
from luthier.training.method import Batch, Engine, Method, OnPass, Step, Tally

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Classification(Method):
    """A unit is a text."""

    rows: Rows
    labels: Sequence[str]
    """Of each row."""
    classes: tuple[str, ...]
    """In the order of the head's outputs."""
    weight_CD: torch.nn.Parameter
    """Of the head."""
    scores: Scores | None = None
    """Of the last validation."""
    _told: Tally = field(default_factory=Tally)
    _places: Numbers | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def head(self) -> torch.nn.Parameter:
        return self.weight_CD

    @property
    def places(self) -> Numbers:
        """Of each row's class in `classes`."""
        if self._places is None:
            self._places = numbers_of(self.labels, self.classes)
        return self._places

    def measured_on(self, validation: Method | None) -> Sequence[str]:
        """The held-out rows are judged by this head, and know this one's classes."""
        check_classes(self.labels, self.classes)
        if isinstance(validation, Classification):
            validation.classes, validation.weight_CD = self.classes, self.weight_CD
            validation._places = numbers_of(validation.labels, self.classes)
        held_out_N = validation.places if isinstance(validation, Classification) else None
        return remarks_on(self.places, held_out_N, len(self.classes))

    def packed(self, rows: Sequence[Row]) -> Packed:
        return replace(pack(rows), wants="hidden")

    def batches(self, engine: Engine, step: Step, limits: PassLimits) -> Iterator[Batch]:
        del engine
        self._told, self.scores = Tally(), None
        for numbers in grouped(step.numbers, self.rows.length, limits):
            packed = self.packed([self.rows[number] for number in numbers])
            place_N = torch.from_numpy(self.places[list(numbers)])
            yield Batch(packed, partial(self._loss, place_N, len(step.numbers)))

    def metrics(self) -> Mapping[str, float]:
        """Share of right answers: of the last step, or of the held-out rows with the macro-F1."""
        return self._told.means() if self.scores is None else self.scores.metrics

    def tallies(self) -> Sequence[Tally]:
        return (self._told,)

    def validation_loss(self, engine: Engine, limits: PassLimits, on_pass: OnPass) -> float:
        """Mean negative log-likelihood of the right class. `scores` then has all about it."""
        self.scores = scores_of(self.probabilities(engine, self.head, limits, on_pass), self.places)
        return self.scores.loss

    def probabilities(self, engine: Engine, head_CD: Tensor, limits: PassLimits, on_pass: OnPass) -> NDArray[np.float64]:
        """Of each class for each row, shape (N, C)."""
        parts: list[Tensor] = []
        for numbers in grouped(range(len(self)), self.rows.length, limits):
            on_pass(numbers[0] / len(self))
            parts.append(class_logits(engine, head_CD, [self.rows[number].ids for number in numbers], limits.tokens))
        return torch.cat(parts).double().softmax(-1).numpy()

    def _loss(self, place_N: Tensor, rows_of_step: int, hidden_ND: Tensor) -> Tensor:
        logits_NC = logits_of(hidden_ND, self.head)
        self._told.add("accuracy", (logits_NC.argmax(-1) == place_N).double())
        return cross_entropy(logits_NC, place_N, reduction="sum") / rows_of_step
