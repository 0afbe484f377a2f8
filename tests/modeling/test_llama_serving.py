"""Who shares a pass of llama.cpp, who waits for room, and what is read again. A fake stands for llama.cpp, which is an extra."""

import queue
import weakref
from dataclasses import dataclass, field

import numpy as np
import pytest

from luthier.modeling.batching import Batch, Member
from luthier.modeling.generate import Row
from luthier.modeling.llama_sequences import Cells
from luthier.modeling.llama_serving import LlamaPasses
from luthier.modeling.turns import Ask, Turns
from luthier.modeling.types import Sampling

VOCAB = 97


@dataclass(frozen=True)
class Base:
    vocab: int = VOCAB
    context: int = 64
    n_params: int = 1
    n_bytes: int = 1


class Sequences:
    """Says what follows from all tokens of a sequence and its adapter, and refuses what llama.cpp would."""

    vocab = VOCAB

    def __init__(self, room):
        self.room = room
        self.kept = {}
        self.passes = []

    def decode(self, adapter, tokens):
        name = adapter and adapter.name
        self.passes.append((name, [token.sequence for token in tokens]))
        logits = []
        for token in tokens:
            own = self.kept.setdefault(token.sequence, [])
            assert token.place == len(own)
            own.append((name, token.id))
            if token.asks:
                logits.append(np.eye(VOCAB, dtype=np.float32)[after([id_ for _, id_ in own], adapter)])
        assert all(len({by for by, _ in own}) <= 1 for own in self.kept.values())
        if sum(map(len, self.kept.values())) > self.room:
            raise RuntimeError("no room")
        return np.stack(logits)

    def forget(self, sequence, place=0):
        self.kept[sequence] = self.kept.get(sequence, [])[:place]


@dataclass(frozen=True, eq=False)
class Adapter:
    name: str


ONE, TWO = Adapter("one"), Adapter("two")


@dataclass
class Models:
    """Any name is the first adapter."""

    held: LlamaPasses
    base: Base = field(default_factory=Base)

    def get(self, name):
        return self.base, ONE

    def passes(self, base):
        return self.held


def after(ids, adapter):
    return (sum((n + 1) * id_ for n, id_ in enumerate(ids)) + sum(map(ord, adapter.name if adapter else ""))) % VOCAB


def alone(prompt, adapter, count):
    ids = list(prompt)
    for _ in range(count):
        ids.append(after(ids, adapter))
    return ids[len(prompt) :]


def passes(room=60, sequences=4):
    return LlamaPasses(Sequences(room), Cells(room, sequences))


def begun(batch, key, prompt, adapter, count):
    return batch.add(Member(key, Row(0, prompt, Sampling(count), batch.base), adapter))


def step(batch, told):
    for key, token in (batch.read() if batch.reads_for else []) + (batch.decode() if batch.decodes_for else []):
        told.setdefault(key, []).append(token.id)


def answered(batch):
    told = {}
    while len(batch):
        step(batch, told)
    return told


def test_each_answer_is_its_models_whoever_goes_on_beside_it():
    batch = Batch(Base(), passes())
    asked = [([5, 6, 7], ONE, 6), ([9, 1], None, 9), ([4, 4, 4, 4], TWO, 3), ([5, 6, 8], ONE, 7)]
    assert all(begun(batch, key, *each) for key, each in enumerate(asked))
    assert answered(batch) == {key: alone(*each) for key, each in enumerate(asked)}


def test_answers_of_one_model_share_a_pass_and_every_model_has_one_each_step():
    held = passes()
    batch = Batch(Base(), held)
    for key, adapter in enumerate([ONE, TWO, ONE, TWO]):
        begun(batch, key, [key + 1], adapter, 6)
    for _ in range(4):
        step(batch, {})
    by = {member.kept.sequence: member.adapter.name for member in batch._members}
    held._sequences.passes.clear()
    step(batch, {})
    assert [(adapter, list(map(by.get, of))) for adapter, of in held._sequences.passes] == [
        ("one", ["one", "one"]),
        ("two", ["two", "two"]),
    ]


