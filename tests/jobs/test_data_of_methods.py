"""A job is refused at submit when its method cannot learn from its rows, and its grader cannot read them."""

import json

import pytest

from luthier.datasets.types import Upload
from luthier.errors import FieldInvalid

CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
ROWS = {
    "sft": CHAT,
    "dpo": {"prompt": "1 + 1 =", "chosen": " 2", "rejected": " 3"},
    "orpo": {"prompt": "1 + 1 =", "chosen": " 2", "rejected": " 3"},
    "kto": {"prompt": "1 + 1 =", "completion": " 3", "label": False},
    "grpo": {"prompt": "1 + 1 =", "answer": "2"},
}
EXACT = {"type": "string_check", "reference": "{{ item.answer }}"}


def uploaded(bench, alice, *rows) -> str:
    data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    return bench.datasets.upload(alice, Upload(chunks=[data], name="rows")).id


def section(method: str) -> dict:
    return {"grpo": {"grader": EXACT}} if method == "grpo" else {}


@pytest.mark.parametrize("method", ROWS)
def test_a_method_takes_the_rows_that_it_learns_from(bench, alice, method):
    dataset = uploaded(bench, alice, ROWS[method])
    assert method in bench.datasets.get(alice, dataset).report.methods
    assert bench.submit(dataset=dataset, method=method, validation_dataset=None, **section(method)).method == method


@pytest.mark.parametrize(
    ("method", "of", "message", "hint"),
    [
        ("dpo", "sft", r"method dpo cannot learn from chat", r"`method` to sft, or give a dataset of pairs: `prompt`, `chosen`"),
        ("sft", "dpo", r"method sft cannot learn from preference pairs", r"`method` to dpo or orpo, or give"),
        ("kto", "dpo", r"method kto cannot learn from preference pairs", r"`label` \(true or false\)"),
        ("grpo", "sft", r"method grpo cannot learn from chat", r"the fields that the grader reads"),
    ],
)
@pytest.mark.parametrize("param", ["dataset", "validation_dataset"])
def test_a_job_on_rows_for_another_method_is_refused(bench, alice, method, of, message, hint, param):
    data = {"dataset": uploaded(bench, alice, ROWS[method]), "validation_dataset": None}
    data[param] = uploaded(bench, alice, ROWS[of])
    with pytest.raises(FieldInvalid, match=message) as refused:
        bench.submit(method=method, **data, **section(method))
    refused.match(hint)
    assert refused.value.param == param
    assert bench.jobs.list(alice).data == []


def test_a_grader_that_reads_a_field_that_a_row_lacks_is_refused(bench, alice):
    dataset = uploaded(bench, alice, {"prompt": "a", "answer": "b", "unit": "m"}, {"prompt": "c", "answer": None, "unit": "s"})
    with pytest.raises(FieldInvalid, match=r"reads `item.answer`, which not every row .* has: `item.unit`"):
        bench.submit(dataset=dataset, method="grpo", validation_dataset=None, **section("grpo"))
