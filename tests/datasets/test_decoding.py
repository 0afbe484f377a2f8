"""Text grows as tokens come, and never shows half a character."""

from pathlib import Path

import pytest

import luthier
from luthier.datasets.decoding import TextStream
from luthier.datasets.rendering import Renderer

TINY = Renderer.load(Path(luthier.__file__).parent / "bases" / "tiny")
TEXTS = ["Hello world", "  two  blanks \n\n and a\ttab ", "größer 火山 🌋🇪🇺 नमस्ते", '{"intent": "refund", "urgency": "high"}', ""]


def ids_of(text: str) -> list[int]:
    return TINY._tokens.as_text(text).ids


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_pieces_add_up_to_the_whole_and_none_is_broken(text, at_once):
    ids, stream = ids_of(text), TextStream(TINY.decode)
    pieces = [stream.push(ids[start : start + at_once]) for start in range(0, len(ids), at_once)]
    assert "".join([*pieces, stream.rest()]) == TINY.decode(ids)
    assert not any("\ufffd" in piece for piece in pieces)


def test_text_is_shown_as_soon_as_it_is_whole():
    stream = TextStream(TINY.decode)
    shown = [stream.push([token]) for token in ids_of("one two three")]
    assert all(shown)


def test_what_never_becomes_whole_comes_at_the_end():
    volcano = ids_of("🌋")
    assert len(volcano) > 1, "the test needs a character of several tokens"
    stream = TextStream(TINY.decode)
    assert [stream.push([token]) for token in volcano[:-1]] == [""] * (len(volcano) - 1)
    assert "\ufffd" in stream.rest()


def test_decoding_a_long_answer_takes_linear_time():
    decoded = 0

    def decode(ids):
        nonlocal decoded
        decoded += len(ids)
        return TINY.decode(ids)

    stream, ids = TextStream(decode), ids_of("word " * 500)
    for token in ids:
        stream.push([token])
    assert decoded < 8 * len(ids)
