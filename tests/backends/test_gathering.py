"""Questions that come while another one is asked go together."""

import threading
from pathlib import Path

import pytest

from luthier.backends.engines.gathering import Gathering
from luthier.errors import EngineUnavailable, FieldInvalid, TooMany
from luthier.seams import Classification, Classified, ServedClassifier

ONE, TWO = (ServedClassifier(name, Path(name), None) for name in ("one", "two"))


class Engine:
    """Holds the first request until it is told to go on; answers with the text's own class, and refuses `wrong`."""

    def __init__(self):
        self.batches = []
        self.asked, self.go_on = threading.Event(), threading.Event()
        self.broken = False

    def send(self, model, questions):
        self.batches.append((model.id, [each.text for each in questions]))
        self.asked.set()
        assert self.go_on.wait(10)
        if self.broken:
            raise EngineUnavailable("It ended.")
        if "wrong" in self.batches[-1][1]:
            raise FieldInvalid("This is wrong.", param="text")
        return [Classified((each.text,), (1.0,)) for each in questions]


@pytest.fixture
def engine():
    return Engine()


def asked_at_once(engine, questions, **bounds):
    """The answers, or what was raised, to a first question and to those that come while it is asked."""
    gathering, found = Gathering(engine.send, **bounds), {}

    def ask(model, text):
        try:
            found[text] = gathering.ask(model, Classification(text=text)).classes
        except (FieldInvalid, EngineUnavailable) as error:
            found[text] = type(error)

    threads = [threading.Thread(target=ask, args=(ONE, "first"))]
    threads[0].start()
    assert engine.asked.wait(10)
    for number, (model, text) in enumerate(questions, 1):
        threads.append(threading.Thread(target=ask, args=(model, text)))
        threads[-1].start()
        while len(gathering._waiting) < number:
            pass
    engine.go_on.set()
    for thread in threads:
        thread.join(10)
    return found


def test_what_comes_meanwhile_goes_together_by_model(engine):
    found = asked_at_once(engine, [(ONE, "a"), (TWO, "b"), (ONE, "c"), (TWO, "d")])
    assert found == {text: (text,) for text in ("first", "a", "b", "c", "d")}
    assert engine.batches == [("one", ["first"]), ("one", ["a", "c"]), ("two", ["b", "d"])]


def test_a_wrong_question_spoils_no_other(engine):
    found = asked_at_once(engine, [(ONE, "a"), (ONE, "wrong"), (ONE, "b")])
    assert found == {"first": ("first",), "a": ("a",), "wrong": FieldInvalid, "b": ("b",)}


def test_what_ends_the_engine_is_told_to_all_and_the_next_is_asked_anew(engine):
    engine.broken = True
    found = asked_at_once(engine, [(ONE, "a"), (ONE, "b")])
    assert set(found.values()) == {EngineUnavailable}
    engine.broken = False
    assert asked_at_once(engine, [])["first"] == ("first",)


def test_no_batch_is_larger_than_the_most_and_no_line_longer(engine):
    asked_at_once(engine, [(ONE, text) for text in "abc"], most_together=2)
    assert [len(texts) for _, texts in engine.batches] == [1, 2, 1]
    with pytest.raises(TooMany):
        Gathering(engine.send, most_waiting=0).ask(ONE, Classification(text="a"))
