"""What sizes mean, and what an admin may allow."""

import json
from pathlib import Path

import pytest

from luthier.bases import rules
from luthier.bases.service import Bases
from luthier.errors import SetupError

COMMIT = "0123456789abcdef0123456789abcdef01234567"

# As their model pages state them.
PUBLISHED = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M-Instruct": 361_821_120,
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": 1_711_376_384,
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": 1_100_048_384,
}


@pytest.mark.parametrize("base_id", PUBLISHED)
def test_the_sizes_in_the_catalog_add_up_to_the_published_number_of_weights(tmp_path, base_id):
    assert Bases(tmp_path).get(base_id).parameters == PUBLISHED[base_id]


def test_the_shipped_base_is_described_by_its_own_config(tmp_path):
    tiny = Bases(tmp_path).get("luthier/tiny")
    assert (tiny.hidden, tiny.layers, tiny.vocab, tiny.context) == (192, 5, 2048, 1024)
    assert tiny.parameters == 2048 * 192 + 5 * (4 * 192 * 192 + 3 * 192 * 512 + 2 * 192) + 192


def test_a_config_without_newer_fields_is_read_by_the_defaults_of_its_family():
    old = {
        "model_type": "qwen2",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 100,
        "max_position_embeddings": 32,
    }
    shape = rules.shape_of(old)
    assert (shape.kv_heads, shape.head_dim, shape.tied, shape.attention_bias) == (4, 16, False, True)


@pytest.mark.parametrize(
    "text",
    [
        "a/b",
        "a/b@main",
        f"a/b@{COMMIT[:-1]}",
        f"../m@{COMMIT}",
        f"a/b/c@{COMMIT}",
        f"luthier/tiny@{COMMIT}",
        f"a/b@{COMMIT.upper()}",
        "@",
    ],
)
def test_only_a_hub_id_at_a_whole_commit_can_be_allowed(text):
    with pytest.raises(SetupError, match="LUTHIER_BASES"):
        rules.pins(text)


def test_several_pins_are_separated_by_commas():
    assert rules.pins(f" a/b@{COMMIT}, c/d@{COMMIT} ,") == {"a/b": COMMIT, "c/d": COMMIT}


def test_the_catalog_invents_no_commits():
    entries = json.loads(Path(rules.__file__).with_name("catalog.json").read_text("utf-8"))
    assert {entry["revision"] for entry in entries} == {"1", "main"}
