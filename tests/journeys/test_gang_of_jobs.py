"""A sweep on real processes: four jobs on one base are one trainer, and each is a job of its own all the same."""

import re
import signal

import pytest
from tests.journeys.test_one_job import finished, upload

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

VARIANTS = [(4, 1, 0.003), (8, 2, 0.002), (16, 3, 0.001), (2, 4, 0.004)]
"""Rank, seed, learning rate."""
CANCELLED = 2
LONG = 300
"""Steps enough that a quick machine is still training when the blow comes."""


def sweep(dataset: str, steps: int = 120) -> list[dict]:
    return [
        {
            "base_model": "luthier/tiny",
            "dataset": dataset,
            "name": f"colours-{rank}",
            "seed": seed,
            "lora": {"rank": rank, "alpha": 2 * rank},
            "train": {"max_steps": 20_000 if place == CANCELLED else steps, "learning_rate": rate, "batch_size": 4},
        }
        for place, (rank, seed, rate) in enumerate(VARIANTS)
    ]


def submit_at_once(house, client, specs: list[dict]) -> list[str]:
    """All are in the queue before the supervisor looks."""
    (supervisor,) = house.processes("supervise")
    supervisor.suspend()
    try:
        return [client.jobs.submit(spec).id for spec in specs]
    finally:
        supervisor.resume()


def milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def test_a_sweep_is_one_trainer_whose_time_its_jobs_share(house, tmp_path):
    client = house.start()
    jobs = submit_at_once(house, client, sweep(upload(client, tmp_path, "train", 60)))
    house.wait_until(lambda: all((client.jobs.get(job).step or 0) >= 3 for job in jobs), "all train", 180)
    (trainer,) = house.processes("luthier.training")
    line = " ".join(trainer.cmdline())
    assert all(job in line for job in jobs)

    client.jobs.cancel(jobs[CANCELLED])
    house.wait_until(lambda: client.jobs.get(jobs[CANCELLED]).state == "cancelled", "one is cancelled", 120)
    others = [job for place, job in enumerate(jobs) if place != CANCELLED]
    ended = [finished(client, house, job) for job in others]
    assert [(job.state, job.attempt) for job in ended] == [("succeeded", 1)] * 3, house.log()
    assert len({job.model_id for job in ended}) == 3
    assert client.jobs.get(jobs[CANCELLED]).model_id is None
    for job, (rank, _, _) in zip(ended, [VARIANTS[place] for place in (0, 1, 3)], strict=True):
        assert client.models.get(job.model_id).job_id == job.id
        assert job.spec.lora.rank == rank
        assert [event.step for event in client.jobs.events(job.id) if event.kind == "step"][-1] == 120
        assert "Step 120" in client.jobs.logs(job.id).text

    (worked_ms,) = re.findall(rf"trainer {trainer.pid}:\d+ worked for (\d+) ms", house.log())
    assert sum(milliseconds(client.billing.job_cost(job).elapsed_seconds) for job in jobs) == int(worked_ms)


def test_when_a_shared_trainer_is_killed_every_job_goes_on_from_its_own_checkpoint(house, tmp_path):
    client = house.start()
    specs = [spec for place, spec in enumerate(sweep(upload(client, tmp_path, "train", 60), LONG)) if place != CANCELLED]
    for spec in specs:
        spec["train"]["save_steps"] = 10
    jobs = submit_at_once(house, client, specs)
    house.wait_until(lambda: all((client.jobs.get(job).step or 0) >= 20 for job in jobs), "some steps are done", 180)
    (trainer,) = house.processes("luthier.training")
    trainer.send_signal(signal.SIGKILL)
    ended = [finished(client, house, job) for job in jobs]
    assert [(job.state, job.attempt) for job in ended] == [("succeeded", 2)] * 3, house.log()
    for job in ended:
        assert any(event.kind == "state" and "going on from step" in event.message for event in client.jobs.events(job.id))


def test_when_the_supervisor_is_killed_the_next_one_finds_every_member(house, tmp_path):
    client = house.start()
    specs = [spec for place, spec in enumerate(sweep(upload(client, tmp_path, "train", 60), LONG)) if place != CANCELLED]
    jobs = submit_at_once(house, client, specs)
    house.wait_until(lambda: all((client.jobs.get(job).step or 0) >= 10 for job in jobs), "some steps are done", 180)
    (supervisor,) = house.processes("supervise")
    supervisor.kill()
    ended = [finished(client, house, job) for job in jobs]
    assert [(job.state, job.attempt) for job in ended] == [("succeeded", 2)] * 3, house.log()
    for job in ended:
        # Its trainer saw the pipe end and saved: nothing of what was trained is trained again.
        words = [event.data.get("state") for event in client.jobs.events(job.id) if event.kind == "state"]
        assert "preempted" in words
    assert house.processes("luthier.training") == []
