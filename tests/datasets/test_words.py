"""Words: whatever the text and whichever the tokenizer, the tokens are those that the library makes of the whole text."""

import json
import threading

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from luthier.datasets import words as words_module
from luthier.datasets.words import CUTS, Whole, Worded, Words, token_of

BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
WITH_REGEX = pre_tokenizers.ByteLevel(add_prefix_space=False)
CUTTERS = {
    "byte level": WITH_REGEX,
    "digits": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), WITH_REGEX]),
    "digits together": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=False), WITH_REGEX]),
    **{
        name: pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), BYTES]) for name, pattern in CUTS.items()
    },
}
SAID = [
    "Don't they're it's I'M WE'LL the quick brown fox's  two  spaces\n\nlines \n and\ttabs 12345 3.14 a,b,c (see: x)...\n",
    "  def f(x):\n        return x + 1  # 日本語 naïve e\u0301 É żółw мир 🙂👍🏽 Ⅷ ½ a\u0300b",
    "<|im_start|>user\nHello there!<|im_end|>\n<tool>find it</tool>   ",
]
PIECES = [
    *(" ", " ", "  ", "   ", "\n", "\n\n", " \n", "\n ", "\t", "\r\n"),
    *("a", "the", "The", "x", "12", "7", "'s", "'S", "'", "'ll", ".", ",", "...", "!", "/", "//", "-", "_"),
    *("日本", "é", "e\u0301", "\u0301", "ż", "мир", "🙂", "👍🏽", "Ⅷ", "½", "ǅ", "ʰ", "Å", "\u212b", "ﬁ", "Ġ"),
    *("\u200d", "\u0001", "\ufdd0", "\x0b", "\x0c", "\x1c", "\x85", "\xa0", "\u1680", "\u2003", "\u2028", "\u3000", "\u180e"),
    *("<|im_start|>", "<|im_end|>", "<|im", "|>", "<tool>", "<tool", "tool>", "<|im_start|", "assistant\n", "ΩΩ"),
]
TEXTS = (
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=24)
    .map("".join)
    .filter(lambda text: text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text))
)


def made(cutter, normalizer=None) -> Tokenizer:
    """A byte-level tokenizer that knows some merges across all that `PIECES` holds."""
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = cutter
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*SAID, " ".join(PIECES), "".join(PIECES)] * 3, trainer)
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("ΩΩ", normalized=True)])
    return tokenizer


@pytest.fixture(scope="module")
def tokenizers():
    plain = {name: made(cutter) for name, cutter in CUTTERS.items()}
    composed = {f"{name}, composed": made(cutter, normalizers.NFC()) for name, cutter in CUTTERS.items() if name != "digits"}
    trimmed = {}
    for spaced in (True, False):
        trimmed[f"offsets trimmed, {spaced}"] = made(CUTTERS["byte level"])
        trimmed[f"offsets trimmed, {spaced}"].post_processor = processors.ByteLevel(add_prefix_space=spaced, trim_offsets=True)
    told = {**plain, **composed, **trimmed}
    for name in ("byte level", "qwen2, composed"):
        told[f"{name}, specials as text"] = Tokenizer.from_str(told[name].to_str())
        told[f"{name}, specials as text"].encode_special_tokens = True
    return told


@given(texts=st.lists(TEXTS, max_size=3), data=st.data())
@example(texts=SAID, data=None)
@example(texts=["".join(PIECES), " ".join(PIECES)], data=None)
@example(
    texts=["a", "", " ", "  ", "a ", " a", "a  b", "a\n b", "a \n b", ".\n\n x", "x<|im_end|> y", "<|im_end|>  <tool> "],
    data=None,
)
def test_the_tokens_are_those_of_the_whole_text_and_every_character_lies_in_the_same_one(tokenizers, texts, data):
    names = list(tokenizers) if data is None else [data.draw(st.sampled_from(list(tokenizers)))]
    for name in names:
        tokenizer = tokenizers[name]
        words = Words.of(tokenizer)
        for text, worded in zip(texts, words.tokenise(texts), strict=True):
            whole = tokenizer.encode(text, add_special_tokens=False)
            assert worded.ids == whole.ids, (name, text)
            for position in range(len(text)):
                held = token_of(whole, position, len(text))
                assert worded.token_at(position) == (len(whole.ids) if held is None else held), (name, text, position)


