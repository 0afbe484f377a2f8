"""A trainer that waits for the next job, on real processes: who gets it, what is billed, and what becomes of it."""

import json
import re
import time

import pytest
from tests.journeys.test_gang_of_jobs import milliseconds
from tests.journeys.test_one_job import finished, upload

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]


def spec(dataset: str, **fields) -> dict:
    train = {"max_steps": 3, "learning_rate": 0.003, "batch_size": 4}
    return {"base_model": "luthier/tiny", "dataset": dataset, "name": "colours", "train": train, **fields}


def ready(house, times: int):
    """The process that waits, when it is the given one in turn to have got ready."""
    log = house.data / "trainers/warm.log"
    house.wait_until(lambda: log.exists() and log.read_text().count("Ready after") == times, "a trainer waits", 120)
    return max(house.processes("--warm"), key=lambda process: process.create_time())


def owner(house, job) -> int:
    (path,) = house.data.glob(f"users/*/jobs/{job.id}/attempts/{job.attempt}/owner.json")
    return json.loads(path.read_text())["pid"]


def losses(client, job) -> list:
    return [step for event in client.jobs.events(job.id) if event.kind == "step" for step in event.data["steps"]]


def test_the_next_job_is_taken_by_the_trainer_that_waits_and_pays_for_its_work_alone(house, tmp_path):
    client = house.start(LUTHIER_WARM_TRAINERS="1")
    dataset = upload(client, tmp_path, "train", 60)
    assert house.processes("--warm") == []
    cold = finished(client, house, client.jobs.submit(spec(dataset)).id)
    waits = ready(house, 1)
    began = time.monotonic()

    job = finished(client, house, client.jobs.submit(spec(dataset)).id)
    passed_ms = milliseconds(time.monotonic() - began)
    assert (cold.state, job.state, job.attempt) == ("succeeded", "succeeded", 1), house.log()
    assert owner(house, job) == waits.pid != owner(house, cold)
    # Its log is the job's from the order on; what it said while it waited is not.
    text = client.jobs.logs(job.id).text
    assert "Step 3 of 3" in text
    assert "Ready after" not in text
    # Billed from the claim to the end, not for the time in which it waited: it got ready long before.
    (worked_ms,) = re.findall(rf"trainer {waits.pid}:\d+ worked for (\d+) ms", house.log())
    assert milliseconds(client.billing.job_cost(job.id).elapsed_seconds) == int(worked_ms) <= passed_ms
    assert losses(client, job) == losses(client, cold)

    another = ready(house, 2)
    assert another.pid != waits.pid
    house.stop()
    house.wait_until(lambda: house.processes("luthier.training") == [], "nobody waits any more")


def test_a_supervisor_that_is_killed_takes_the_trainer_that_waits_with_it(house, tmp_path):
    client = house.start(LUTHIER_WARM_TRAINERS="1", LUTHIER_WARM_IDLE_S="300")
    dataset = upload(client, tmp_path, "train", 60)
    finished(client, house, client.jobs.submit(spec(dataset)).id)
    waits = ready(house, 1)
    job = client.jobs.submit(spec(dataset, train={"max_steps": 400, "learning_rate": 0.003, "batch_size": 4})).id
    house.wait_until(lambda: (client.jobs.get(job).step or 0) >= 3, "it trains", 60)
    ready(house, 2)
    (supervisor,) = house.processes("supervise")
    supervisor.kill()
    ended = finished(client, house, job)
    assert (ended.state, ended.attempt) == ("succeeded", 2), house.log()
    words = [event.data.get("state") for event in client.jobs.events(job) if event.kind == "state"]
    assert "preempted" in words  # the one that waited became an ordinary trainer: the end of the pipe made it save
    assert owner(house, ended) != waits.pid


def test_one_that_waits_too_long_ends(house, tmp_path):
    client = house.start(LUTHIER_WARM_TRAINERS="1", LUTHIER_WARM_IDLE_S="5")
    finished(client, house, client.jobs.submit(spec(upload(client, tmp_path, "train", 60))).id)
    # Whether it is still there when the job is seen to have ended, only the machine's speed says; its log stays.
    house.wait_until((house.data / "trainers/warm.log").exists, "a trainer gets ready", 120)
    house.wait_until(lambda: house.processes("--warm") == [], "it ends", 120)
