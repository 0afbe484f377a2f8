"""Pairs, rated answers and prompts: what each row becomes, what is refused, what is only remarked."""

import gzip
import io
import json
from pathlib import Path

import pytest

from luthier.datasets.examples import Parsed
from luthier.datasets.formats import BadRow, Example, Pair, Prompt, Rated, read_rows, records
from luthier.errors import DatasetRejected, TooLarge

from .conftest import an_upload, chat, jsonl

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="the folder of real data is not here")


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def said(text: str, **more) -> dict:
    return {"role": "assistant", "content": text, **more}


def parsed(row: dict) -> Parsed | BadRow:
    return next(records(io.BytesIO(jsonl(row))))


def pair(**row) -> Pair:
    return next(read_rows(io.BytesIO(jsonl(row)), Pair))


def findings(*rows: dict) -> list[tuple[int | None, str]]:
    found = []
    for record in records(io.BytesIO(jsonl(*rows))):
        if isinstance(record, BadRow):
            found.append((record.line, record.code))
        else:
            found += [(record.line, "~" + remark.code) for remark in record.remarks]
    return found


TALK = [user("Hi"), said("Yes?"), user("1 + 1?")]
SHOWN = (user("Hi"), said("Yes?", weight=0), user("1 + 1?"))
OPENAI = {"input": {"messages": TALK}, "preferred_output": [said("2")], "non_preferred_output": [said("3")]}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TOOL = {"type": "function", "function": {"name": "add"}}


@pytest.mark.parametrize(
    "row",
    [
        OPENAI,
        {"prompt": TALK, "chosen": [said("2")], "rejected": [said("3")]},
        {"prompt": TALK, "chosen": "2", "rejected": "3"},
        {"prompt": TALK, "chosen": [*TALK, said("2")], "rejected": [*TALK, said("3")]},
        {"chosen": [*TALK, said("2")], "rejected": [*TALK, said("3")], "score": 0.9},
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: 1 + 1?\n\nAssistant: 2",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: 1 + 1?\n\nAssistant: 3",
        },
    ],
    ids=["openai", "lists", "texts", "prompt twice", "whole", "transcripts"],
)
def test_a_pair_in_any_form_is_the_same_pair(row):
    found = parsed(row)
    assert found.remarks == []
    chosen, rejected = Example(messages=(*SHOWN, said("2")), line=1), Example(messages=(*SHOWN, said("3")), line=1)
    assert found.row == Pair(chosen, rejected, 1)
    assert found.row.canonical() == {"prompt": TALK, "chosen": [said("2")], "rejected": [said("3")]}
    assert parsed(found.row.canonical()).row == found.row


def test_a_pair_of_texts_stays_text():
    found = pair(prompt="1 + 1 =", chosen=" 2", rejected=" 3")
    assert (found.chosen.prompt, found.chosen.completion, found.rejected.completion) == ("1 + 1 =", " 2", " 3")
    assert found.canonical() == {"prompt": "1 + 1 =", "chosen": " 2", "rejected": " 3"}


def test_a_text_beside_lists_is_the_message_that_belongs_there():
    assert pair(prompt="Hi", chosen=[said("a")], rejected=[said("b")]).chosen.messages == (user("Hi"), said("a"))
    with_prompt = pair(prompt="Hi", chosen=[user("Hi"), said("a")], rejected=[user("Hi"), said("b")])
    assert with_prompt.rejected.messages == (user("Hi"), said("b"))


def test_an_answer_may_call_tools_before_it_ends():
    answer = [said("", tool_calls=[CALL]), {"role": "tool", "content": "2"}, said("2")]
    found = pair(prompt=[user("1 + 1?")], chosen=answer, rejected=[said("3")], tools=[TOOL])
    assert found.chosen.messages[1:] == tuple(answer)
    assert found.chosen.tools == found.rejected.tools == (TOOL,)
    assert parsed(found.canonical()).row == found
    whole = pair(chosen=[user("1 + 1?"), *answer[:2], said("2")], rejected=[user("1 + 1?"), *answer[:2], said("3")], tools=[TOOL])
    assert [message["role"] for message in whole.chosen.messages[: whole.chosen.shown]] == ["user", "assistant", "tool"]


def test_weights_of_messages_do_not_reach_into_an_answer():
    found = pair(prompt=[*TALK[:1], said("Yes?", weight=1), TALK[2]], chosen=[said("2", weight=0)], rejected=[said("3")])
    assert found.chosen.messages == (*SHOWN, said("2"))


