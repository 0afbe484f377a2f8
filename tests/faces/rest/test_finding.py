"""Models are found by REST, on both paths, and what cannot be asked is refused with the field."""

import pytest
import yaml

PATHS = ("/api/models", "/models")


def refused(answer, status, code, param=None):
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert param is None or answer.json()["error"]["param"] == param


@pytest.mark.parametrize("path", PATHS)
def test_both_paths_search_and_recommend(world, path):
    model, other = world.model(name="vet"), world.model(name="clerk")
    found = world.ask("GET", f"{path}/search", params={"q": "VET", "tags": "lora,sft", "task": "text-generation"})
    assert [each["id"] for each in found.json()["data"]] == [model.id]
    assert found.json()["data"][0]["card"]["embedding"] is None
    answer = world.ask("POST", f"{path}/recommend", json={"text": "a clerk please", "limit": 1}).json()
    assert [each["model"]["id"] for each in answer["data"]] == [other.id]
    assert answer["data"][0]["why"] == ["clerk"]
    assert answer["by"] in {"minilm", "lexical"}


def test_pages_of_a_search_go_on_behind_the_cursor(world):
    ids = [world.model(name=f"m{number}").id for number in range(3)]
    first = world.ask("GET", "/api/models/search", params={"limit": 2}).json()
    rest = world.ask("GET", "/api/models/search", params={"limit": 2, "after": first["next_cursor"]}).json()
    assert [each["id"] for each in (*first["data"], *rest["data"])] == ids[::-1]
    assert rest["next_cursor"] is None


@pytest.mark.parametrize("path", PATHS)
def test_a_team_finds_only_its_own(world, path):
    foreign = world.model(world.stranger, name="secret")
    assert world.ask("GET", f"{path}/search", params={"q": "secret"}).json()["data"] == []
    assert world.ask("POST", f"{path}/recommend", json={"text": "secret"}).json()["data"] == []
    refused(world.ask("GET", f"{path}/search", params={"after": foreign.id}), 400, "cursor_invalid")
    assert world.ask("GET", f"/api/models/{foreign.id}/card.md").status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"text": ""}',
        b'{"text": "  \\n"}',
        b'{"text": 5}',
        b'{"text": "x", "embedding": [1]}',
        b'{"embedding": []}',
        b'{"embedding": ["1"]}',
        b'{"embedding": [true]}',
        b'{"embedding": [null]}',
        b'{"embedding": [NaN]}',
        b'{"embedding": [1e999]}',
        b'{"embedding": [0.0, 0.0]}',
        b'{"embedding": [1.0]}',
        b'{"text": "x", "limit": 0}',
        b'{"text": "x", "limit": 51}',
        b'{"text": "x", "model": "m"}',
    ],
)
@pytest.mark.parametrize("path", PATHS)
def test_a_question_that_cannot_be_answered_is_refused(world, path, body):
    assert world.raw(body, path=f"{path}/recommend").status_code == 422


@pytest.mark.parametrize("query", [{"q": ""}, {"q": " "}, {"tags": ""}, {"limit": "0"}, {"colour": "red"}, {"q": "x" * 2001}])
def test_a_search_that_says_nothing_is_refused(world, query):
    assert world.ask("GET", "/api/models/search", params=query).status_code in {400, 422}


def test_a_card_is_a_page_with_front_matter(world):
    model = world.model(name="vet | <b>")
    answer = world.ask("GET", f"/api/models/{model.id}/card.md")
    assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
    _, front, body = answer.text.split("---\n", 2)
    told = yaml.safe_load(front)
    assert (told["base_model"], told["library_name"], told["pipeline_tag"]) == ("luthier/tiny", "peft", "text-generation")
    assert model.card.lineage.dataset_sha256 in body
    assert "<b>" not in body
    folder = f"users/{world.actor.tenant_id}/models/{model.id}"
    assert world.platform.storage.read(f"{folder}/README.md").decode() == answer.text
