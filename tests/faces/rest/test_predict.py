"""`/predict`, with rows P01 to P12 of the catalogue of bad input: a real platform, and an engine that answers as it was told."""

import hashlib
import json
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest

from luthier import ids
from luthier.backends.engines.echo import EchoEngine
from luthier.errors import ModelLoading, TooMany
from luthier.faces.rest import body
from luthier.faces.rest.predict import Hall
from luthier.jobs.spec import RunSpec, Sources
from luthier.registry.types import Finished, Stage
from luthier.seams import Classified
from luthier.serving.types import PredictRequest
from luthier.values import BaseSource, Source

from .conftest import World

IMAGE = [0.0] * 783 + [1.0]
NAME = "MNISTClassifier"


class Scripted(EchoEngine):
    """Notes what it is asked; answers with `likely`, or raises `refusal`, where there is one."""

    def __init__(self):
        super().__init__()
        self.asked = []
        self.likely = None
        self.refusal = None

    def classify(self, model, questions):
        self.asked += [(model, question) for question in questions]
        if self.refusal is not None:
            raise self.refusal
        found = super().classify(model, questions)
        return found if self.likely is None else [Classified(each.classes, tuple(self.likely)) for each in found]


@pytest.fixture
def engine():
    return Scripted()


@pytest.fixture
def world(tmp_path, engine):
    world = World(tmp_path / "data", engine)
    yield world
    world.platform.close()


def classifier(world, name=NAME, actor=None, stage=Stage.PRODUCTION, about=None):
    """A version, as the supervisor registers one; what it weighs only a real engine would read."""
    actor, job_id = actor or world.actor, ids.new(ids.JOB)
    results = f"users/{actor.tenant_id}/jobs/{job_id}/attempts/1/results"
    said = about or {"format": 1, "model": "mnist-cnn", "options": {}, "reads": "images", "pixels": 784, "classes": ["0", "1"]}
    scores = {"rows": 10, "base": {"loss": 2.0}, "tuned": {"loss": 1.0}}
    files = {"final_model/model.safetensors": b"w", "final_model/classifier.json": json.dumps(said).encode()}
    files |= {"metrics.json": b"{}", "evaluation.json": json.dumps(scores).encode()}
    for short, data in files.items():
        world.platform.storage.write(f"{results}/{short}", data)
    source = Source(id="ds_1", url="file:///x", sha256=hashlib.sha256(b"rows").hexdigest())
    base = BaseSource(id="mnist-cnn", revision="luthier 1", url="classifier:mnist-cnn")
    other = Source(id="ds_2", url="file:///y", sha256=hashlib.sha256(b"held-out rows").hexdigest())
    sources = Sources(dataset=source, validation_dataset=other, base=base)
    spec = RunSpec(method="classifier", dataset="ds_1", validation_dataset="ds_2", name=name, sources=sources)
    spec = spec.model_copy(update={"base_model": "mnist-cnn"})
    done = Finished(tenant_id=actor.tenant_id, created_by=actor.user_id, job_id=job_id, spec=spec, results=results)
    made = world.platform.registry.register(done)
    return world.platform.registry.transition(actor, made.id, stage)


def predict(world, image=IMAGE, path="/predict", **fields):
    return world.ask("POST", path, json={"image": image, **fields})


def refused(answer, status, code):
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    return answer.json()["error"]


@pytest.mark.parametrize("path", ["/predict", "/api/predict"])
def test_the_answer_is_the_documented_one(world, path):
    classifier(world)
    answer = predict(world, path=path)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "prediction": 3,
        "confidence": 0.91,
        "probabilities": [0.01, 0.01, 0.01, 0.91, *[0.01] * 6],
        "classes": list("0123456789"),
        "model_name": NAME,
        "model_version": "1",
        "model_stage": "Production",
    }


def test_only_the_version_in_production_answers(world, engine):
    first, _ = classifier(world), classifier(world, stage=Stage.STAGING)
    assert predict(world).json()["model_version"] == "1"
    third = classifier(world)
    assert predict(world).json()["model_version"] == "3"
    assert [model.id for model, _ in engine.asked] == [first.id, third.id]


def test_texts_are_asked_of_models_of_texts(world, engine):
    about = {"format": 1, "model": "logistic-regression", "options": {}, "reads": "labelled", "pixels": 0, "classes": ["a", "b"]}
    classifier(world, "intents", about=about)
    assert world.ask("POST", "/predict", json={"text": "abc", "model_name": "intents"}).json()["prediction"] == 3
    assert engine.asked[0][1].text == "abc"
    assert refused(predict(world, model_name="intents"), 422, "invalid_field")["message"] == "This model reads texts."
    classifier(world)
    assert refused(world.ask("POST", "/predict", json={"text": "abc"}), 422, "invalid_field")["param"] == "text"