@pytest.mark.parametrize(
    ("row", "code", "words"),
    [
        ({"prompt": None, "chosen": "a", "rejected": "b"}, "missing_field", "`prompt` is null"),
        ({"prompt": "a", "chosen": "b", "rejected": None}, "missing_field", "`rejected` is null"),
        ({"prompt": "a", "chosen": "b"}, "missing_field", "lacks `rejected`"),
        ({**OPENAI, "input": {}}, "bad_type", "`input` holds no list"),
        ({"preferred_output": []}, "missing_field", "lacks `input`"),
        ({**OPENAI, "preferred_output": [said("2"), said("2")]}, "bad_value", "`preferred_output` does not hold exactly one"),
        ({**OPENAI, "non_preferred_output": [user("3")]}, "bad_value", "`non_preferred_output` is not a turn"),
        ({**OPENAI, "non_preferred_output": "3"}, "bad_type", "`non_preferred_output` is not a list"),
        ({"prompt": "a", "chosen": " ", "rejected": "b"}, "empty_content", "`chosen` is empty"),
        ({"prompt": TALK, "chosen": [said("")], "rejected": [said("b")]}, "empty_content", "`chosen` is empty"),
        ({"prompt": [], "chosen": [said("a")], "rejected": [said("b")]}, "empty_content", "holds no message"),
        ({"prompt": TALK, "chosen": [], "rejected": []}, "bad_value", "`chosen` is not a turn"),
        ({"prompt": TALK, "chosen": "a", "rejected": [said("b")]}, "mixed_schema", "a text, the other a list"),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "bad_type", "neither a text nor a list"),
        ({"prompt": "a", "chosen": 1, "rejected": 2}, "bad_type", "`chosen` is neither"),
        ({"prompt": TALK[:2], "chosen": "a", "rejected": "b"}, "last_not_user", "not the user's"),
        (
            {"prompt": TALK, "chosen": [said("a"), {"role": "robot", "content": ""}], "rejected": []},
            "roles",
            "In `chosen`: Message 2",
        ),
        ({"chosen": "a", "rejected": "b"}, "missing_field", "no `prompt`"),
        ({"chosen": [user("a"), said("b")], "rejected": [user("c"), said("d")]}, "prompts_differ", "differ before"),
        (
            {"chosen": [user("a"), said("b"), user("c"), said("d")], "rejected": [user("a"), said("b")]},
            "prompts_differ",
            "differ",
        ),
        ({"messages": [], "chosen": "b", "rejected": "c"}, "missing_field", "no `prompt`"),
    ],
)
def test_a_bad_pair_says_what_is_wrong(row, code, words):
    found = parsed(row)
    assert (found.code, found.line) == (code, 1)
    assert words in found.message
    assert found.hint


def test_what_is_odd_in_a_pair_is_remarked_once():
    assert findings({"prompt": "a", "chosen": "b", "rejected": "b"}) == [(1, "~no_preference")]
    assert findings({"chosen": TALK[:2], "rejected": TALK[:2]}) == [(1, "~no_preference")]
    assert findings({"prompt": "a", "chosen": "b", "rejected": ""}) == [(1, "~empty_content")]
    assert findings({"prompt": "", "chosen": "b", "rejected": "c"}) == [(1, "~empty_content")]
    assert findings({"prompt": [user("a"), user("b")], "chosen": "c", "rejected": "d"}) == [(1, "~roles")]
    called = said("", tool_calls=[CALL])
    assert findings({"prompt": [user("a")], "chosen": [called], "rejected": [called]}) == [
        (1, "~tool_unknown"),
        (1, "~no_preference"),
    ]


def test_rated_answers_learn_only_the_answer():
    row = {"prompt": TALK, "completion": [said("2")], "label": True}
    found = parsed(row)
    assert found.row == Rated(Example(messages=(*SHOWN, said("2")), line=1), label=True, line=1)
    assert found.row.canonical() == row
    text = {"prompt": "1 + 1 =", "completion": " 3", "label": False}
    assert parsed(text).row.canonical() == text
    assert parsed({**text, "prompt": [user("1 + 1?")]}).row.example.messages == (user("1 + 1?"), said(" 3"))


def test_bad_rated_answers_say_what_is_wrong():
    good = {"prompt": "a", "completion": "b", "label": True}
    bad = [{"prompt": "a", "completion": "b"}, {**good, "label": None}, {**good, "label": "good"}, {**good, "completion": ""}]
    assert findings(good, *bad, {"prompt": "a", "label": True}) == [
        (2, "missing_label"),
        (3, "missing_label"),
        (4, "bad_type"),
        (5, "empty_content"),
        (6, "missing_field"),
    ]
    assert findings({**good, "label": 1}) == [(1, "bad_type")]
    assert findings({**good, "completion": "", "label": False}) == [(1, "~empty_content")]


def test_a_class_beside_prompt_and_completion_is_no_rating():
    assert isinstance(parsed({"prompt": "a", "completion": "b", "label": "billing"}).row, Example)


