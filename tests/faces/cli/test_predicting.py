"""`model predict`: what it reads, what it prints, and what it refuses before it asks."""

import pytest

from luthier.faces.cli.predicting import pixels_of

from ..sdk.conftest import as_json


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
    nothing = str(tmp_path / "nothing")
    for words in ((), ("--text", "a", "--image", "x"), ("--image", nothing), ("--picture", nothing, "--image", nothing)):
        ended = terminal("model", "predict", *words)
        assert ended.code == 2
        assert "--image" in ended.err
    assert "--digit goes with --picture" in terminal("model", "predict", "--text", "a", "--digit").err
    assert "--picture cannot be read" in terminal("model", "predict", "--picture", nothing).err


def test_a_picture_is_asked_too(terminal, fake, tmp_path):
    found = {"prediction": 7, "classes": ["6", "7"], "probabilities": [0.1, 0.9], "model_name": "m", "model_version": "1"}
    fake.say("POST /api/predict/picture", as_json(found))
    (tmp_path / "seven.png").write_bytes(b"a png")
    ended = terminal("model", "predict", "shapes", "--picture", str(tmp_path / "seven.png"), "--digit")
    assert (ended.code, ended.out) == (0, "7\n")
    assert "90.0%" in ended.err
    assert (fake.asked[0].query["digit"], fake.asked[0].query["model_name"]) == ("true", "shapes")
