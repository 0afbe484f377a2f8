"""A preview shows what the trainer holds: for each method the same tokens, the same loss, the same rows left out and together."""

import json

import pytest
from tests.datasets.conftest import TINY

from luthier.datasets.examples import Example
from luthier.datasets.formats import read_rows
from luthier.datasets.learning import READS
from luthier.datasets.packing import PassLimits
from luthier.datasets.previewing import Known, Wish, preview
from luthier.datasets.rendering import Renderer
from luthier.errors import FieldInvalid
from luthier.graders.types import StringCheck
from luthier.jobs.spec import GrpoSpec, RunSpec
from luthier.training.method import Step
from luthier.training.methods.opening import Lengths, open_method
from luthier.training.tokenising import rows_of

CONTEXT = 1024
LONG = "This is a long answer, and it goes on and on. " * 8
ASK = [{"role": "user", "content": "Where is my żółw 🐢? <|im_start|>system"}]


def say(text, **more):
    return {"role": "assistant", "content": text, **more}


CHATS = [
    {"messages": [*ASK, say("On its way.")]},
    {"messages": [{"role": "system", "content": "Be brief."}, *ASK, say("Yes?", weight=0), *ASK, say("No.")], "weight": 0.5},
    {"messages": [*ASK, say(LONG)]},
    {"messages": [{"role": "user", "content": LONG}, say("Cut away.")]},
    {"messages": [*ASK, say("Worth nothing.")], "weight": 0},
    {"messages": [*ASK, say("The last one.")]},
]
PAIRS = [
    {"prompt": ASK, "chosen": [say("Good.")], "rejected": [say("Bad, and longer.")]},
    {"prompt": [{"role": "user", "content": LONG}], "chosen": [say("a")], "rejected": [say("b")]},
    {"prompt": ASK, "chosen": [say(LONG)], "rejected": [say("Short.")]},
]
RATED = [
    {"prompt": ASK, "completion": [say(text)], "label": good} for text, good in (("Yes.", True), (LONG, False), ("No.", False))
]
PROMPTS = [
    {"prompt": ASK, "answer": "1"},
    {"prompt": [{"role": "user", "content": LONG * 2}], "answer": "2"},
    {"prompt": "Say:", "answer": "3"},
]
TEXTS = [{"prompt": "1 + 1 =", "completion": " 2"}, {"prompt": "Say:", "completion": LONG}]
CASES = [("sft", CHATS), ("sft", TEXTS), ("dpo", PAIRS), ("orpo", PAIRS), ("kto", RATED), ("grpo", PROMPTS)]


@pytest.fixture(scope="module")
def renderer():
    return Renderer.load(TINY)


def stored(method, rows):
    """Canonical rows with the lines that they came from, here every second one."""
    data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    from io import BytesIO

    read = list(read_rows(BytesIO(data), READS[method]))
    return read, [(2 * number + 1, json.dumps(row.canonical()).encode() + b"\n") for number, row in enumerate(read)]


def trained(method, read, renderer, max_seq_len):
    grpo = GrpoSpec(grader=StringCheck(reference="x")) if method == "grpo" else None
    spec = RunSpec(base_model="luthier/tiny", dataset="d", method=method, grpo=grpo)
    return open_method(spec, rows_of(method, read, renderer, max_seq_len), renderer, Lengths(max_seq_len, CONTEXT))


@pytest.mark.parametrize(("method", "rows"), CASES)
@pytest.mark.parametrize("max_seq_len", [40, CONTEXT])
def test_each_method_shows_what_it_trains_on(renderer, method, rows, max_seq_len):
    read, lines = stored(method, rows)
    shown = preview(lines, renderer, Known("luthier/tiny", CONTEXT, (method,), len(rows)), Wish(max_seq_len=max_seq_len))
    trainer = trained(method, read, renderer, max_seq_len)
    parts = [(row, part) for row in shown.data if row.left_out is None for part in row.parts]
    assert len(parts) == len(trainer.rows)
    for number, (row, part) in enumerate(parts):
        held = trainer.rows[number]
        assert [token.id for token in part.tokens if not token.cut] == list(held.ids)
        assert [at - 1 for at, token in enumerate(part.tokens) if token.loss] == list(held.loss_at)
        assert (row.weight, part.length, part.learned) == (held.weight, len(held.ids), len(held.loss_at))
    assert len({row.line for row in shown.data if row.left_out}) == trainer.rows.dropped
    assert sum(part.cut > 0 for row in shown.data for part in row.parts) == (trainer.rows.truncated if method != "grpo" else 0)
    assert [row.line for row in shown.data] == [line for line, _ in lines]


def test_rows_are_packed_as_the_trainer_packs_them(renderer):
    read, lines = stored("sft", CHATS)
    for wish, limits in ((Wish(batch_size=2), PassLimits(2, 4096)), (Wish(packing=False), PassLimits(1, 4096))):
        shown = preview(lines, renderer, Known("luthier/tiny", CONTEXT, ("sft",), 640), wish).packing
        method = trained("sft", read, renderer, CONTEXT)
        batches = list(method.batches(None, Step(range(len(method))), limits))
        assert [each.tokens for each in shown.passes] == [len(batch.packed.ids_T) for batch in batches]
        assert [len(each.lines) for each in shown.passes] == [len(batch.packed.lengths) for batch in batches]
    by_itself = preview(lines, renderer, Known("luthier/tiny", CONTEXT, ("sft",), 640), Wish())
    assert by_itself.packing.rows_per_pass == 16  # what `auto` takes for so many rows


def test_the_texts_of_the_tokens_are_the_rendered_template(renderer):
    read, lines = stored("sft", CHATS)
    shown = preview(lines, renderer, Known("luthier/tiny", CONTEXT, ("sft",), 6), Wish())
    text = "".join(token.text for token in shown.data[0].parts[0].tokens)
    assert text == f"<|im_start|>user\n{ASK[0]['content']}<|im_end|>\n<|im_start|>assistant\nOn its way.<|im_end|>\n"
    assert shown.data[0].parts[0].special_text
    assert (shown.end_of_turn, shown.rendering_sha256) == ("<|im_end|>", renderer.fingerprint)
    assert isinstance(read[0], Example)


def test_a_method_that_cannot_learn_from_the_rows_is_refused(renderer):
    _, lines = stored("sft", TEXTS)
    for methods, asked in ((("sft",), "dpo"), (("classifier",), None), ((), "sft")):
        with pytest.raises(FieldInvalid) as refused:
            preview(lines, renderer, Known("luthier/tiny", CONTEXT, methods, 2), Wish(method=asked))
        assert refused.value.param == "method"


def test_a_huge_row_is_shown_in_part_and_counted_whole(renderer):
    _, lines = stored("sft", [{"prompt": "Count:", "completion": " 1 2 3 4 5 6" * 4000}])
    (part,) = preview(lines, renderer, Known("luthier/tiny", CONTEXT, ("sft",), 1), Wish()).data[0].parts
    assert (part.length, len(part.tokens)) == (CONTEXT, 20_000)
    assert part.hidden == part.length + part.cut - 20_000 > 0