def test_prompts_keep_every_other_field_for_the_grader():
    item = {"answer": 72, "nested": {"b": [1.5, None, "x"]}, "completion_tokens": 10**30}
    for row, of in (
        ({"prompt": "1 + 1 =", **item}, {"text": "1 + 1 ="}),
        ({"messages": TALK, **item}, {"messages": tuple(TALK)}),
    ):
        found = parsed(row).row
        assert found == Prompt(item, **of, line=1)
        assert parsed(found.canonical()).row == found
    assert parsed({"prompt": TALK, "answer": "2"}).row.messages == tuple(TALK)
    assert parsed({"prompt": "a", "item": {"answer": 1}}).row.item == {"answer": 1}
    assert parsed({"prompt": "a", "item": {"answer": 1}, "unit": "m"}).row.item == {"item": {"answer": 1}, "unit": "m"}
    assert parsed({"prompt": "a"}).row.item == {}


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"prompt": " ", "answer": "b"}, "empty_content"),
        ({"prompt": [], "answer": "b"}, "empty_content"),
        ({"prompt": [user(" ")], "answer": "b"}, "empty_content"),
        ({"prompt": None, "answer": "b"}, "missing_field"),
        ({"prompt": 3, "answer": "b"}, "bad_type"),
        ({"prompt": TALK[:2], "answer": "b"}, "last_not_user"),
        ({"prompt": [{"role": "system", "content": "a"}], "answer": "b"}, "last_not_user"),
        ({"prompt": "a", "answer": json.loads("[" * 30 + "]" * 30)}, None),
        ({"prompt": "a", "answer": json.loads("[" * 31 + "]" * 31)}, "too_deep"),
    ],
)
def test_a_bad_prompt_says_what_is_wrong(row, code):
    found = parsed(row)
    assert getattr(found, "code", None) == code
    if code is None:
        assert parsed(found.row.canonical()).row == found.row


