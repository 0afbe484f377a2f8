"""`model evaluate`, `model export`, and a config about a model."""

import json
import threading

import pytest

from .conftest import MODEL

FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 8}


@pytest.fixture
def ends_exports(world):
    """A supervisor that ends the next export as soon as it waits."""
    done = threading.Event()

    def work():
        while not done.wait(0.05):
            if any(job.kind == "export" and job.state == "queued" for job in world.platform.jobs.list(world.actor).data):
                world.end_export(FILES)
                return

    thread = threading.Thread(target=work)
    thread.start()
    yield
    done.set()
    thread.join()


def test_an_evaluation_is_queued_with_its_price(terminal, world):
    model = world.model()
    ended = terminal("model", "evaluate", "intents@1", "--dataset", world.dataset, "--rows", "4", "--json")
    assert ended.code == 0, ended.err
    job = ended.json["job"]
    assert (job["kind"], job["model"], job["spec"]["evaluate"]["rows"]) == ("evaluate", model.id, 4)
    assert f"evaluate of intents@1 on {world.dataset}" in ended.err
    assert "Cost" in ended.err


def test_what_the_server_refuses_is_said(terminal, world):
    world.model()
    ended = terminal("model", "evaluate", "intents@1")
    assert ended.code != 0
    assert "validation_dataset" in ended.err
    ended = terminal("model", "export", "nothing@1")
    assert ended.code != 0
    assert "No such model" in ended.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("export", MODEL, "--format", "onnx"), "--format is one of merged, adapter, gguf"),
        (("export", MODEL, "--precision", "int8"), "--precision is one of"),
        (("export", MODEL, "--job-id", "job_01kagz3vqdfyxtqn4w5b9zn8r2"), "not both"),
        (("export",), "Which one"),
        (("evaluate",), "Which one"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_asked(terminal, fake, words, said):
    ended = terminal("model", *words)
    assert ended.code == 2
    assert said in ended.err
    assert not fake.asked


def test_an_export_is_waited_for_fetched_and_fetched_again(terminal, world, ends_exports, tmp_path):
    world.model()
    folder = tmp_path / "out"
    ended = terminal("model", "export", "intents@1", "--output", str(folder), "--json")
    assert ended.code == 0, ended.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    job_id = ended.json["job"]["id"]
    (folder / "config.json").unlink()
    again = terminal("model", "export", "--job-id", job_id, "--output", str(folder))
    assert (again.code, again.out.strip()) == (0, str(folder))
    assert (folder / "config.json").read_bytes() == b"{}"
    (folder / "config.json").write_text("mine")
    kept = terminal("model", "export", "--job-id", job_id, "--output", str(folder))
    assert kept.code == 2
    assert "--force" in kept.err
    assert (folder / "config.json").read_text() == "mine"


def test_a_config_about_a_model_is_a_run(terminal, world, tmp_path):
    model = world.model()
    config = tmp_path / "evaluate.yaml"
    config.write_text(f"kind: evaluate\nmodel: intents@1\ndataset: {world.dataset}\n")
    ended = terminal("tune", "start", "--config", str(config))
    assert ended.code == 0, ended.err
    shown = terminal("tune", "status", ended.out.strip())
    assert model.id in shown.out
    assert "evaluate" in shown.out
    config.write_text("kind: export\nexport: {format: adapter}\n")
    assert "--model is missing" in terminal("tune", "start", "--config", str(config)).err
    named = terminal("tune", "estimate", "--config", str(config), "--model", model.id, "--json")
    assert named.code == 0, named.err
    assert json.loads(named.out)["steps"] == 0


def test_a_card_shows_what_was_measured_last(terminal, fake):
    from ..sdk.conftest import as_json

    scores = {"loss": 0.5, "perplexity": 1.6, "exact_match": 0.75, "metrics": {"reward": 1.0}}
    evaluation = {"rows": 4, "base": {**scores, "loss": 2.0}, "tuned": scores, "against": {**scores, "loss": 0.7}}
    record = {"job_id": "job_1", "dataset": "ds_2", "at": "2026-11-21T12:00:00Z", "against": "model_2", "evaluation": evaluation}
    about = {"id": MODEL, "name": "intents", "version": "1", "stage": "None", "base_model": "b", "dataset": "d", "job_id": "j"}
    card = {"evaluation": None, "evaluations": [record, record]}
    fake.say(f"GET /api/models/{MODEL}", as_json({**about, "bytes": 1, "created_at": record["at"], "card": card}))
    shown = terminal("model", "show", MODEL)
    assert shown.code == 0, shown.err
    assert "on ds_2 by job_1, against model_2 (1 earlier" in shown.out
    assert ["loss", "2.0000", "0.5000", "0.7000"] in [line.split() for line in shown.out.splitlines()]
