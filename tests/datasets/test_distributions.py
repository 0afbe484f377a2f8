"""How things spread over the rows, held against the rows themselves."""

import pytest

from luthier.datasets.rendering import Renderer
from luthier.errors import Gone, NotFound

from .conftest import TINY, an_upload, chat, jsonl, rows


def test_tokens_turns_loss_and_sources_are_those_of_the_rows(datasets, alice):
    two_turns = {"messages": [*chat("A?", "B.")["messages"], *chat("C?", "D.")["messages"]]}
    given = [*rows(), {**two_turns, "source": "shop"}, {**chat("E?", "F."), "source": "forum"}]
    dataset = datasets.upload(alice, an_upload(jsonl(*given)))
    spread = datasets.distributions(alice, dataset.id)
    renderer = Renderer.load(TINY)
    tokens = spread.tokens
    assert set(tokens) == {"row", "prompt", "completion", "user", "assistant"}
    assert round(tokens["row"].mean * len(given)) == dataset.report.tokens
    assert round(tokens["completion"].mean * len(given)) == dataset.report.loss_tokens
    assert abs(tokens["prompt"].mean + tokens["completion"].mean - tokens["row"].mean) < 0.02
    assert tokens["assistant"].max == max(
        sum(renderer.lengths([turn["content"] for turn in row["messages"] if turn["role"] == "assistant"])) for row in given
    )
    assert (spread.turns.min, spread.turns.max) == (1, 2)
    assert sum(each.rows for each in spread.loss_share.histogram) == len(given)
    assert 0 < spread.loss_share.mean < 100
    assert spread.sources == {"shop": 1, "forum": 1}
    assert spread.roles == dataset.report.roles
    assert 0 < spread.vocabulary.seen < spread.vocabulary.size == renderer.vocabulary_size


def test_of_prompts_there_is_no_completion_and_of_labels_there_are_no_tokens(datasets, alice):
    prompts = datasets.upload(alice, an_upload(jsonl(*({"prompt": f"{n}?", "answer": str(n)} for n in range(12)))))
    assert set(datasets.distributions(alice, prompts.id).tokens) == {"prompt"}
    texts = datasets.upload(alice, an_upload(jsonl(*({"text": f"text {n}", "label": "ab"[n % 2]} for n in range(12)))))
    spread = datasets.distributions(alice, texts.id)
    assert (spread.tokens, spread.vocabulary, spread.labels) == ({}, None, {"a": 6, "b": 6})


def test_they_are_their_owners(datasets, alice, bob):
    dataset = datasets.upload(alice, an_upload())
    with pytest.raises(NotFound):
        datasets.distributions(bob, dataset.id)
    datasets.delete(alice, dataset.id)
    with pytest.raises(Gone):
        datasets.distributions(alice, dataset.id)