def test_one_thing_is_asked_at_a_time(world):
    refused(world.ask("POST", "/predict", json={}), 422, "missing")
    refused(predict(world, text="both"), 422, "invalid_field")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_p01_what_is_no_finite_number_is_refused_without_an_echo(world, number):
    classifier(world)
    answer = world.raw(f'{{"image": [{number}{", 0" * 783}]}}'.encode(), path="/predict")
    refused(answer, 422, "finite_number")
    assert number not in answer.text.replace("NaN and Infinity are no numbers in JSON.", "")


@pytest.mark.parametrize("number", ["-0.0", "1e-400"])
def test_p01_the_smallest_numbers_are_numbers(world, number):
    classifier(world)
    assert world.raw(f'{{"image": [{number}{", 0" * 782}, 1]}}'.encode(), path="/predict").status_code == 200


@pytest.mark.parametrize("length", [0, 1, 783, 785, 100_000])
def test_p02_another_length_is_refused_with_the_right_one(world, engine, length):
    classifier(world)
    error = refused(predict(world, [0] * length), 422, "invalid_field")
    assert (error["message"], error["param"]) == (f"`image` has {length} numbers; expected 784.", "image")
    assert engine.asked == []


@pytest.mark.parametrize("pixel", ["0.5", None, True, [0.5], {"a": 1}])
def test_p03_what_is_no_number_is_refused(world, engine, pixel):
    classifier(world)
    error = refused(predict(world, [*IMAGE[1:], pixel]), 422, "float_type")
    assert (error["param"], engine.asked) == ("image.783", [])


@pytest.mark.parametrize("pixel", [-0.1, 1.1, 255, 1e300])
def test_p04_pixels_run_from_0_to_1(world, engine, pixel):
    classifier(world)
    answer = predict(world, [*IMAGE[1:], pixel])
    assert (answer.status_code, answer.json()["error"]["param"], engine.asked) == (422, "image.783", [])


def test_p04_a_file_is_no_list_of_pixels(world):
    classifier(world)
    refused(predict(world, "aGVsbG8="), 422, "tuple_type")


def test_p05_without_a_version_in_production_nobody_answers(world):
    refused(predict(world), 409, "no_model")
    classifier(world, stage=Stage.STAGING)
    assert refused(predict(world), 409, "no_model")["param"] == "model_name"
    classifier(world, "other", stage=Stage.ARCHIVED)
    refused(predict(world, model_name="other"), 409, "no_model")


def test_p06_a_million_at_once_are_too_large(world):
    classifier(world)
    refused(world.raw(b'{"image": [' + b"0," * 1_000_000 + b"0]}", path="/predict"), 413, "too_large")


@pytest.mark.parametrize("kind", ["application/xml", "", "text/plain", "application/json; charset=utf-16"])
def test_p07_other_types_are_not_read(world, kind):
    classifier(world)
    refused(world.raw(json.dumps({"image": IMAGE}).encode(), kind, "/predict"), 415, "unsupported_media_type")


def test_p09_what_the_engine_has_no_place_for_comes_later(world, engine):
    classifier(world)
    engine.refusal = TooMany("32 requests wait for this engine already.", retry_after_s=2)
    answer = predict(world)
    refused(answer, 429, "too_many_requests")
    assert answer.headers["retry-after"] == "2"


@pytest.mark.parametrize("name", ["latest;", "-1", "../x", f"{NAME}@1", "model_" + "0" * 26, "'; drop table models"])
def test_p10_a_name_that_nobody_has_is_unknown(world, name):
    classifier(world)
    refused(predict(world, model_name=name), 404, "not_found")


@pytest.mark.parametrize("name", [-1, None, "", ["x"], "a\nb", "x" * 129])
def test_p10_what_is_no_name_is_refused(world, name):
    classifier(world)
    assert predict(world, model_name=name).status_code == 422


def test_p10_another_teams_model_is_unknown(world, engine):
    theirs = classifier(world, "theirs", world.stranger)
    foreign, unknown = predict(world, model_name="theirs"), predict(world, model_name="nobodys")
    assert {**refused(foreign, 404, "not_found"), "request_id": 0} == {**refused(unknown, 404, "not_found"), "request_id": 0}
    refused(predict(world, model_name=theirs.id), 404, "not_found")
    assert engine.asked == []


@pytest.mark.parametrize("likely", [[math.nan] * 10, [math.inf, *[0.0] * 9], [-1.0, 2.0, *[0.0] * 8], [0.5] * 10, [0.0] * 10])
def test_p11_an_answer_of_no_probabilities_is_none(world, engine, likely):
    classifier(world)
    engine.likely = likely
    refused(predict(world), 422, "model_output_invalid")
    engine.likely = None
    assert predict(world).json()["prediction"] == 3, "what was no answer must not be kept"


