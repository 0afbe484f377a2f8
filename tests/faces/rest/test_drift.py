"""Drift over REST: a real platform, an engine that echoes, and a clock that is set; each round is run by hand."""

import hashlib
import itertools
import json
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

import luthier
from luthier import wiring
from luthier.errors import EngineUnavailable, NotFound
from luthier.jobs.spec import RunSpec, Sources
from luthier.notifications.outbox import EventRow
from luthier.registry.store import ModelRow
from luthier.registry.types import Finished, Stage
from luthier.seams import Classified, NotEmbedded
from luthier.serving.drift import store
from luthier.values import BaseSource, Source

from .conftest import World
from .test_predict import Scripted

NUMBERS = itertools.count(1)
ABOUT = {"format": 1, "model": "mnist-cnn", "options": {}, "reads": "images", "pixels": 4, "classes": list("abcd")}
TINY = Path(luthier.__file__).parent / "bases" / "tiny"
WORDS = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
QUIET = {"drift_window": 40, "drift_least": 20, "drift_window_s": 3600}


class Clock:
    """The wall clock, and what a test adds to it."""

    def __init__(self):
        self.ahead = timedelta()

    def __call__(self):
        return wiring.utc_now() + self.ahead


class Engine(Scripted):
    """As sure as the first pixel is bright, that it is the class of the second."""

    def classify(self, model, questions):
        self.asked += [(model, question) for question in questions]
        if self.refusal is not None:
            raise self.refusal
        return [self._answer(question) for question in questions]

    @staticmethod
    def _answer(request):
        sure = 0.5 + (request.image[0] / 2 if request.image else 0.25)
        place = round(request.image[1] * 3) if request.image else len(request.text) % 4
        likely = [(1 - sure) / 3] * 4
        likely[place] = sure
        return Classified(tuple("abcd"), tuple(likely))


def labelled(number, shift=0.0):
    return {"image": pixels(number, shift), "label": "abcd"[number % 4]}


def pixels(number, shift=0.0):
    """Four of them that go through their values in ever new order."""
    return [min(1.0, number * step % 40 / 40 * (1 - shift) + shift) for step in (7, 11, 13, 17)]


class Town:
    """A world whose classifiers have held-out rows, and the verbs of its tests. Each test has a name of its own."""

    name = "digits"

    def __init__(self, folder, **settings):
        self.clock, self.engine = Clock(), Engine()
        self.world = World(folder, self.engine, now=self.clock, **{**QUIET, **settings})
        self.drift = self.world.platform.drift

    def upload(self, rows, name):
        return self.world.upload("".join(json.dumps(row) + "\n" for row in rows).encode(), f"?name={name}").json()["id"]

    def classifier(self, rows=None, about=ABOUT):
        """A version in Production, from a job that is there too."""
        rows = rows or [labelled(number) for number in range(400)]
        half = len(rows) // 2
        data = {"validation_dataset": self.upload(rows[:half], f"held-of-{self.name}")}
        data["dataset"] = self.upload(rows[half:], f"rows-of-{self.name}")
        job = self.world.submit(**data, method="classifier", base_model="mnist-cnn", name=self.name).json()["job"]["id"]
        actor, registry = self.world.actor, self.world.platform.registry
        results = f"users/{actor.tenant_id}/jobs/{job}/attempts/1/results"
        scores = {"rows": 10, "base": {"loss": 2.0}, "tuned": {"loss": 1.0}}
        files = {"final_model/model.safetensors": b"w", "final_model/classifier.json": json.dumps(about).encode()}
        files |= {"metrics.json": b"{}", "evaluation.json": json.dumps(scores).encode()}
        for short, content in files.items():
            self.world.platform.storage.write(f"{results}/{short}", content)
        pins = {
            name: Source(id=id_, url="file:///x", sha256=hashlib.sha256(name.encode()).hexdigest()) for name, id_ in data.items()
        }
        sources = Sources(**pins, base=BaseSource(id="mnist-cnn", revision="1", url="classifier:mnist-cnn"))
        spec = RunSpec(method="classifier", **data, name=self.name, sources=sources).model_copy(
            update={"base_model": "mnist-cnn"}
        )
        done = Finished(tenant_id=actor.tenant_id, created_by=actor.user_id, job_id=job, spec=spec, results=results)
        return registry.transition(actor, registry.register(done).id, Stage.PRODUCTION)

    def watch(self, share=1.0):
        return self.world.ask("PUT", f"/api/drift/models/{self.name}", json={"share": share})

    def ask(self, count=40, shift=0.0, start=0):
        for number in range(start, start + count):
            answer = self.world.ask("POST", "/predict", json={"image": pixels(number, shift), "model_name": self.name})
            assert answer.status_code == 200, answer.text

    def status(self, path="/drift/status"):
        answer = self.world.ask("GET", path)
        assert answer.status_code == 200, answer.text
        return [each for each in answer.json()["data"] if each["name"] == self.name]

    def round(self):
        """How many windows of this test were judged in a round."""
        before = sum(len(each["windows"]) for each in self.status())
        self.drift.round()
        return sum(len(each["windows"]) for each in self.status()) - before

    def alarms(self):
        with self.world.platform.database.read(self.world.actor.tenant_id) as session:
            rows = session.scalars(select(EventRow).where(EventRow.kind == "drift.detected"))
            return [found for found in (json.loads(row.data) for row in rows) if found["name"] == self.name]

    def kept(self):
        with self.world.platform.database.read(self.world.actor.tenant_id) as session:
            return list(session.scalars(select(store.SampleRow).where(store.SampleRow.name == self.name)))


