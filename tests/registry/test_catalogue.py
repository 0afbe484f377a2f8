"""Models are found by what their cards say, within a team, and by meaning where an embedder is installed."""

import json
import math
import random
from array import array

import pytest

from luthier.backends.embedders import minilm
from luthier.errors import CursorInvalid, FieldInvalid
from luthier.registry import search_rules
from luthier.registry.catalogue import Catalogue
from luthier.registry.files import ModelFiles
from luthier.registry.nearest import Vectors
from luthier.registry.search_types import RecommendRequest, Wanted
from luthier.registry.service import Registry
from luthier.seams import NotEmbedded


class Topics:
    """An embedder of three dimensions: animals, law, everything else."""

    name, dimensions = "topics", 3

    def __init__(self):
        self.asked = []
        self.broken = False

    def embed(self, texts):
        if self.broken:
            raise NotEmbedded("no weights")
        self.asked += texts
        return [self._one(text.casefold()) for text in texts]

    def _one(self, text):
        if any(word in text for word in ("cat", "dog", "pet")):
            return [1.0, 0.0, 0.0]
        return [0.0, 1.0, 0.0] if any(word in text for word in ("contract", "court")) else [0.0, 0.0, 1.0]


@pytest.fixture
def topics():
    return Topics()


@pytest.fixture
def shop(world, topics):
    """The catalogue with an embedder, and the registry before it."""
    files = ModelFiles(world.storage, world.folder / "cache")
    catalogue = Catalogue(world.database, files, topics)
    world.registry = Registry(world.database, files, world.bases, catalogue, world.now)
    return catalogue


@pytest.fixture
def words(world):
    return Catalogue(world.database, ModelFiles(world.storage, world.folder / "cache"))


def made(world, actor, name, **about):
    return world.registry.register(world.finished(actor, name, world.scores(), **about))


def names(found):
    return [model.name for model in found.data]


def asked(**fields):
    return RecommendRequest(**fields)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, ["vet", "clerk"]),
        ({"language": "FR"}, ["clerk"]),
        ({"task": "text-generation"}, ["vet"]),
        ({"tags": ("json", "Lora")}, ["clerk"]),
        ({"tags": ("json", "sql")}, []),
        ({"base_model": "luthier/tiny"}, ["vet", "clerk"]),
        ({"base_model": "luthier/t"}, []),
        ({"text": "CONTRACT french"}, ["clerk"]),
        ({"text": "contr"}, ["clerk"]),
        ({"text": "%"}, ["vet", "clerk"]),
        ({"text": "contract cats"}, []),
        ({"tags": ("js_n",)}, []),
    ],
)
def test_a_search_finds_cards_that_say_all_of_it(world, words, alice, wanted, expected):
    made(world, alice, "clerk", language="fr,en", task="summarization", tags="json,lora", description="French contracts.")
    made(world, alice, "vet", description="Answers about cats.")
    assert names(words.search(alice, Wanted(**wanted))) == expected


def test_pages_of_a_search_hold_everything_once(world, words, alice):
    for number in range(5):
        made(world, alice, f"m{number}")
    found, after = [], None
    while True:
        page = words.search(alice, Wanted(text="m"), after=after, limit=2)
        found, after = found + names(page), page.next_cursor
        if after is None:
            break
    assert found == ["m4", "m3", "m2", "m1", "m0"]


def test_another_teams_models_are_neither_found_nor_a_cursor(world, shop, words, alice, bob):
    model = made(world, bob, "secret", description="cats")
    for catalogue in (shop, words):
        assert catalogue.search(alice, Wanted()).data == []
        assert catalogue.recommend(alice, asked(text="cats")).data == ()
        with pytest.raises(CursorInvalid):
            catalogue.search(alice, Wanted(), after=model.id)
    assert shop.recommend(alice, asked(embedding=[1, 0, 0])).data == ()
    assert names(words.search(bob, Wanted())) == ["secret"]


def test_without_an_embedder_words_are_compared_and_the_answer_says_so(world, words, alice):
    for name, about in (("vet", "Answers about cats."), ("clerk", "Contracts."), ("poet", "Writes about cats, in verse.")):
        made(world, alice, name, description=about)
    found = words.recommend(alice, asked(text="about my cats and verse"))
    assert found.by == "lexical"
    assert [(each.model.name, each.why) for each in found.data] == [
        ("poet", ("about", "cats", "verse")),
        ("vet", ("about", "cats")),
    ]
    assert found.data[0].score > found.data[1].score > 0


def test_meaning_is_compared_where_an_embedder_is(world, shop, alice):
    for name, about in (("vet", "Answers about cats."), ("clerk", "Contracts.")):
        made(world, alice, name, description=about)
    found = shop.recommend(alice, asked(text="which pet for a child", limit=1))
    assert (found.by, [each.model.name for each in found.data], found.data[0].score) == ("topics", ["vet"], 1.0)
    assert [each.model.name for each in shop.recommend(alice, asked(embedding=[0, 3, 0.5])).data] == ["clerk", "vet"]


def test_the_vector_is_on_the_card_and_its_file_but_not_in_lists(world, shop, alice):
    model = made(world, alice, "vet", description="cats")
    assert world.registry.get(alice, model.id).card.embedding == (1.0, 0.0, 0.0)
    assert json.loads(world.storage.read(f"model_registry/{model.id}.json"))["embedding"] == [1.0, 0.0, 0.0]
    listed = [*world.registry.list(alice).data, *shop.search(alice, Wanted()).data]
    assert [found.card.embedding for found in listed] == [None, None]