def test_p12_the_same_question_of_two_teams_is_two_questions(world, engine):
    ours, theirs = classifier(world), classifier(world, actor=world.stranger)
    body = json.dumps({"image": IMAGE}).encode()
    assert world.raw(body, path="/predict").json()["prediction"] == 3
    engine.likely = [1.0, *[0.0] * 9]
    assert world.raw(body, path="/predict").json()["prediction"] == 3
    assert [model.id for model, _ in engine.asked] == [ours.id]
    hall, asked = Hall(world.platform.predictions), PredictRequest.model_validate_json(body)
    found = json.loads(anyio.run(hall.answer, world.stranger, asked, body))
    assert (found["prediction"], [model.id for model, _ in engine.asked]) == (0, [ours.id, theirs.id])


def test_a_new_version_in_production_answers_anew(world, engine):
    classifier(world)
    predict(world)
    engine.likely = [1.0, *[0.0] * 9]
    assert predict(world).json()["prediction"] == 3
    classifier(world)
    assert predict(world).json()["prediction"] == 0


def test_many_at_once_get_the_same_answer(world):
    classifier(world)
    with world.client, ThreadPoolExecutor(8) as many:
        found = many.map(lambda number: predict(world, [number / 100, *IMAGE[1:]]).json()["prediction"], [0, 1] * 8)
    assert list(found) == [3] * 16


def test_what_was_asked_before_is_answered_without_the_engine_and_metered(world, engine):
    classifier(world)
    answers = [predict(world) for _ in range(3)]
    assert [answer.json() for answer in answers] == [answers[0].json()] * 3
    assert len(engine.asked) == 1
    usage = world.ask("GET", "/api/billing/usage").json()["tokens"]
    assert [(each["kind"], each["requests"], each["prompt_tokens"]) for each in usage] == [("predict", 3, 0)]


def test_only_the_whole_body_is_the_question(world, engine):
    classifier(world), classifier(world, "other")
    predict(world)
    engine.likely = [1.0, *[0.0] * 9]
    assert predict(world, model_name="other").json()["prediction"] == 0
    assert predict(world).json()["prediction"] == 3
    escaped = json.dumps({"image": IMAGE, "model_name": "other"}).replace("model_name", "model\\u005fname")
    assert world.raw(escaped.encode(), path="/predict").json()["model_name"] == "other"
    assert world.raw(escaped.encode(), path="/predict").json()["model_name"] == "other"


def test_a_prediction_only_looks(world):
    classifier(world)
    before = world.ask("GET", "/api/audit").json()
    predict(world)
    assert world.ask("GET", "/api/audit").json() == before


def test_p09_what_finds_no_place_is_told_to_come_again(world, engine):
    classifier(world)
    gate, entered = threading.Event(), threading.Semaphore(0)
    ask = engine.classify

    def slow(model, request):
        entered.release()
        assert gate.wait(20)
        return ask(model, request)

    engine.classify = slow
    hall = world.app.state.hall = Hall(world.platform.predictions, most_inside=5)
    images = [[number / 100, *IMAGE[1:]] for number in range(8)]
    with world.client, ThreadPoolExecutor(5) as many:
        found = [many.submit(predict, world, image) for image in images[:5]]
        assert entered.acquire(timeout=10)
        while hall.inside < 5:
            pass
        refusals = [predict(world, image) for image in images[5:]]
        gate.set()
    assert [answer.status_code for answer in refusals] == [429] * 3
    assert {answer.headers["retry-after"] for answer in refusals} == {"1"}
    assert [answer.result().status_code for answer in found] == [200] * 5
    assert hall.inside == 0


def test_p05_a_model_that_is_still_loading_is_told_with_a_time(world, engine):
    classifier(world)
    engine.refusal = ModelLoading()
    answer = predict(world)
    refused(answer, 503, "model_loading")
    assert answer.headers["retry-after"] == "5"


def test_p08_a_body_that_does_not_come_to_an_end_is_refused(world, monkeypatch):
    monkeypatch.setattr(body, "_BODY_S", 0.05)
    classifier(world)
    sent = []

    async def run():
        first = iter([{"type": "http.request", "body": b'{"image"', "more_body": True}])

        async def receive():
            message = next(first, None)
            if message is None:
                await anyio.sleep_forever()
            return message

        async def send(message):
            sent.append(message)

        headers = [(b"host", b"x"), (b"x-api-key", world.key.encode()), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "headers": headers, "root_path": ""}
        await world.app({**scope, "scheme": "http", "client": ("127.0.0.1", 1), "server": ("x", 80), "state": {}}, receive, send)

    anyio.run(run)
    assert (sent[0]["status"], dict(sent[0]["headers"])[b"connection"]) == (408, b"close")
    assert json.loads(sent[1]["body"])["error"]["code"] == "request_timeout"
