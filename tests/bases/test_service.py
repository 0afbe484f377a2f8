"""The allow-list: what is on it is found, everything else is refused in words that help."""

import json

import pytest

from luthier.bases.service import Bases
from luthier.errors import BaseUnavailable, ModelNotAllowed

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 32,
    "tie_word_embeddings": True,
}


@pytest.fixture
def bases(tmp_path):
    return Bases(tmp_path)


def fetched(folder, config=CONFIG):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    (folder / "model.safetensors").write_bytes(b"weights")


# J08 of the list of bad input, and what else a path or an address can look like.
@pytest.mark.parametrize(
    "asked",
    [
        "../m",
        "/etc",
        "/etc/passwd",
        "https://example.com/model",
        "file:///etc/passwd",
        "luthier/tiny@main",
        "HuggingFaceTB/SmolLM2-135M-Instruct@refs/pr/1",
        "luthier/../luthier/tiny",
        "luthier--tiny",
        "",
        "x" * 200,
        "gpt-4o",
    ],
)
def test_what_is_not_on_the_list_is_refused_and_named_nowhere_in_the_answer(bases, asked):
    with pytest.raises(ModelNotAllowed) as refused:
        bases.get(asked)
    assert refused.value.error_code == "model_not_allowed"
    assert refused.value.param == "base_model"
    assert "luthier/tiny" in refused.value.hint
    assert not asked or asked not in str(refused.value)


def test_a_slip_of_the_finger_gets_the_nearest_allowed_base(bases):
    with pytest.raises(ModelNotAllowed, match=r"Did you mean Qwen/Qwen3-0\.6B\?"):
        bases.get("qwen/qwen3-0.6b")


def test_a_short_name_means_the_same_base(bases):
    assert bases.get("tiny") == bases.get("luthier/tiny")
    assert bases.get("smollm2-135m").id == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_a_base_is_ready_once_its_folder_is_whole(bases, tmp_path):
    base = bases.get("smollm2-135m")
    assert (base.ready, bases.tokenizer_folder(base)) == (False, None)
    folder = tmp_path / "HuggingFaceTB--SmolLM2-135M-Instruct" / "main"
    assert bases.folder(base) == folder
    fetched(folder)
    assert bases.get("smollm2-135m").ready
    assert bases.ready(base)
    assert bases.tokenizer_folder(base) == folder


def test_the_shipped_tokenizer_is_there_before_the_weights_are(bases):
    folder = bases.tokenizer_folder(bases.get("luthier/tiny"))
    assert folder is not None
    assert (folder / "tokenizer.json").is_file()


def test_sources_say_where_a_trainer_finds_a_base(bases):
    assert bases.source(bases.get("tiny")).model_dump() == {"id": "luthier/tiny", "revision": "1", "url": "luthier:tiny"}
    assert bases.source(bases.get("qwen3-0.6b")).url == "hub:Qwen/Qwen3-0.6B"


def test_the_commit_behind_main_is_known_after_the_fetch(bases):
    base = bases.get("qwen3-0.6b")
    assert bases.commit(base) is None
    fetched(bases.folder(base))
    bases.folder(base).with_name("main.commit").write_text(f"{COMMIT}\n", "ascii")
    assert bases.commit(base) == COMMIT


def test_an_admin_pins_a_base_of_the_catalog(tmp_path):
    base = Bases(tmp_path, f"Qwen/Qwen3-0.6B@{COMMIT}").get("qwen3-0.6b")
    assert (base.revision, base.hidden) == (COMMIT, 1024)


def test_an_admin_adds_a_base_whose_sizes_are_known_once_it_was_fetched(tmp_path):
    bases = Bases(tmp_path, f"acme/own@{COMMIT}")
    with pytest.raises(BaseUnavailable, match="luthier bases fetch acme/own"):
        bases.get("acme/own")
    assert "acme/own" not in [base.id for base in bases.list()]
    source = bases.fetchable("acme/own")
    assert (source.revision, source.url) == (COMMIT, "hub:acme/own")
    fetched(tmp_path / "acme--own" / COMMIT)
    base = bases.get("acme/own")
    assert (base.hidden, base.context, base.ready) == (64, 32, True)
    assert "acme/own" in [base.id for base in bases.list()]
