"""Questions that come while another one is asked go together."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from luthier.errors import EngineUnavailable, FieldInvalid
from luthier.faces.rest.gathering import Gathering
from luthier.seams import Classification, Classified, ServedClassifier

ONE, TWO = (ServedClassifier(name, Path(name), None) for name in ("one", "two"))


class Engine:
    """Holds the first request until it is told to go on; answers with the text's own class, and refuses `wrong`."""

    def __init__(self):
        self.batches = []
        self.go_on = threading.Event()
        self.broken = False

    def classify(self, model, questions):
        self.batches.append((model.id, [each.text for each in questions]))
        assert self.go_on.wait(10)
        if self.broken:
            raise EngineUnavailable("It ended.")
        if "wrong" in self.batches[-1][1]:
            raise FieldInvalid("This is wrong.", param="text")
        return [Classified((each.text,), (1.0,)) for each in questions]


@pytest.fixture
def engine():
    return Engine()


@pytest.fixture
def threads():
    with ThreadPoolExecutor(2) as threads:
        yield threads


def asked_at_once(gathering, engine, questions, leave=()):
    """The answers, or what was raised, to a first question and to those that come while it is asked; `leave` do not wait."""

    async def ask():
        asked = [asyncio.ensure_future(gathering.answer(model, Classification(text=text))) for model, text in questions]
        await asyncio.sleep(0)  # all stand in line
        for place in leave:
            asked[place].cancel()
        await asyncio.sleep(0)
        engine.go_on.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    found = asyncio.run(ask())
    return [each.classes[0] if isinstance(each, Classified) else type(each) for each in found]


def test_what_comes_meanwhile_goes_together_by_model(engine, threads):
    asked = [(ONE, "first"), (ONE, "a"), (ONE, "b"), (TWO, "c"), (TWO, "d"), (ONE, "e"), (TWO, "f")]
    assert asked_at_once(Gathering(engine.classify, threads), engine, asked) == [text for _, text in asked]
    assert sorted(engine.batches) == [("one", ["a", "b", "e"]), ("one", ["first"]), ("two", ["c"]), ("two", ["d", "f"])]


def test_a_wrong_question_spoils_no_other(engine, threads):
    asked = [(ONE, text) for text in ("first", "a", "wrong", "b")]
    assert asked_at_once(Gathering(engine.classify, threads), engine, asked) == ["first", "a", FieldInvalid, "b"]


def test_what_ends_the_engine_is_told_to_all_and_the_next_is_asked_anew(engine, threads):
    gathering, engine.broken = Gathering(engine.classify, threads), True
    assert asked_at_once(gathering, engine, [(ONE, "first"), (ONE, "a"), (ONE, "b")]) == [EngineUnavailable] * 3
    engine.broken = False
    assert asked_at_once(gathering, engine, [(ONE, "first")]) == ["first"]


def test_an_engine_that_answers_too_little_has_answered_nobody(engine, threads):
    gathering = Gathering(lambda model, questions: [], threads)
    assert asked_at_once(gathering, engine, [(ONE, "first"), (ONE, "a")]) == [ValueError] * 2


def test_no_batch_is_larger_than_the_most(engine, threads):
    asked_at_once(Gathering(engine.classify, threads, most_together=2), engine, [(ONE, text) for text in "abcd"])
    assert [len(texts) for _, texts in engine.batches] == [1, 2, 1]


def test_nobody_asks_for_those_who_left(engine, threads):
    asked = [(ONE, text) for text in ("first", "a", "b")]
    assert asked_at_once(Gathering(engine.classify, threads), engine, asked, leave=[1])[0::2] == ["first", "b"]
    assert engine.batches == [("one", ["first"]), ("one", ["b"])]
