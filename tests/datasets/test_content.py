"""What is remarked of texts: secrets, personal data, cut answers, languages, labels, tool calls. Nothing of it is repeated."""

import pytest

from luthier.datasets.languages import language_of
from luthier.datasets.personal_data import found_in, suspects

from .conftest import an_upload, chat, jsonl, rows

# Put together here, so that no scanner takes this file for a leak.
SECRETS = {
    "aws": "AKIA" + "IOSFODNN7" + "EXAMPLE",
    "github": "ghp_" + "a1B2c3D4" * 4 + "e5F6",
    "openai": "sk-" + "0a1b2c3d" * 5,
    "slack": "xoxb-" + "123456789012-" * 2 + "abcdef",
    "google": "AIza" + "Sy0123456789" * 3,
    "hub": "hf_" + "aB3dE6gH" * 4 + "xY",
    "token": "eyJ" + "hbGciOiJIUzI1" + ".eyJ" + "zdWIiOiIxMjM0NTY3" + "." + "SflKxwRJSMeKKF2QT4fwpM",
    "key file": "-----BEGIN RSA " + "PRIVATE KEY-----",
}
PERSONAL = {
    "a mail address": ["jo.smith+shop@mail.example-shop.co.uk", "Write to JO@SHOP.IO!"],
    "a card number": ["4111 1111 1111 1111", "Card 5500-0000-0000-0004 please", "378282246310005"],
    "a phone number": ["+49 30 1234567", "call (415) 555-2671 now", "212-555-0123"],
}
HARMLESS = [
    "3 + 4 = 7, and 1,234,567.89 is a number of 9 digits",
    "4111 1111 1111 1112 fails the check",
    "0000000000000000",
    "2024-01-31 12:00:00 to 2024-02-28",
    "write to someone@example.com",
    "a decorator: @property, @app.get",
    "sk-learn and sk-2 are no keys; neither is task-0a1b2c3d0a1b2c3d0a1b2c3d0a1b2c3d0a1b",
    "1.2.3.4-alpha, version 10.20.30",
    "ISBN 978-3-16-148410-0",
    "x = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]",
    "3.14159265358979323846",
]


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_found(name):
    assert ("secret", "a key or a token") in list(found_in(f'{{"content":"Use {SECRETS[name]} for it."}}'.encode()))


@pytest.mark.parametrize(("noun", "text"), [(noun, text) for noun, texts in PERSONAL.items() for text in texts])
def test_personal_data_are_found(noun, text):
    assert list(found_in(f'{{"content":"{text}"}}'.encode())) == [("personal_data", noun)]


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_like_it_is_left_alone(text):
    assert list(found_in(f'{{"content":"{text}"}}'.encode())) == []


def test_rows_searched_together_hold_what_each_of_them_holds() -> None:
    texts = ["Hello", "jo@shop.io", "12345678", "90 or more", "+49 30 1234567", "4111 1111 1111 1111", *SECRETS.values(), "bye"]
    some = [f'{{"content":"{text}"}}\n'.encode() for text in texts]
    each = [(at, code, noun) for at, row in enumerate(some) for code, noun in found_in(row)]
    assert {at for at, _, _ in each} == set(range(len(texts))) - {0, 2, 3, len(texts) - 1}
    assert [(at, code, noun) for at in suspects(some) for code, noun in found_in(some[at])] == each


def test_what_is_found_is_told_with_its_line_and_never_repeated(datasets, alice):
    secret, card = SECRETS["github"], "4111111111111111"
    dataset = datasets.upload(alice, an_upload(jsonl(*rows(), chat(f"My key is {secret}"), chat("My card?", f"It is {card}."))))
    assert dataset.report.counts == {"secret": 1, "personal_data": 1}
    assert [(each.line, each.code) for each in dataset.report.findings] == [(13, "secret"), (14, "personal_data")]
    told = dataset.report.model_dump_json()
    assert secret not in told
    assert card not in told


