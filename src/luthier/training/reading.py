"""From the data files of a run to tokenised rows, and to the questions that are asked of its model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from luthier.datasets.formats import Labelled
from luthier.datasets.learning import READS
from luthier.datasets.rendering import Renderer
from luthier.errors import BaseUnavailable
from luthier.modeling.base_config import check_config
from luthier.training.evaluate import Question, Room, questions_of
from luthier.training.materials import fetch_data, renderer_of, rows_of_file
from luthier.training.method import Method
from luthier.training.methods.opening import Lengths, Make, open_method
from luthier.training.run import Run
from luthier.training.token_cache import Kept, key_of
from luthier.values import Source


@dataclass(frozen=True)
class Data:
    """Tokenised rows, and what is asked at the end."""

    renderer: Renderer
    method: Method
    validation: Method | None
    max_seq_len: int
    context: int
    hidden: int


def read_data(run: Run, base: Path) -> Data:
    spec, sources = run.spec, run.spec.sources
    run.journal.phase("reading data", "Reading and tokenising the data.")
    context, hidden = widths_of(base)
    max_seq_len = min(spec.train.max_seq_len or context, context)
    renderer = renderer_of(base, run.source)
    tokenise = partial(tokenised, run, renderer, Lengths(max_seq_len, context, hidden))
    train = run.workspace / "train.jsonl"
    pin = sources.dataset if sources else None
    fetch_data(run.attempt.job, spec.dataset, pin, run.fetch_url, train)
    method, validation = tokenise((train, pin), "training"), None
    if spec.validation_dataset is not None:
        held_out = run.workspace / "validation.jsonl"
        pin = sources.validation_dataset if sources else None
        fetch_data(run.attempt.job, spec.validation_dataset, pin, run.fetch_url, held_out)
        validation = tokenise((held_out, pin), "validation")
    for remark in method.measured_on(validation):
        run.journal.event("warning", remark, level="warning")
    return Data(renderer, method, validation, max_seq_len, context, hidden)


@dataclass
class _Known:
    """The tokens of a data file as an earlier run kept them, or made now. Of data without a pin none are kept."""

    run: Run
    renderer: Renderer
    lengths: Lengths
    pin: Source | None
    before: bool = False
    """Whether an earlier run kept them."""

    def __call__(self, make: Make) -> Kept:
        if self.run.tokens is None or self.pin is None:
            return make(self.run.workspace)
        options = (self.run.spec.method, self.lengths.max_seq_len)
        kept, self.before = self.run.tokens.get(
            key_of(self.pin.sha256, self.renderer.fingerprint, options), partial(make, self.run.workspace)
        )
        return kept


def tokenised(run: Run, renderer: Renderer, lengths: Lengths, data: tuple[Path, Source | None], name: str) -> Method:
    """The rows of a data file for the method of the run, and a word about them. Raises: AttemptFailed (`bad_data`)."""
    path, pin = data
    kind = Labelled if run.spec.method == "classifier" else READS[run.spec.method]
    found = rows_of_file(path, kind, run.progress)
    known = _Known(run, renderer, lengths, pin)
    method = open_method(run.spec, found, renderer, lengths, known)
    rows, max_seq_len = method.rows, lengths.max_seq_len
    facts = {
        "rows": len(method),
        "tokens": rows.tokens,
        "loss_tokens": rows.loss_tokens,
        "truncated": rows.truncated,
        "dropped": rows.dropped,
        "from_cache": known.before,
    }
    how = ", tokenised by an earlier run" if known.before else ""
    message = f"{len(method)} {name} rows with {rows.tokens} tokens, {rows.loss_tokens} of them to learn{how}."
    run.journal.event("phase", message, {"phase": "reading data", "dataset": name, **facts})
    if rows.truncated or rows.dropped:
        lost = (
            f"{rows.truncated} {name} rows were cut at {max_seq_len} tokens, {rows.dropped} had no answer left and are not used."
        )
        run.journal.event("warning", lost, facts, level="warning")
    return method


def widths_of(base: Path) -> tuple[int, int]:
    """Context and hidden size. Raises: ModelNotAllowed; BaseUnavailable for a config that says neither."""
    check_config(base)
    try:
        config = json.loads((base / "config.json").read_text("utf-8"))
        text = config.get("text_config", config)
        return int(text.get("max_position_embeddings", 2048)), int(text.get("hidden_size", 1024))
    except (ValueError, TypeError, AttributeError) as error:
        raise BaseUnavailable(
            "config.json of this base model does not say how wide it is.", hint="Fetch the base again, or use another one."
        ) from error


def questions_from(run: Run, path: Path, renderer: Renderer, context: int) -> Sequence[Question]:
    """The first rows of a data file, to be answered."""
    rows = rows_of_file(path, READS[run.spec.method], lambda _: run.watch.check())
    room = Room(context, run.spec.grpo.max_new_tokens if run.spec.grpo else 0)
    return questions_of(rows, renderer, run.spec.evaluate.rows, room)
