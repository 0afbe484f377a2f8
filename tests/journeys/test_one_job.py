"""What a user does, on real processes: upload, train, be interrupted, promote, ask, pay."""

import json
import signal
from decimal import Decimal

import pytest

from luthier.errors import EvaluationNeeded, LuthierError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]


def rows(count: int) -> str:
    lines = [
        {
            "messages": [
                {"role": "user", "content": f"Say colour {number}"},
                {"role": "assistant", "content": f"blue {number % 4}"},
            ]
        }
        for number in range(count)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


def upload(client, tmp_path, name: str, count: int) -> str:
    path = tmp_path / f"{name}.jsonl"
    path.write_text(rows(count))
    return client.datasets.upload(path, name=name).id


def spec(dataset: str, held_out: str, **train) -> dict:
    return {
        "base_model": "luthier/tiny",
        "dataset": dataset,
        "validation_dataset": held_out,
        "name": "colours",
        "train": {"max_steps": 40, "learning_rate": 0.003, "batch_size": 4, "save_steps": 10, **train},
        "evaluate": {"rows": 4, "max_new_tokens": 8},
    }


def finished(client, house, job_id: str):
    house.wait_until(
        lambda: client.jobs.get(job_id).state in {"succeeded", "failed", "stopped", "cancelled"}, "the job ends", 300
    )
    return client.jobs.get(job_id)


def test_from_rows_to_a_model_that_answers(house, tmp_path):
    client = house.start()
    train, held_out = upload(client, tmp_path, "train", 60), upload(client, tmp_path, "held-out", 8)
    estimate = client.jobs.estimate(spec(train, held_out))
    assert estimate.fits
    job = finished(client, house, client.jobs.submit(spec(train, held_out)).id)
    assert job.state == "succeeded", house.log()

    model = client.models.get(job.model_id)
    assert model.card["evaluation"]["tuned"]["loss"] < model.card["evaluation"]["base"]["loss"]
    assert client.models.transition(model.id, "Production").stage == "Production"
    answer = client.chat.answer("colours", [{"role": "user", "content": "Say colour 3"}], max_tokens=8)
    assert answer.model == model.id
    assert Decimal(client.billing.job_cost(job.id).cost_usd) == 0
    with pytest.raises(LuthierError):
        client.models.delete(model.id)


def test_kill_9_of_server_supervisor_and_trainer_loses_nothing(house, tmp_path):
    client = house.start()
    train, held_out = upload(client, tmp_path, "train", 60), upload(client, tmp_path, "held-out", 8)
    job_id = client.jobs.submit(spec(train, held_out, max_steps=300)).id
    house.wait_until(lambda: (client.jobs.get(job_id).step or 0) >= 20, "some steps are done", 120)
    house.kill_everything()
    client = house.start()
    job = finished(client, house, job_id)
    assert (job.state, job.attempt) == ("succeeded", 2), house.log()
    losses = [event for event in client.jobs.events(job_id) if event.kind == "checkpoint"]
    assert losses


def test_a_killed_trainer_is_started_again_and_a_stopped_job_resumes(house, tmp_path):
    client = house.start()
    train, held_out = upload(client, tmp_path, "train", 60), upload(client, tmp_path, "held-out", 8)
    job_id = client.jobs.submit(spec(train, held_out, max_steps=400)).id
    house.wait_until(lambda: (client.jobs.get(job_id).step or 0) >= 20, "some steps are done", 120)
    for process in house.processes("luthier.training"):
        process.send_signal(signal.SIGKILL)
    house.wait_until(
        lambda: client.jobs.get(job_id).attempt == 2 and client.jobs.get(job_id).state == "running", "it runs again", 120
    )
    client.jobs.stop(job_id)
    house.wait_until(lambda: client.jobs.get(job_id).state == "stopped", "it has stopped", 60)
    client.jobs.resume(job_id)
    job = finished(client, house, job_id)
    assert (job.state, job.attempt) == ("succeeded", 3), house.log()


def test_a_server_told_to_stop_leaves_no_process_and_the_job_goes_on_next_time(house, tmp_path):
    client = house.start()
    train, held_out = upload(client, tmp_path, "train", 60), upload(client, tmp_path, "held-out", 8)
    job_id = client.jobs.submit(spec(train, held_out, max_steps=300)).id
    house.wait_until(lambda: (client.jobs.get(job_id).step or 0) >= 10, "some steps are done", 120)
    house.stop()
    assert [house.processes(module) for module in ("luthier.training", "luthier.modeling", "luthier.server")] == [[], [], []]
    client = house.start()
    job = finished(client, house, job_id)
    assert (job.state, job.attempt) == ("succeeded", 2), house.log()


def test_a_model_without_an_evaluation_does_not_go_to_production(house, tmp_path):
    client = house.start()
    wanted = spec(upload(client, tmp_path, "train", 60), "", max_steps=5)
    del wanted["validation_dataset"]
    job = finished(client, house, client.jobs.submit(wanted).id)
    with pytest.raises(EvaluationNeeded):
        client.models.transition(job.model_id, "Production")
