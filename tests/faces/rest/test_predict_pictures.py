"""`/api/predict/picture`: files as pixels, in three kinds of body, with row P04 of the catalogue of bad input."""

import base64
import io
import threading
import time
import zlib

import pytest
from PIL import Image

from luthier.faces.rest.pictures import Desk
from luthier.serving import pictures

from .conftest import World
from .test_predict import Scripted, classifier, refused

PATH = "/api/predict/picture"
LINES = bytes(range(0, 252, 9)) * 28


def saved(image=None, kind="PNG"):
    file = io.BytesIO()
    (image or Image.frombytes("L", (28, 28), LINES)).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("pictures") / "data", Scripted())
    classifier(world)
    texts = {"format": 1, "model": "logistic-regression", "options": {}, "reads": "labelled", "pixels": 0, "classes": ["a", "b"]}
    classifier(world, "texts", about=texts)
    classifier(world, "large", about={**texts, "reads": "images", "pixels": 56 * 56})
    yield world
    world.platform.close()


@pytest.fixture
def engine(world):
    engine = world.platform.predictions._engine
    engine.asked.clear()
    return engine


def send(world, data, kind="image/png", query=""):
    return world.raw(data, kind, PATH + query)


def form(world, **files):
    return world.ask("POST", PATH, files=files)


def in_base64(world, text, **more):
    return world.ask("POST", PATH, json={"picture": text, **more})


def test_a_picture_is_asked_as_its_pixels_are(world, engine):
    answer = send(world, saved())
    assert answer.status_code == 200, answer.text
    (_, asked), *_ = engine.asked
    assert asked.image == tuple(tone / 255 for tone in LINES)
    as_numbers = world.ask("POST", "/predict", json={"image": list(asked.image)})
    assert as_numbers.json() == answer.json()


def test_bytes_a_form_and_base64_are_the_same_question(world):
    data = saved()
    text = base64.b64encode(data).decode()
    answers = [
        send(world, data),
        send(world, data, "application/octet-stream"),
        form(world, file=("seven.png", data, "image/png")),
        in_base64(world, text),
        in_base64(world, f"data:image/png;base64,{text}"),
    ]
    assert [answer.status_code for answer in answers] == [200] * 5
    assert [answer.json() for answer in answers] == [answers[0].json()] * 5


def test_a_picture_has_the_size_that_its_model_reads(world, engine):
    assert send(world, saved(Image.effect_noise((300, 200), 50), "JPEG"), query="?model_name=large").status_code == 200
    assert len(engine.asked[0][1].image) == 56 * 56


def test_a_digit_is_drawn_as_the_model_knows_it(world, engine):
    page = Image.new("L", (200, 200), 240)
    page.paste(10, (120, 30, 140, 130))
    assert send(world, saved(page), query="?digit=true").status_code == 200
    image = engine.asked[0][1].image
    assert (max(image), image[0]) == (1.0, 0.0)


def test_p04_a_bomb_is_refused_with_its_numbers(world, engine):
    bomb = bytearray(saved(Image.new("1", (8, 8))))
    bomb[16:24] = (50_000).to_bytes(4) * 2
    bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4)
    error = refused(send(world, bytes(bomb)), 413, "too_large")
    assert error["message"] == "The picture is 50,000 x 50,000 = 2,500,000,000 pixels; at most 16,777,216 are read."
    assert (error["param"], engine.asked) == ("picture", [])


@pytest.mark.parametrize("text", ["@@@@", "aGVsbG8", "", "data:image/png;base64,@"])
def test_p04_base64_that_is_none_is_refused(world, engine, text):
    error = refused(in_base64(world, text), 422, "bad_base64" if text else "bad_picture")
    assert (error["param"], engine.asked) == ("picture", [])


