"""A classifier of texts: an adapter and a head of classes on a base. What follows its training, and what it answers.

`final_model/` is PEFT's format for `SEQ_CLS`, with a `config.json` that names the classes, so that transformers and peft load it
alone; `classifier.json` says the same for `load`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from luthier.datasets.rendering import Renderer
from luthier.errors import ArtifactCorrupt
from luthier.modeling.classes import class_logits, new_head
from luthier.modeling.classifiers import on_base
from luthier.modeling.classifiers.saving import About, write_about
from luthier.modeling.engines import Prefer
from luthier.modeling.load import LoadedBase
from luthier.modeling.types import TrainingEngine
from luthier.training import export
from luthier.training.checks import Checks
from luthier.training.classifiers import measuring
from luthier.training.classifiers.data import Inputs
from luthier.training.classifiers.scores import Measured
from luthier.training.fitting import load_once
from luthier.training.method import Method
from luthier.training.methods.classification import Classification
from luthier.training.reading import Data
from luthier.training.run import Run
from luthier.training.tuning import Trained, publish, take_best

_PROBES = 64
_LEAST_CHANGE = 1e-6
_SAME = 1e-4
_TOKENS_AT_ONCE = 4096


@dataclass(frozen=True)
class TextClassifier:
    """A model that tells how likely each class of a text is; implements `saving.Classifier`."""

    library: ClassVar[str] = "torch"
    about: About
    engine: TrainingEngine
    head_CD: Tensor
    renderer: Renderer
    revision: str
    """Of the base."""

    def probabilities(self, inputs: Inputs) -> NDArray[np.float64]:
        """Of each class for each text, shape (N, C)."""
        rows = [self.renderer.text(str(text))[: self.about.max_tokens] for text in inputs]
        return self.logits(rows).double().softmax(-1).numpy()

    def logits(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Of rows of token ids, shape (N, C)."""
        return class_logits(self.engine, self.head_CD, rows, _TOKENS_AT_ONCE)

    def save(self, folder: Path) -> None:
        self.engine.save_adapter(folder, base_model=self.about.model, revision=self.revision, head=self.head_CD)
        write_about(folder, self.about)

    @property
    def finite(self) -> bool:
        weights = [*self.engine.parameters.values(), self.head_CD]
        return all(bool(weight.isfinite().all()) for weight in weights)


def load(folder: Path, base: LoadedBase, renderer: Renderer, prefer: Prefer = "auto") -> TextClassifier:
    """A classifier as it was saved, on its base. Raises: ArtifactCorrupt for anything else."""
    found = on_base.load(folder, base, prefer)
    return TextClassifier(found.about, found.engine, found.head_CD, renderer, "")


# -- after the last step -----------------------------------------------------------------------------------------------


def finish(run: Run, base: Path, data: Data, trained: Trained) -> None:
    """Check what was learned, measure it, publish it. Raises: AttemptFailed, Stopping, Fenced."""
    method = data.method
    if not isinstance(method, Classification):
        raise TypeError("only a classification ends in a classifier")
    run.watch.check()
    run.journal.phase("checking", "Checking the model.")
    take_best(run, data, trained)
    source, folder = run.source, run.workspace / "final_model"
    about = About(model=source.id, options={}, reads="labelled", pixels=0, classes=method.classes, max_tokens=data.max_seq_len)
    classifier = TextClassifier(about, trained.engine, method.head, data.renderer, source.revision)
    classifier.save(folder)
    again = partial(load, folder, load_once(run.loaded, run.spec, base, trained.state), data.renderer, trained.plan.fixed.engine)
    checks = check(classifier, again, _probes(data.validation or method), run.spec.seed)
    export.publish_json(run.attempt, "checks.json", checks.as_json())
    checks.require()
    export.copy_tokenizer(base, folder)
    write_config(base, folder, method.classes)
    run.journal.phase("evaluating", "Measuring the model.")
    measured = _measure(run, data, trained, method)
    scores = measuring.publish(run.attempt, run.journal, measured, held_out=data.validation is not None)
    publish(run, folder, trained, scores)


def check(classifier: TextClassifier, again: Callable[[], TextClassifier], probes: Sequence[Sequence[int]], seed: int) -> Checks:
    """Compare a saved classifier with what it was before it learned, and with itself, loaded again. probes: token ids."""
    classes, hidden = classifier.head_CD.shape
    tuned_NC, fresh_CD = classifier.logits(probes), new_head(classes, hidden, seed)
    with classifier.engine.adapter_off():
        change = _gap(tuned_NC, class_logits(classifier.engine, fresh_CD, probes, _TOKENS_AT_ONCE))
    try:
        gap = _gap(tuned_NC.softmax(-1), again().logits(probes).softmax(-1))
    except ArtifactCorrupt:
        gap = None
    return Checks(
        finite=classifier.finite,
        changes_logits=change > _LEAST_CHANGE,
        max_logit_change=change if math.isfinite(change) else 0.0,
        loads_again=gap is not None,
        same_after_reload=gap is not None and gap <= _SAME,
    )


def write_config(base: Path, folder: Path, classes: Sequence[str]) -> None:
    """`config.json` of the base as a model of these classes: what `AutoModelForSequenceClassification` is built by."""
    config: dict[str, Any] = json.loads((base / "config.json").read_text("utf-8"))
    name = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.get(config.get("model_type", ""))
    if config.get("pad_token_id") is None:  # without one, only one text at a time could be asked
        ends = config.get("eos_token_id")
        config["pad_token_id"] = ends[0] if isinstance(ends, list) else ends
    config |= {
        "architectures": [name] if name else [],
        "id2label": {str(place): label for place, label in enumerate(classes)},
        "label2id": {label: place for place, label in enumerate(classes)},
        "problem_type": "single_label_classification",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")


def _measure(run: Run, data: Data, trained: Trained, method: Classification) -> Measured:
    rows = data.validation if isinstance(data.validation, Classification) else method
    measure = partial(rows.probabilities, trained.engine, limits=trained.plan.limits)
    answers_NC = measure(method.head, on_pass=lambda done: run.progress(done / 2))
    fresh_CD = new_head(len(method.classes), method.head.shape[1], run.spec.seed)
    with trained.engine.adapter_off():
        untrained_NC = measure(fresh_CD, on_pass=lambda done: run.progress(0.5 + done / 2))
    return Measured(method.classes, method.places, rows.places, answers_NC, untrained_NC)


def _probes(method: Method) -> list[Sequence[int]]:
    return [method.rows[number].ids for number in range(min(_PROBES, len(method)))]


def _gap(one: Tensor, other: Tensor) -> float:
    """Infinity where a value is not a number."""
    gap = float((one - other).abs().max())
    return math.inf if math.isnan(gap) else gap
