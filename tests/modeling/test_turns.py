"""What an engine process holds, and how requests share the one thread that computes."""

import queue
import shutil
import threading

import pytest

from luthier.errors import EngineUnavailable, FieldInvalid, NotFound, TooMany
from luthier.modeling.models import Bounds, Models
from luthier.modeling.turns import Ask, Do, Turns
from luthier.modeling.types import Sampling


@pytest.fixture
def models(base_folder):
    models = Models("cpu", Bounds(bases=2, adapters=2))
    models.load("base", base_folder, None)
    return models


@pytest.fixture
def turns(models):
    turns = Turns(models, active=2, waiting=1)
    yield turns
    assert turns.close(5)


def asked(turns, name, events, *, max_tokens, model="base") -> Ask:
    ask = Ask(model, (5, 6), Sampling(max_tokens), lambda event: events.put((name, event)))
    turns.submit(ask)
    return ask


def until_end(events) -> list[str]:
    """Names in the order in which their answers ended."""
    ended = []
    while len(ended) < 2:
        name, event = events.get(timeout=20)
        if event.finish_reason:
            ended.append(name)
    return ended


def test_a_long_answer_holds_up_no_short_one(turns):
    events = queue.Queue()
    asked(turns, "long", events, max_tokens=90)
    events.get(timeout=20)
    asked(turns, "short", events, max_tokens=3)
    assert until_end(events) == ["short", "long"]


def test_what_fails_is_told_to_its_own_asker_and_ends_nobody_else(turns):
    events = queue.Queue()
    asked(turns, "unknown", events, max_tokens=1, model="nobody")
    assert isinstance(events.get(timeout=20)[1], NotFound)
    turns.submit(Ask("base", (99,), Sampling(1), lambda event: events.put(("wrong", event))))
    assert isinstance(events.get(timeout=20)[1], FieldInvalid)

    def fail(models: Models) -> None:
        raise RuntimeError("out of memory")

    turns.submit(Do(fail, lambda event: events.put(("failing", event))))
    assert isinstance(events.get(timeout=20)[1], EngineUnavailable)
    asked(turns, "fine", events, max_tokens=1)
    assert events.get(timeout=20)[1].finish_reason == "length"


def test_more_than_there_are_places_is_refused_at_once(turns):
    events, going = queue.Queue(), threading.Event()
    turns.submit(Do(lambda models: going.wait(20), lambda event: None))
    while turns.busy:  # until the thread has taken it and waits
        pass
    asked(turns, "waiting", events, max_tokens=1)
    with pytest.raises(TooMany, match="1 requests wait"):
        asked(turns, "refused", events, max_tokens=1)
    going.set()
    assert events.get(timeout=20)[0] == "waiting"


def test_an_answer_that_nobody_wants_any_more_stops(turns):
    events = queue.Queue()
    ask = asked(turns, "left", events, max_tokens=90)
    events.get(timeout=20)
    ask.left.set()
    while turns.busy:
        pass
    assert events.qsize() < 89


def test_bases_beyond_the_bound_leave_with_all_that_stands_on_them(models, base_folder, tmp_path):
    for name in ("second", "third"):
        shutil.copytree(base_folder, tmp_path / name)
        models.load(name, tmp_path / name, None)
    assert [name for name, _ in models.listing] == ["second", "third"]
    with pytest.raises(NotFound):
        models.get("base")


def test_the_base_asked_last_stays(models, base_folder, tmp_path):
    shutil.copytree(base_folder, tmp_path / "second")
    models.load("second", tmp_path / "second", None)
    models.get("base")
    shutil.copytree(base_folder, tmp_path / "third")
    models.load("third", tmp_path / "third", None)
    assert {name for name, _ in models.listing} == {"base", "third"}


def test_a_name_with_other_files_is_loaded_anew(models, base_folder, tmp_path):
    shutil.copytree(base_folder, tmp_path / "moved")
    first, _ = models.get("base")
    models.load("base", base_folder, None)
    assert models.get("base")[0] is first
    models.load("base", tmp_path / "moved", None)
    assert models.get("base")[0] is not first