@pytest.fixture(scope="module")
def one_town(tmp_path_factory):
    town = Town(tmp_path_factory.mktemp("town") / "data")
    yield town
    town.world.platform.close()


@pytest.fixture
def town(one_town):
    one_town.name = f"digits-{next(NUMBERS)}"
    one_town.clock.ahead = timedelta()
    one_town.engine.asked.clear()
    return one_town


@pytest.fixture
def town_of(tmp_path):
    """One with settings of its own."""
    towns = []

    def made(**settings):
        towns.append(Town(tmp_path / "data", **settings))
        return towns[-1]

    yield made
    for town in towns:
        town.world.platform.close()


def test_what_is_asked_as_in_the_held_out_rows_is_steady_and_what_is_not_is_told_once(town):
    model = town.classifier()
    assert town.watch().json() == {"name": town.name, "share": 1, "own": True}
    town.ask()
    assert town.round() == 1
    [found] = town.status()
    assert (found["state"], found["waiting"], found["reference_rows"], found["reference_of"]) == ("steady", 0, 200, "held_out")
    assert {each["name"] for each in found["windows"][0]["measures"]} == {
        *("brightness", "contrast", "pixel 1", "pixel 2", "pixel 3", "pixel 4", "confidence", "class"),
    }
    assert town.alarms() == []
    town.ask(80, shift=0.6)
    assert town.round() == 1
    assert town.round() == 1
    [found] = town.status(f"/api/drift/status?name={town.name}")
    assert (found["state"], [each["drifted"] for each in found["windows"]]) == ("drifted", [True, True, False])
    assert [each["alarmed"] for each in found["windows"]] == [False, True, False]
    confidence = next(each for each in found["windows"][0]["measures"] if each["name"] == "confidence")
    assert confidence["drifted"]
    assert confidence["p"] < 0.001
    assert sum(confidence["live"]) == 40
    assert sum(confidence["reference"]) == 200
    assert len(confidence["bins"]) + 1 == len(confidence["live"])
    [alarm] = town.alarms()
    assert (alarm["model_id"], alarm["name"], alarm["version"], alarm["samples"]) == (model.id, town.name, "1", 40)
    assert "confidence" in alarm["measures"]
    town.ask(40)
    town.round()
    town.ask(40, shift=0.6)
    town.round()
    assert len(town.alarms()) == 2  # it was steady in between


def test_a_proposal_to_train_again_has_its_cost_and_can_be_submitted(town):
    town.classifier()
    town.watch()
    newest = town.upload([labelled(number, 0.6) for number in range(60)], f"rows-of-{town.name}")
    town.ask(shift=0.6)
    town.round()
    retrain = town.status()[0]["windows"][0]["retrain"]
    assert retrain["run"]["dataset"] == newest
    assert town.world.ask("POST", "/api/jobs/estimate", json=retrain["run"]).json()["cost_usd"] == retrain["cost_usd"]
    assert town.alarms()[0]["retrain_usd"] == retrain["cost_usd"]


def test_nothing_is_kept_where_nobody_asked_for_it(town):
    town.classifier()
    town.ask(5)
    town.round()
    assert (town.kept(), town.status()) == ([], [])


def test_who_opts_out_is_forgotten_at_once_and_what_waits_is_not_written(town):
    town.classifier()
    town.watch()
    town.ask(5)
    town.round()
    assert len(town.kept()) == 5
    town.ask(5, start=5)
    town.watch(0)
    town.round()
    assert town.kept() == []
    assert town.status()[0]["state"] == "off"


def test_a_team_overrules_the_setting_and_goes_back_to_it(town_of):
    town = town_of(drift_share=1)
    town.classifier()
    town.ask(3)
    assert town.watch(0).json()["own"]
    town.ask(3, start=3)
    town.round()
    assert town.kept() == []
    assert town.watch(None).json() == {"name": town.name, "share": 1, "own": False}
    town.ask(3, start=6)
    town.round()
    assert len(town.kept()) == 3


def test_answers_from_the_cache_are_requests_too(town):
    town.classifier()
    town.watch()
    town.ask(2)
    town.ask(2)
    town.round()
    assert len(town.engine.asked) == 2
    assert len(town.kept()) == 4


