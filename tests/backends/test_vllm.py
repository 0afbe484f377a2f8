"""What the engine of a vLLM server does beside the contract (`test_engines.py`): adapters, and what goes wrong upstream."""

from pathlib import Path

import pytest

from luthier.backends.engines.echo import EchoEngine
from luthier.backends.engines.vllm import Upstream, VllmEngine
from luthier.errors import ArtifactCorrupt, EngineUnavailable, FieldInvalid, ModelLoading, TooMany
from luthier.seams import Classification, Generation, ServedClassifier, ServedModel

from .fake_vllm import FakeVllm

BASE = Path("/bases/one")
BARE = ServedModel("one", BASE, None)


@pytest.fixture
def server():
    server = FakeVllm()
    yield server
    server.stop()


@pytest.fixture
def engine(server):
    engine = VllmEngine(Upstream(server.url, "secret", BASE), EchoEngine())
    yield engine
    engine.close()


@pytest.fixture
def tuned(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    return ServedModel("model_1", BASE, tmp_path)


def ask(engine, model, **given):
    pieces = list(engine.generate(model, Generation(**{"prompt_ids": (5, 9, 33), "max_tokens": 3, **given})))
    return [token for piece in pieces for token in piece.token_ids], pieces


def asked(server, path="/v1/completions"):
    return [body for place, body, _ in server.asked if place == path]


def test_the_bare_base_is_asked_by_the_servers_own_name_for_it(server, engine):
    assert ask(engine, BARE, temperature=0.5, top_p=0.9, seed=3, stop_ids=(7,))[0] == [33, 9, 5]
    (body,) = asked(server)
    wanted = {"model": "upstream-base", "prompt": [5, 9, 33], "max_tokens": 3, "temperature": 0.5, "top_p": 0.9, "seed": 3}
    assert {**body, **wanted, "stop_token_ids": [7], "return_token_ids": True} == body
    assert {key for _, _, key in server.asked} == {"Bearer secret"}


def test_an_adapter_is_loaded_once_and_again_by_a_server_that_was_started_anew(server, engine, tuned):
    ask(engine, tuned)
    ask(engine, tuned)
    assert asked(server, "/v1/load_lora_adapter") == [{"lora_name": "model_1", "lora_path": str(tuned.adapter_folder)}]
    server.loaded.clear()
    assert ask(engine, tuned)[0] == [33, 9, 5]
    assert len(asked(server, "/v1/load_lora_adapter")) == 2
    assert engine.state()["models"] == ["model_1"]


def test_an_adapter_that_another_of_our_servers_loaded_is_there(server, engine, tuned):
    server.loaded.append("model_1")
    assert ask(engine, tuned)[0] == [33, 9, 5]


def test_an_adapter_that_the_server_does_not_take_is_told_without_its_folders(server, engine, tmp_path):
    with pytest.raises(ArtifactCorrupt) as refused:
        ask(engine, ServedModel("model_2", BASE, tmp_path))
    assert str(tmp_path) not in f"{refused.value.message}{refused.value.hint}"


def test_what_stands_on_another_base_and_classifiers_are_the_local_engines(server, engine):
    assert ask(engine, ServedModel("other", Path("/bases/two"), None))[0] == [33, 9, 5]
    engine.classify(ServedClassifier("model_c", Path("/c"), None), [Classification(image=(0.0, 1.0))])
    assert server.asked == []


def test_likelihoods_come_by_token_number(engine):
    _, pieces = ask(engine, BARE, logprobs=2)
    assert (pieces[0].likely[0].token_id, pieces[0].likely[0].logprob) == (33, -0.5)
    assert pieces[0].likely[0].top == ((33, -0.5), (34, -1.5))


def test_a_schema_is_passed_on(server, engine):
    ask(engine, BARE, json_schema='{"type": "object"}')
    assert asked(server)[0]["structured_outputs"] == {"json": {"type": "object"}}


def test_who_leaves_ends_the_answer_upstream(server, engine):
    pieces = engine.generate(BARE, Generation((5, 9), 10**7))
    next(pieces)
    pieces.close()
    assert server.left.wait(10)


@pytest.mark.parametrize(
    ("status", "error"), [(429, TooMany), (503, ModelLoading), (400, FieldInvalid), (422, FieldInvalid), (500, EngineUnavailable)]
)
def test_what_the_server_refuses_is_an_error_of_ours_without_its_words(server, engine, status, error):
    ask(engine, BARE)
    server.refuses = (status, {"error": {"message": "/its/secret/path", "param": "prompt"}})
    with pytest.raises(error) as refused:
        ask(engine, BARE)
    assert "secret" not in f"{refused.value.message}{refused.value.hint}"


def test_a_server_that_is_not_there_is_told(server, engine):
    server.stop()
    with pytest.raises(EngineUnavailable, match="does not answer"):
        ask(engine, BARE)
    assert engine.state()["state"] == "failed"