def test_an_embedder_that_fails_fails_no_registration_and_words_answer(world, shop, topics, alice):
    topics.broken = True
    made(world, alice, "vet", description="cats")
    found = shop.recommend(alice, asked(text="cats"))
    assert (found.by, [each.model.name for each in found.data]) == ("lexical", ["vet"])
    topics.broken = False
    found = shop.recommend(alice, asked(text="pets"))
    assert (found.by, [each.model.name for each in found.data], found.waiting) == ("topics", ["vet"], 0)


def test_models_of_before_are_made_findable_when_somebody_asks(world, topics, alice):
    for number in range(40):
        made(world, alice, f"m{number}")
    catalogue = Catalogue(world.database, ModelFiles(world.storage, world.folder / "cache"), topics)
    assert catalogue.recommend(alice, asked(text="x")).waiting == 8
    assert catalogue.recommend(alice, asked(text="x")).waiting == 0


def test_what_was_deleted_is_found_no_more(world, shop, words, alice):
    model = made(world, alice, "vet", description="cats")
    assert shop.recommend(alice, asked(text="cats")).data
    assert words.recommend(alice, asked(text="cats")).data
    world.registry.delete(alice, model.id)
    assert shop.recommend(alice, asked(text="cats")).data == words.recommend(alice, asked(text="cats")).data == ()
    assert shop.search(alice, Wanted()).data == []


@pytest.mark.parametrize(("vector", "code"), [([1.0], "wrong_dimensions"), ([0.0, 0.0, 0.0], "invalid_field")])
def test_a_vector_that_cannot_be_compared_is_refused(shop, alice, vector, code):
    with pytest.raises(FieldInvalid) as refused:
        shop.recommend(alice, asked(embedding=vector))
    assert refused.value.error_code == code


def test_without_an_embedder_a_vector_is_refused_with_the_way_out(words, alice):
    with pytest.raises(FieldInvalid, match="no embedder") as refused:
        words.recommend(alice, asked(embedding=[1.0]))
    assert "text" in refused.value.hint


def test_vectors_of_any_size_are_compared_by_their_direction():
    pytest.importorskip("numpy")
    vectors = Vectors([array("f", each).tobytes() for each in ([1, 0], [0, 1], [1, 0])])
    for query in ([1e-300, 0], [1e300, 1e-300], [5, 0]):
        assert vectors.best(query, 2) == [(2, 1.0), (0, 1.0)]
    assert Vectors([]).best([1.0], 3) == []


def test_scripts_without_blanks_are_found_by_their_characters(world, words, alice):
    made(world, alice, "helper", description="日本語の質問に答える")
    assert names(words.search(alice, Wanted(text="日本"))) == ["helper"]
    assert search_rules.words("日本") == ["日", "本"]


@pytest.mark.skipif(minilm.weights() is None, reason="all-MiniLM-L6-v2 is not installed")
def test_minilm_knows_what_is_meant():
    embedder = minilm.MiniLm(minilm.weights())
    texts = ["Summarises contracts.", "Answers about cats.", "Writes SQL queries.", "x" * 20_000]
    vectors = embedder.embed(texts)
    assert [len(vector) for vector in vectors] == [embedder.dimensions] * 4
    (query,) = embedder.embed(["which model can shorten a legal agreement"])
    scores = [sum(a * b for a, b in zip(query, vector, strict=True)) for vector in vectors]
    assert max(scores) == scores[0]
    assert sum(number * number for number in query) == pytest.approx(1, abs=1e-5)


def test_broken_weights_are_told_as_such(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(NotEmbedded, match="cannot be read"):
        minilm.MiniLm(tmp_path).embed(["x"])


def _plain(cards, asked, limit):
    """BM25 without short cuts: each word of each card."""
    held = [card.split() for card in cards]
    usual, found = sum(map(len, held)) / len(held), []
    for number, card in enumerate(held):
        score = 0.0
        for word in asked:
            if word in card:
                holding = sum(word in each for each in held)
                rarity = math.log(1 + (len(held) - holding + 0.5) / (holding + 0.5))
                score += rarity * 2.2 / (1 + 1.2 * (0.25 + 0.75 * len(card) / usual))
        if score:
            found.append((number, score))
    return sorted(found, key=lambda each: (each[1], each[0]), reverse=True)[:limit]


@pytest.mark.parametrize("seed", range(20))
def test_short_cuts_find_what_all_words_of_all_cards_find(seed):
    chance = random.Random(seed)
    common, rare = [f"c{n}" for n in range(4)], [f"r{n}" for n in range(60)]
    cards = [" ".join(sorted({*chance.sample(common, 3), *chance.sample(rare, chance.randint(1, 6))})) for _ in range(300)]
    index, sought = search_rules.WordIndex(cards), [*chance.sample(common, 3), *chance.sample(rare, 2), "unknown"]
    ours, plain = index.best(sought, 5), _plain(cards, sought, 5)
    assert [score for _, score in ours] == pytest.approx([score for _, score in plain])
    assert {n for n, s in ours if s > plain[-1][1] + 1e-9} == {n for n, s in plain if s > plain[-1][1] + 1e-9}


def test_a_question_that_was_asked_before_is_not_embedded_again(world, shop, topics, alice, bob):
    made(world, alice, "vet", description="About cats")
    first = shop.recommend(alice, asked(text="my dog"))
    before = len(topics.asked)
    assert shop.recommend(alice, asked(text="my dog")) == first
    assert len(topics.asked) == before
    shop.recommend(bob, asked(text="my dog"))
    assert len(topics.asked) == before + 1  # how long an answer takes tells nobody what other teams asked