def test_what_is_kept_is_shown_without_personal_data(town):
    about = {
        "format": 1,
        "model": "logistic-regression",
        "options": {},
        "reads": "labelled",
        "pixels": 0,
        "classes": list("abcd"),
    }
    rows = [{"text": f"Where is order {number}?", "label": "abcd"[number % 4]} for number in range(30)]
    model = town.classifier(rows, about=about)
    town.watch()
    asked = {"text": "I am jo@shop.io, call +49 30 1234567.", "model_name": town.name}
    assert town.world.ask("POST", "/predict", json=asked).status_code == 200
    town.round()
    [sample] = town.world.ask("GET", f"/api/drift/samples/{model.id}").json()["data"]
    assert sample["observation"]["text"] == "I am [address], call [phone]."
    assert sample["observation"]["features"] == {"characters": 37, "words": 7}
    assert all("jo@shop" not in row.data for row in town.kept())


def test_samples_are_few_and_leave_after_their_time(town_of):
    town = town_of(drift_keep=30, drift_keep_s=600, drift_window=200)
    town.classifier()
    town.watch()
    town.ask(35)
    town.round()
    town.round()
    assert len(town.kept()) == 30
    town.clock.ahead = timedelta(seconds=601)
    town.round()
    assert town.kept() == []


def test_a_window_that_fills_slowly_is_judged_when_it_is_old(town):
    town.classifier()
    town.watch()
    town.ask(25)
    assert town.round() == 0
    town.clock.ahead = timedelta(seconds=3601)
    assert town.round() == 1
    assert town.status()[0]["windows"][0]["samples"] == 25


def test_an_engine_that_is_busy_is_asked_again_later(town):
    town.classifier()
    town.watch()
    town.ask()
    town.engine.refusal = EngineUnavailable("Not now.", hint="Later.")
    assert town.round() == 0
    town.engine.refusal = None
    assert town.round() == 1


def test_a_dataset_that_is_gone_leaves_nothing_to_compare_with_and_says_so(town):
    model = town.classifier()
    assert town.world.ask("POST", f"/api/jobs/{model.job_id}/cancel").status_code == 200
    held_out = model.card.lineage.validation_dataset
    assert town.world.ask("DELETE", f"/api/datasets/{held_out}").status_code < 300
    town.watch()
    town.ask()
    assert town.round() == 0
    [found] = town.status()
    assert found["state"] == "no_reference"
    assert held_out in found["why"]


def test_a_deleted_model_is_forgotten(town):
    first = town.classifier()
    town.watch()
    town.ask()
    town.classifier()
    assert town.world.ask("DELETE", f"/api/models/{first.id}").status_code < 300
    town.round()
    assert town.kept() == []
    assert [each["version"] for each in town.status()] == ["2"]


class Embedder:
    """Texts about parcels point one way, all others another; or it is broken."""

    name, dimensions = "ways", 3

    def __init__(self, broken):
        self.broken = broken

    def embed(self, texts):
        if self.broken:
            raise NotEmbedded("the weights are gone")
        tilt = [0.01 * (len(text) % 7) for text in texts]
        return [
            [(1 - t * t) ** 0.5, 0.0, t] if "parcel" in text else [0.0, (1 - t * t) ** 0.5, t]
            for text, t in zip(texts, tilt, strict=True)
        ]


@pytest.mark.parametrize("broken", [False, True])
def test_chats_are_compared_by_what_their_texts_mean_and_the_answer_says_how(town_of, broken):
    embedder = Embedder(broken)
    town = town_of(drift_window=30, embedder=embedder)
    world, town.name = town.world, "helper"
    world.build_base()
    model = chat_model(world)
    town.watch()
    for number in range(30):
        messages = [{"role": "user", "content": f"Where is my parcel number {number * 37}?"}]
        answer = world.ask("POST", "/api/chat", json={"model": model.id, "messages": messages, "max_tokens": 1})
        assert answer.status_code == 200, answer.text
    assert town.round() == 1
    [found] = town.status()
    text = next(each for each in found["windows"][0]["measures"] if each["kind"] == "text")
    assert (text["by"], text["drifted"]) == (("tokens", True) if broken else ("ways", True))
    assert (text["psi"] is None) is not broken
    assert found["state"] == "drifted"


def chat_model(world):
    """A tuned model of the world's rows, which ask `q0` to `q11`."""
    words = {f"final_model/{each}": (TINY / each).read_bytes() for each in WORDS}
    made, dataset = world.model(name="helper", more=words), world.dataset
    with world.platform.database.write(world.actor.tenant_id) as session:
        row = session.get(ModelRow, made.id)
        row.card = row.card.replace('"dataset":"ds_1"', f'"dataset":"{dataset}"')
    return made


def test_other_teams_see_and_change_nothing(town):
    model = town.classifier()
    town.watch()
    town.ask()
    town.round()
    other = town.world.stranger
    assert town.drift.status(other).data == ()
    for forbidden in (lambda: town.drift.watch(other, town.name, 0), lambda: town.drift.samples(other, model.id, 5)):
        with pytest.raises(NotFound):
            forbidden()
    assert len(town.kept()) == 40


@pytest.mark.parametrize("share", [-0.1, 1.1, "all", None])
def test_a_share_is_a_share(one_town, share):
    answer = one_town.world.ask("PUT", "/api/drift/models/nobody", json={} if share is None else {"share": share})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "share")


def test_a_model_that_nobody_has_cannot_be_watched(one_town):
    answer = one_town.world.ask("PUT", "/api/drift/models/nobody", json={"share": 1})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
