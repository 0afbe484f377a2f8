"""The base: the same seed gives the same bytes, any text survives, no row's answer is in it."""

import hashlib
import json
from importlib.resources import files
from pathlib import Path

import pytest
from tokenizers import Tokenizer

SHIPPED = files("luthier.bases.tiny")
EXAMPLE = Path(__file__).parents[2] / "examples" / "support"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_str((SHIPPED / "tokenizer.json").read_text(encoding="utf-8"))


def messages_of(name: str) -> list[list[dict[str, str]]]:
    return [json.loads(line)["messages"] for line in (EXAMPLE / name).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("text", ["", "a  b\r\n\t ", "x , y 's", "héé 你好 😀\u200b", "\x00\x7f", "<|im_end|>"])
def test_any_text_survives_encoding_and_decoding(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_special_tokens_have_the_ids_that_the_configs_repeat(tokenizer: Tokenizer) -> None:
    config = json.loads((SHIPPED / "config.json").read_text(encoding="utf-8"))
    assert tokenizer.token_to_id("<|im_end|>") == config["eos_token_id"]
    assert tokenizer.token_to_id("<|endoftext|>") == config["pad_token_id"]
    assert tokenizer.get_vocab_size() == config["vocab_size"]


def test_no_message_is_in_both_files_of_the_example() -> None:
    train, heldout = ([turns[1]["content"] for turns in messages_of(f"{name}.jsonl")] for name in ("train", "heldout"))
    assert len({*train, *heldout}) == len(train) + len(heldout)


def test_the_corpus_never_puts_an_answer_beside_a_sentence() -> None:
    lines = (SHIPPED / "corpus.txt").read_text(encoding="utf-8").splitlines()
    assert all(line.startswith("{") or "{" not in line for line in lines)


def test_the_same_seed_builds_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from luthier.modeling.tiny import TinyRecipe, build_tiny

    recipe = TinyRecipe(steps=2, batch=2, context=64)
    seen: list[int] = []
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        build_tiny(tmp_path / name, seed=seed, recipe=recipe, on_progress=lambda step, _of, _loss: seen.append(step))
    one, two, three = (
        hashlib.sha256((tmp_path / name / "model.safetensors").read_bytes()).hexdigest() for name in ("one", "two", "three")
    )
    assert one == two != three
    assert seen == [1, 2] * 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "three", "two"]
    with pytest.raises(FileExistsError):
        build_tiny(tmp_path / "one", recipe=recipe)