@pytest.mark.parametrize("body", [{}, [], "x", {"picture": None}, {"picture": [1]}, {"picture": "", "file": ""}])
def test_p04_json_without_one_picture_is_refused(world, body):
    assert refused(world.ask("POST", PATH, json=body), 422, "invalid_field")["param"] == "picture"


def test_p04_broken_files_and_other_types_are_refused(world, engine):
    data = saved(Image.effect_noise((100, 100), 50))
    refused(send(world, data[: len(data) // 2]), 422, "bad_picture")
    refused(send(world, saved(kind="GIF"), "image/png"), 422, "picture_type")
    refused(form(world, file=("x.npy", b"\x93NUMPY\x01\0", "image/png")), 422, "picture_type")
    refused(send(world, b""), 422, "bad_picture")
    assert engine.asked == []


@pytest.mark.parametrize("kind", ["", "text/plain", "image/gif", "multipart/mixed; boundary=x"])
def test_other_bodies_are_not_read(world, kind):
    refused(send(world, saved(), kind), 415, "unsupported_media_type")


def test_json_in_another_encoding_is_not_read(world):
    body = b'{"picture": "' + base64.b64encode(saved()) + b'"}'
    refused(send(world, body, "application/json; charset=utf-16"), 415, "unsupported_media_type")
    assert send(world, body, "application/json; charset=utf-8").status_code == 200


def test_a_form_has_one_file_and_nothing_else(world):
    refused(form(world, picture=("a.png", saved(), "image/png")), 422, "extra_forbidden")
    refused(world.ask("POST", PATH, files={"file": saved()}, data={"digit": "true"}), 422, "extra_forbidden")
    refused(send(world, b"--x\r\nbroken", "multipart/form-data; boundary=x"), 400, "bad_request")
    refused(send(world, saved(), "multipart/form-data"), 400, "bad_request")


def test_a_file_that_is_too_large_is_refused_in_each_kind_of_body(world):
    data = saved() + bytes(pictures.MOST_BYTES)
    text = base64.b64encode(data).decode()
    for answer in (send(world, data), form(world, file=("x.png", data, "image/png")), in_base64(world, text)):
        assert f"at most {pictures.MOST_BYTES:,}" in refused(answer, 413, "too_large")["message"]
    refused(send(world, bytes(pictures.MOST_BYTES * 3 // 2)), 413, "too_large")


def test_models_that_read_no_images_or_are_not_there_are_refused(world):
    assert refused(send(world, saved(), query="?model_name=texts"), 422, "invalid_field")["param"] == "model_name"
    refused(send(world, saved(), query="?model_name=nobodys"), 404, "not_found")
    refused(send(world, saved(), query="?name=x"), 422, "extra_forbidden")


def test_a_picture_without_a_place_comes_later_and_the_server_answers_meanwhile(world, monkeypatch):
    gate, entered = threading.Event(), threading.Semaphore(0)
    read = pictures.pixels_of

    def slow(*asked, **how):
        entered.release()
        assert gate.wait(20)
        return read(*asked, **how)

    monkeypatch.setattr(pictures, "pixels_of", slow)
    monkeypatch.setattr(world.app.state, "desk", Desk(at_a_time=2, most_inside=4))
    with world.client:
        found = []
        threads = [threading.Thread(target=lambda: found.append(send(world, saved()))) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert entered.acquire(timeout=10)
        assert entered.acquire(timeout=10)
        end = time.monotonic() + 10
        while world.app.state.desk._inside < 4:
            assert time.monotonic() < end
        answer = send(world, saved())
        refused(answer, 429, "too_many_requests")
        assert answer.headers["retry-after"] == "1"
        assert world.ask("GET", "/health").status_code in {200, 503}
        assert world.ask("GET", "/api/me").status_code == 200
        assert not entered.acquire(blocking=False), "no third is unpacked"
        gate.set()
        for thread in threads:
            thread.join()
    assert [each.status_code for each in found] == [200] * 4
    assert send(world, saved()).status_code == 200, "places are given back"