def test_what_has_no_room_waits_until_somebody_ends_and_is_answered_the_same():
    batch = Batch(Base(), passes(room=20))
    assert begun(batch, 0, [1, 2, 3], ONE, 7)
    assert not begun(batch, 1, [4] * 6, TWO, 5)
    assert begun(batch, 2, [7, 8], TWO, 8)
    assert answered(batch) == {0: alone([1, 2, 3], ONE, 7), 2: alone([7, 8], TWO, 8)}
    assert begun(batch, 1, [4] * 6, TWO, 5)
    assert answered(batch) == {1: alone([4] * 6, TWO, 5)}


def test_there_are_no_more_answers_at_a_time_than_sequences():
    batch = Batch(Base(), passes(sequences=1))
    assert begun(batch, 0, [1], None, 2)
    assert not begun(batch, 1, [1], None, 2)
    batch.drop(0)
    batch.drop(0)
    assert begun(batch, 1, [1], None, 2)


def test_a_conversation_that_goes_on_is_read_from_where_it_was_by_its_own_model_only():
    held = passes()
    batch = Batch(Base(), held)
    begun(batch, 0, [1, 2, 3], ONE, 4)
    said = answered(batch)[0]
    longer = [1, 2, 3, *said[:-1], 30, 31]
    for adapter, read in ((TWO, len(longer)), (ONE, 2)):
        held._sequences.passes.clear()
        begun(batch, 1, longer, adapter, 1)
        assert answered(batch)[1] == alone(longer, adapter, 1)
        assert [len(of) for _, of in held._sequences.passes] == [read]
    held._sequences.passes.clear()
    begun(batch, 2, longer, ONE, 1)  # all of it is known: the last token is read once more, for what comes after it
    assert answered(batch)[2] == alone(longer, ONE, 1)
    assert [len(of) for _, of in held._sequences.passes] == [1]


def test_what_is_remembered_of_earlier_answers_stands_in_nobodys_way():
    batch = Batch(Base(), passes(room=40))
    for key in range(3):
        begun(batch, key, [key + 1] * 9, ONE, 3)
        answered(batch)
    assert begun(batch, 3, [50] * 20, TWO, 20)
    assert answered(batch) == {3: alone([50] * 20, TWO, 20)}


def test_what_is_remembered_keeps_no_adapter_in_memory_and_is_no_other_models():
    batch = Batch(Base(), passes())
    gone = Adapter("gone")
    watched = weakref.ref(gone)
    begun(batch, 0, [1, 2, 3], gone, 3)
    answered(batch)
    del gone
    assert watched() is None
    begun(batch, 1, [1, 2, 3], None, 3)
    assert answered(batch) == {1: alone([1, 2, 3], None, 3)}


def test_a_pass_that_failed_leaves_nothing_behind():
    held = passes()
    batch = Batch(Base(), held)
    begun(batch, 0, [1, 2], ONE, 5)
    step(batch, {})
    held._sequences.room = 1
    with pytest.raises(RuntimeError):
        batch.decode()
    batch.drop(0)
    held._sequences.room = 60
    begun(batch, 1, [1, 2], ONE, 5)
    assert answered(batch) == {1: alone([1, 2], ONE, 5)}


def test_requests_begin_in_the_order_in_which_they_came_once_there_is_room():
    events = queue.Queue()
    turns = Turns(Models(passes(room=20)), active=4, waiting=8)

    def ask(name, prompt, count):
        made = Ask("one", tuple(prompt), Sampling(count), lambda event: events.put((name, event)))
        turns.submit(made)
        return made

    ask("first", [1, 2], 14)
    left = ask("left", [1] * 9, 9)
    left.left.set()
    ask("large", [3] * 9, 9)
    ask("small", [4], 2)
    seen, said = [], {}
    while len(seen) < 3:
        name, token = events.get(timeout=20)
        said.setdefault(name, []).append(token.id)
        if token.finish_reason:
            seen.append(name)
    assert turns.close(5)
    assert said == {"first": alone([1, 2], ONE, 14), "large": alone([3] * 9, ONE, 9), "small": alone([4], ONE, 2)}
    assert seen == ["first", "large", "small"]  # the small one would have had room beside the first