TEXTS = {
    "en": "The parcel that you are waiting for has been sent, and it will be with you soon.",
    "de": "Das Paket, auf das Sie warten, ist schon auf dem Weg und wird bald bei Ihnen sein.",
    "fr": "Le colis que vous attendez est en route et il sera bientôt chez vous avec les autres.",
    "es": "El paquete que usted espera está en camino y pronto estará con los otros en su casa.",
    "it": "Il pacco che sta aspettando è in viaggio e sarà presto da lei con gli altri della casa.",
    "ja": "お待ちの荷物は発送されました。",
    "zh": "您等待的包裹已经寄出。",
    "ru": "Посылка, которую вы ждёте, уже отправлена.",
    "und": "def f(x): return x ** 2",
}


@pytest.mark.parametrize("language", TEXTS)
def test_a_language_is_told_by_script_or_by_its_commonest_words(language):
    assert language_of(TEXTS[language]) == language


def test_a_few_rows_in_another_language_are_remarked(datasets, alice):
    mixed = [chat(f"{n}?", f"{n}. {TEXTS['en']}") for n in range(40)] + [chat(f"{n}!", TEXTS["de"]) for n in range(3)]
    report = datasets.upload(alice, an_upload(jsonl(*mixed))).report
    assert report.languages == {"en": 40, "de": 3}
    assert report.counts["language_mix"] == 1


def test_an_answer_that_breaks_off_is_remarked_where_others_end(datasets, alice):
    whole = [chat(f"{n}?", f"{n}. {TEXTS['en'] * 4}") for n in range(12)]
    cut = chat("cut?", TEXTS["en"] * 4 + " And then the")
    assert datasets.upload(alice, an_upload(jsonl(*whole, cut))).report.counts["truncated_answer"] == 1
    unended = [chat(f"{n}?", f"{n} {TEXTS['en'] * 4} and then the") for n in range(13)]
    assert "truncated_answer" not in datasets.upload(alice, an_upload(jsonl(*unended))).report.counts


LABELS = [
    ({"a": 30, "A": 30, "b": 30}, {"label_variants": 1}),
    ({"a": 30, "b": 1}, {"label_imbalance": 1}),
    ({"a": 30, "b": 10}, {}),
]


@pytest.mark.parametrize(("labels", "counts"), LABELS)
def test_odd_labels_are_remarked(datasets, alice, labels, counts):
    texts = [{"text": f"text {label} {n}", "label": label} for label, many in labels.items() for n in range(many)]
    assert datasets.upload(alice, an_upload(jsonl(*texts))).report.counts == counts


def called(arguments, schema) -> dict:
    tool = {"type": "function", "function": {"name": "add", "parameters": schema}}
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add", "arguments": arguments}}]}
    return {"messages": [{"role": "user", "content": "2 + 2?"}, call], "tools": [tool]}


NUMBERS = {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]}
CALLS = [
    ({"a": 2}, NUMBERS, {}),
    ({"a": "2"}, NUMBERS, {"tool_args": 1}),
    ({}, NUMBERS, {"tool_args": 1}),
    ({"a": 1}, {"type": "nonsense"}, {}),
    ({"a": 1}, {"$ref": "https://example.com/schema.json"}, {}),
    ({"a": "x" * 40}, {"properties": {"a": {"pattern": "(x+x+)+y"}}}, {"tool_args": 1}),
]


@pytest.mark.parametrize(("arguments", "schema", "counts"), CALLS, ids=range(len(CALLS)))
def test_a_call_that_its_schema_refuses_is_remarked(datasets, alice, arguments, schema, counts):
    report = datasets.upload(alice, an_upload(jsonl(*rows(), called(arguments, schema)))).report
    assert {code: count for code, count in report.counts.items() if code == "tool_args"} == counts
    assert report.errors == 0


def test_a_prompt_whose_reference_is_empty_is_remarked(datasets, alice):
    asked = [{"prompt": f"{n} + 1 =", "answer": str(n + 1)} for n in range(12)]
    report = datasets.upload(alice, an_upload(jsonl(*asked, {"prompt": "?", "answer": " "}))).report
    assert (report.counts, report.findings[0].line) == ({"empty_reference": 1}, 13)