PAIRED, ASKED = {"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "answer": "b"}
RATED = {"prompt": "a", "completion": "b", "label": True}
ASKS = {"messages": [user("a")], "answer": "b"}


@pytest.mark.parametrize(
    ("first", "second", "code", "words"),
    [
        (PAIRED, chat(), "schema_mismatch", "is chat .* but line 1 is preference pairs"),
        (PAIRED, ASKED, "missing_field", "lacks `chosen` and `rejected`"),
        (PAIRED, {"chosen": "b", "rejected": "c"}, "missing_field", "lacks `prompt`"),
        (PAIRED, OPENAI, "schema_mismatch", "`preferred_output`"),
        (ASKED, PAIRED, "schema_mismatch", "is preference pairs"),
        (ASKED, RATED, "schema_mismatch", "is rated answers"),
        (ASKED, {"question": "a"}, "missing_field", "lacks `prompt`"),
        (RATED, ASKED, "missing_field", "lacks `completion` and `label`"),
        ({"prompt": "a", "completion": "b"}, RATED, "schema_mismatch", "is rated answers"),
        ({"prompt": "a", "completion": "b"}, ASKED, "missing_field", "lacks `completion`"),
        (chat(), ASKS, "no_target", "nothing to learn"),
        (ASKS, chat(), "last_not_user", "last message"),
    ],
)
def test_a_row_of_another_kind_is_told_from_a_row_that_lacks_a_field(first, second, code, words):
    _, bad = records(io.BytesIO(jsonl(first, second)))
    assert (bad.line, bad.code) == (2, code)
    with pytest.raises(BadRow, match=words):
        raise bad


def test_a_trainer_reads_rows_of_one_kind_in_order():
    stream = jsonl(*({"prompt": str(number), "answer": number} for number in range(100)))
    assert [prompt.item["answer"] for prompt in read_rows(io.BytesIO(stream), Prompt)] == [*range(100)]
    with pytest.raises(BadRow, match=r"Line 1: This row is prompts .* Set `method` to grpo"):
        next(read_rows(io.BytesIO(stream), Pair))


def test_the_report_names_the_methods_and_the_fields_for_graders(datasets, alice):
    rows = [{"prompt": f"{n} + 1 =", "answer": str(n + 1), "note": None if n == 3 else "x", "odd name": 1} for n in range(12)]
    report = datasets.upload(alice, an_upload(jsonl(*rows))).report
    assert (report.schema_name, report.methods, report.item_fields) == ("prompts", ("grpo",), ("answer",))
    assert (report.usable_rows, report.loss_tokens, report.measured_rows, report.warnings) == (12, 0, 12, 0)


def test_both_answers_of_a_pair_are_measured(datasets, alice):
    rows = [{"prompt": [user(f"{n} + 1?")], "chosen": "yes " * 50, "rejected": "no"} for n in range(12)]
    report = datasets.upload(alice, an_upload(jsonl(*rows))).report
    assert report.methods == ("dpo", "orpo")
    assert (report.measured_rows, report.usable_rows, report.errors) == (12, 12, 0)
    assert report.lengths.max > 2 * report.lengths.min
    assert report.tokens == 12 * (report.lengths.max + report.lengths.min)
    assert report.roles == {"user": 12, "assistant": 24}


def test_rows_that_are_too_long_are_told(datasets, alice):
    long = "word " * 3000
    rows = [{"prompt": long if n == 7 else f"{n}", "chosen": long if n == 4 else "a", "rejected": "b"} for n in range(12)]
    report = datasets.upload(alice, an_upload(jsonl(*rows))).report
    assert (report.counts, report.over_context) == ({"too_long": 2}, 2)
    cut, lost = report.findings
    assert "training cuts the last" in cut.message
    assert "nothing to learn is left" in lost.message
    asked = [{"prompt": long if n == 4 else f"{n}"} for n in range(12)]
    report = datasets.upload(alice, an_upload(jsonl(*asked))).report
    assert report.counts == {"too_long": 1}
    assert "no answer fits" in report.findings[0].message


def test_a_file_that_can_teach_nothing_is_refused_or_warned_of(datasets, alice):
    with pytest.raises(DatasetRejected, match="same in every row"):
        datasets.upload(alice, an_upload(jsonl(*({**PAIRED, "prompt": str(n), "rejected": "b"} for n in range(12)))))
    with pytest.raises(DatasetRejected, match="nothing to learn"):
        datasets.upload(alice, an_upload(jsonl(*(chat(str(n), weight=0) for n in range(12)))))
    rated = datasets.upload(alice, an_upload(jsonl(*({**RATED, "prompt": str(n)} for n in range(12)))))
    assert (rated.report.counts, rated.report.labels) == ({"one_label": 1}, {"true": 12})


@pytest.mark.parametrize("fields", [{"completion": "b"}, {"chosen": "b", "rejected": "c"}, {"answer": "b"}])
def test_texts_among_conversations_are_told(datasets, alice, fields):
    lists = {name: [said(text)] if name == "completion" else text for name, text in fields.items()}
    rows = [{"prompt": f"{n}", **fields} if n % 3 else {"prompt": [user(f"{n}")], **lists} for n in range(12)]
    report = datasets.upload(alice, an_upload(jsonl(*rows))).report
    assert report.counts == {"mixed_schema": 1}
    assert "8 of 12 rows are texts" in report.findings[0].message


def test_a_row_that_grows_too_long_to_be_read_again_is_refused(datasets, alice):
    talk = "\n\nHuman: a\n\nAssistant: b" * 17_500 + "\n\nHuman: a\n\nAssistant:"
    with pytest.raises(TooLarge, match="bytes as it is stored") as refused:
        datasets.upload(alice, an_upload(jsonl({"chosen": talk + " c", "rejected": talk + " d"})))
    assert refused.value.error_code == "line_too_long"


@needs_data
def test_hh_rlhf_has_the_known_number_of_clean_pairs():
    with gzip.open(SHARED / "preference" / "hh_harmless_base_test.jsonl.gz") as stream:
        found = list(records(stream))
    with (SHARED / "derived" / "dpo_trl_hh_harmless.jsonl").open("rb") as stream:
        explicit = [row.canonical() for row in read_rows(stream, Pair)]
    clean = [record.row.canonical() for record in found if isinstance(record, Parsed) and not record.remarks]
    assert (len(found), len(clean)) == (2312, 2299)
    assert clean == explicit


BROKEN = [
    ("dpo_chosen_eq_rejected", [(8, "~no_preference")]),
    ("dpo_empty_chosen", [(8, "empty_content")]),
    ("dpo_empty_rejected", [(8, "~empty_content")]),
    ("dpo_mixed_str_list", [(8, "mixed_schema")]),
    ("dpo_null_prompt", [(8, "missing_field")]),
    ("dpo_null_rejected", [(8, "missing_field")]),
    ("dpo_openai_bad_outputs", [(6, "bad_value"), (9, "bad_value")]),
    ("grpo_answer_comma_ok", []),
    ("grpo_answer_number_ok", []),
    ("grpo_ok", []),
]


@needs_data
@pytest.mark.parametrize(("name", "expected"), BROKEN)
def test_faulty_files_are_judged_as_a_sensible_user_does(name, expected):
    rows = [json.loads(line) for line in (SHARED / "broken" / f"{name}.jsonl").read_text("utf-8").splitlines()]
    assert findings(*rows) == expected
