"""From the data files of a run to tokenised rows, and to the questions that are asked of its model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from luthier.datasets.crew import cores
from luthier.datasets.learning import READS
from luthier.datasets.rendering import Renderer
from luthier.errors import BaseUnavailable
from luthier.modeling.base_config import check_config
from luthier.training.evaluate import Question, Room, questions_of
from luthier.training.materials import bad_rows_told, fetch_data, renderer_of, rows_of_file
from luthier.training.method import Method
from luthier.training.methods.opening import Lengths, open_method
from luthier.training.parts import Reading
from luthier.training.ranks import place
from luthier.training.run import Run
from luthier.training.token_cache import Kept, key_of
from luthier.training.tokenising import tokens_of_file
from luthier.values import Source

_MOST_HELPERS = 16
"""Processes that tokenise: each holds what it makes of a block, and a copy of what it changed of the tokenizer."""


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


def _tokens_of(run: Run, renderer: Renderer, max_seq_len: int, data: tuple[Path, Source | None]) -> tuple[Kept, bool]:
    """The tokens of a data file, and whether an earlier run kept them. Of data without a pin none are kept."""
    path, pin = data
    helpers = min(_MOST_HELPERS, cores() // place().count)
    how = Reading(path, run.spec.method, max_seq_len, run.workspace / "base", helpers)

    def make() -> Kept:
        with bad_rows_told():
            return tokens_of_file(how, renderer, run.progress, run.workspace)

    if run.tokens is None or pin is None:
        return make(), False
    return run.tokens.get(key_of(pin.sha256, renderer.fingerprint, (run.spec.method, max_seq_len)), make)


def tokenised(run: Run, renderer: Renderer, lengths: Lengths, data: tuple[Path, Source | None], name: str) -> Method:
    """The rows of a data file for the method of the run, and a word about them. Raises: AttemptFailed (`bad_data`)."""
    kept, before = _tokens_of(run, renderer, lengths.max_seq_len, data)
    method = open_method(run.spec, kept, renderer, lengths)
    rows, max_seq_len = method.rows, lengths.max_seq_len
    facts = {
        "rows": len(method),
        "tokens": rows.tokens,
        "loss_tokens": rows.loss_tokens,
        "truncated": rows.truncated,
        "dropped": rows.dropped,
        "from_cache": before,
    }
    how = ", tokenised by an earlier run" if before else ""
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