@pytest.mark.parametrize(
    "space", ["\x0b", "\x0c", "\x1c", "\x85", "\xa0", "\u1680", "\u2003", "\u2028", "\u3000", "\u180e", "\u200b"]
)
def test_spaces_of_which_programs_differ_are_left_to_the_library(tokenizers, space):
    found = Words.of(tokenizers["llama3"]).tokenise([f"a{space} b", "a b\tc\r\nd", f"a{space} b"])
    assert [type(each) for each in found] == [Whole, Worded, Whole]


def changed(tokenizer, change) -> Tokenizer:
    told = json.loads(tokenizer.to_str())
    change(told)
    return Tokenizer.from_str(json.dumps(told))


def adding(**how):
    def change(told):
        token = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True, "content": "<t>"}
        told["added_tokens"].append({**token, "id": len(told["model"]["vocab"]), **how})
        told["model"]["vocab"][how.get("content", "<t>")] = len(told["model"]["vocab"])

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told.update(pre_tokenizer=None),
        lambda told: told.update(
            pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
        ),
        lambda told: told["pre_tokenizer"].update(add_prefix_space=True),
        lambda told: told["pre_tokenizer"].update(use_regex=False),
        lambda told: told.update(
            pre_tokenizer={
                "type": "Split",
                "pattern": {"Regex": "\\w+ \\w+|\\s+|."},
                "behavior": "Isolated",
                "invert": False,
            }
        ),
        lambda told: told.update(normalizer={"type": "Prepend", "prepend": "▁"}),
        lambda told: told.update(normalizer={"type": "Replace", "pattern": {"String": " "}, "content": "▁"}),
        lambda told: told["model"].update(dropout=0.1),
        adding(lstrip=True),
        adding(rstrip=True),
        adding(single_word=True),
        adding(content="two words"),
    ],
    ids=[
        "uncut",
        "metaspace",
        "prefix",
        "bytes only",
        "own rule",
        "prepend",
        "replace",
        "dropout",
        "lstrip",
        "rstrip",
        "single",
        "wide",
    ],
)
def test_a_tokenizer_that_may_look_across_a_space_has_no_words(tokenizers, change):
    assert Words.of(tokenizers["byte level"]) is not None
    assert Words.of(changed(tokenizers["byte level"], change)) is None


def test_what_is_known_stays_small_and_right_however_much_is_read(tokenizers, monkeypatch):
    monkeypatch.setattr(words_module, "_MOST", 2000)
    monkeypatch.setattr(words_module, "_MOST_ENCODINGS", 3)
    tokenizer = tokenizers["llama3"]
    words = Words.of(tokenizer)
    for number in range(60):
        text = f"<|im_start|>user\nWhat is {number} times {number * 7919}?<|im_end|>"
        worded = next(words.tokenise([text]))
        assert worded.ids == tokenizer.encode(text, add_special_tokens=False).ids
        assert worded.token_at(len("<|im_start|>user\n")) == token_of(
            tokenizer.encode(text), len("<|im_start|>user\n"), len(text)
        )
    assert len(words._known) < 60
    assert len(words._encodings) <= 3


def test_threads_share_it(tokenizers, monkeypatch):
    monkeypatch.setattr(words_module, "_MOST", 3000)
    tokenizer = tokenizers["qwen2"]
    words, wrong = Words.of(tokenizer), []

    def read(seed: int) -> None:
        for number in range(100):
            text = f"{seed} and {number} are {seed * number} words, said {seed}"
            if next(words.tokenise([text])).ids != tokenizer.encode(text, add_special_tokens=False).ids:
                wrong.append(text)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
