"""`model predict`: what it reads, what it prints, and what it refuses before it asks."""

import pytest

from luthier.faces.cli.predicting import pixels_of


@pytest.mark.parametrize("text", ["[1, NaN]", "[[1]]", "a b", '["x"]', "[null]"])
def test_what_are_no_numbers_is_no_image(text):
    with pytest.raises((ValueError, TypeError)):
        pixels_of(text)


def test_without_a_model_in_production_it_says_so(terminal, world, tmp_path):
    (tmp_path / "seven.json").write_text(str([0.0] * 784))
    ended = terminal("model", "predict", "--image", str(tmp_path / "seven.json"))
    assert ended.code != 0
    assert "No version of MNISTClassifier is in Production" in ended.err


def test_it_asks_one_thing_that_it_can_read(terminal, world, tmp_path):
    for words in ((), ("--text", "a", "--image", "x"), ("--image", str(tmp_path / "nothing.json"))):
        ended = terminal("model", "predict", *words)
        assert ended.code == 2
        assert "--image" in ended.err
