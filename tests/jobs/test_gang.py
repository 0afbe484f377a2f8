"""Several jobs in one trainer: each is followed, ended, retried and billed by itself."""

from dataclasses import replace

import pytest

from luthier.billing.rules import micro_usd
from luthier.datasets.types import Upload

FIRST = "thread-1"
ROWS = b"".join(b'{"prompt": "What is %d?", "completion": "It."}\n' % number for number in range(8))


def submitted(bench, count: int, **changes):
    return [bench.submit(**changes) for _ in range(count)]


def started(bench, jobs) -> None:
    bench.supervisor.tick()
    for job in jobs:
        bench.until_started(job)
    bench.supervisor.tick()


def states(bench, jobs) -> list[str]:
    return [bench.get(job).state for job in jobs]


def used_ms(bench, actor, job) -> int:
    return round(bench.billing.job_cost(actor, job.id).elapsed_seconds * 1000)


def test_jobs_on_one_base_become_one_trainer_and_each_has_its_model(bench):
    jobs = submitted(bench, 4)
    bench.settle()
    assert states(bench, jobs) == ["succeeded"] * 4
    (launch,) = bench.executor.started
    assert launch.job_urls == tuple(bench.here(job).url for job in jobs)
    assert launch.log_path == bench.here(jobs[0]).attempt(1).name("job.log")
    assert len({bench.get(job).model_id for job in jobs}) == 4
    assert [bench.path_of(job) for job in jobs] == [["queued", "starting", "running", "succeeded"]] * 4
    assert bench.here(jobs[0]).control().members == tuple(job.id for job in jobs)


def test_a_job_alone_has_no_members(bench):
    job = bench.submit()
    bench.settle()
    assert bench.here(job).control().members == ()


def test_a_trainer_takes_no_more_jobs_than_it_may(bench, fake):
    bench.trainer.attempts = [fake.runs()]
    bench.pace = replace(bench.pace, gang_size=3)
    jobs = submitted(bench, 5)
    bench.supervisor.tick()
    assert bench.supervisor.running == [job.id for job in jobs[:3]]


def test_slots_count_trainers(bench, fake):
    bench.trainer.attempts = [fake.runs()]
    bench.pace = replace(bench.pace, gang_size=2, slots=2)
    submitted(bench, 5)
    bench.supervisor.tick()
    assert len(bench.supervisor.running) == 4
    assert bench.executor.poll("thread-2") is None
    assert bench.executor.poll("thread-3") == -9


@pytest.mark.parametrize(
    "unlike",
    [
        {"train": {"precision": "fp32"}},
        {"train": {"quantization": "8bit"}},
        {"train": {"deterministic": False}},
        {"hardware": "local-gpu"},
    ],
    ids=str,
)
def test_jobs_that_need_another_process_get_one(bench, fake, unlike):
    bench.trainer.attempts = [fake.runs()]
    jobs = [bench.submit(), bench.submit(**unlike), bench.submit()]
    bench.supervisor.tick()
    assert bench.supervisor.running == [jobs[0].id, jobs[2].id]


def test_a_job_that_is_cancelled_leaves_and_the_others_go_on(bench, fake, alice):
    bench.trainer.attempts = [fake.runs()]
    jobs = submitted(bench, 3)
    started(bench, jobs)
    bench.jobs.cancel(alice, jobs[1].id)
    bench.supervisor.tick()
    bench.until_last_word(jobs[1])
    bench.supervisor.tick()
    assert states(bench, jobs) == ["running", "cancelled", "running"]
    assert bench.executor.poll(FIRST) is None
    assert bench.registry.models == {}


def test_cancelling_all_of_them_ends_the_process_at_once(bench, fake, alice):
    bench.trainer.attempts = [fake.runs()]
    jobs = submitted(bench, 3)
    started(bench, jobs)
    for job in jobs:
        bench.jobs.cancel(alice, job.id)
    bench.supervisor.tick()
    assert bench.executor.poll(FIRST) == -9
    bench.supervisor.tick()
    assert states(bench, jobs) == ["cancelled"] * 3


def test_a_job_that_ends_in_any_way_ends_alone(bench, fake):
    bench.trainer.attempts = [fake.succeeds(), fake.fails("diverged"), fake.runs()]
    jobs = submitted(bench, 3)
    started(bench, jobs[2:])
    for job in jobs[:2]:
        bench.until_last_word(job)
    bench.supervisor.tick()
    assert states(bench, jobs) == ["succeeded", "failed", "running"]
    assert bench.get(jobs[1]).error.code == "diverged"
    assert bench.supervisor.running == [jobs[2].id]


def test_a_stopped_member_goes_on_in_a_trainer_of_its_own_while_the_others_train(bench, fake, alice):
    bench.pace = replace(bench.pace, slots=2)
    bench.trainer.attempts = [fake.runs(checkpoint=25)]
    jobs = submitted(bench, 2)
    started(bench, jobs)
    bench.jobs.stop(alice, jobs[0].id)
    bench.supervisor.tick()
    bench.until_last_word(jobs[0])
    bench.supervisor.tick()
    assert states(bench, jobs) == ["stopped", "running"]
    bench.jobs.resume(alice, jobs[0].id)
    started(bench, jobs[:1])
    assert states(bench, jobs) == ["running", "running"]
    assert bench.trainer.resumed == [None, None, 25]


def test_a_member_that_does_not_hear_is_left_behind_and_fenced(bench, fake, alice):
    def deaf(run, here):
        here.storage.write(here.name("started"), b"")
        run.stopping.wait(60)
        return 0

    bench.trainer.attempts = [deaf, fake.runs()]
    jobs = submitted(bench, 2)
    started(bench, jobs)
    bench.jobs.cancel(alice, jobs[0].id)
    for _ in range(31):
        assert bench.get(jobs[0]).state == "starting"
        bench.supervisor.tick()
        bench.times.pass_s(10)
    bench.supervisor.tick()
    assert states(bench, jobs) == ["cancelled", "running"]
    assert bench.here(jobs[0]).control().attempt == 2  # none that it has: a trainer that wakes up writes nothing
    assert bench.executor.poll(FIRST) is None


def test_when_the_process_dies_each_member_goes_on_from_its_own_checkpoint(bench, fake):
    bench.pace = replace(bench.pace, gang_size=2)
    bench.trainer.attempts = [fake.runs(), fake.runs(), fake.succeeds()]
    jobs = submitted(bench, 2)
    started(bench, jobs)
    for job, step in zip(jobs, (20, 30), strict=True):
        fake.save(bench.here(job).attempt(1), step)
    bench.executor.kill(FIRST)
    bench.settle()
    assert states(bench, jobs) == ["succeeded"] * 2
    assert bench.trainer.resumed == [None, None, 20, 30]
    assert [bench.get(job).attempt for job in jobs] == [2, 2]


def test_a_member_that_takes_the_process_down_each_time_fails_alone(bench, fake):
    def act(run, here):
        if poison.id in here.job.url:
            run.killed = True
            run.stopping.set()
        elif any(poison.id in url for url in run.launch.job_urls):
            run.stopping.wait(30)
        else:
            return fake.succeeds()(run, here)
        return -9

    bench.trainer.attempts = [act]
    jobs = submitted(bench, 4)
    poison = jobs[2]
    bench.settle(rounds=80)
    assert states(bench, jobs) == ["succeeded", "succeeded", "failed", "succeeded"]
    assert bench.get(poison).attempt == 4


def test_what_runs_out_of_memory_in_a_gang_is_tried_with_fewer_and_at_last_alone(bench, fake):
    bench.pace = replace(bench.pace, gang_size=4)
    bench.trainer.attempts = [fake.fails("out_of_memory")]
    jobs = submitted(bench, 4)
    bench.settle(rounds=80)
    sizes = [len(launch.job_urls) for launch in bench.executor.started]
    assert sizes == [4, 2, 2, 1, 1, 1, 1]
    assert [bench.get(job).error.code for job in jobs] == ["out_of_memory"] * 4
    assert {bench.get(job).attempt for job in jobs} == {3}


def test_a_new_supervisor_finds_all_members_and_asks_their_process_once(bench, fake):
    bench.trainer.attempts = [fake.runs(checkpoint=33)] * 3 + [fake.succeeds()]
    jobs = submitted(bench, 3)
    started(bench, jobs)
    bench.presences[-1].close()  # its process died; its trainer has not noticed yet
    bench._supervisor = None
    bench.supervisor.tick()
    assert bench.executor.asked == [FIRST]
    bench.settle()
    assert states(bench, jobs) == ["succeeded"] * 3
    assert bench.trainer.resumed == [None] * 3 + [33] * 3
    assert [bench.path_of(job).count("queued") for job in jobs] == [2, 2, 2]


def test_a_frozen_supervisor_that_lost_one_member_leaves_the_others_their_process(bench, fake):
    bench.trainer.attempts = [fake.runs()]
    jobs = submitted(bench, 2)
    started(bench, jobs)
    (lost,) = [seen.beat for seen in bench.queue.running() if seen.beat.job_id == jobs[0].id]
    assert bench.queue.adopt(lost, "elsewhere/new") is not None
    bench.supervisor.tick()
    assert bench.supervisor.running == [jobs[1].id]
    assert bench.executor.poll(FIRST) is None


def test_closing_saves_all_members_and_puts_them_back(bench, fake):
    bench.trainer.attempts = [fake.runs(checkpoint=42)]
    jobs = submitted(bench, 3)
    started(bench, jobs)
    bench.supervisor.close()
    assert states(bench, jobs) == ["queued"] * 3
    assert bench.executor.asked == [FIRST]


def test_the_shares_of_members_sum_to_the_time_of_their_process(bench, fake, alice):
    bench.billing.set_price("local-cpu", "3.60")
    bench.trainer.attempts = [fake.runs(tokens_seen=tokens) for tokens in (600, 300, 100)]
    jobs = submitted(bench, 3)
    started(bench, jobs)
    for _ in range(7):
        bench.times.pass_s(7.0)
        bench.supervisor.tick()
    bench.jobs.cancel(alice, jobs[0].id)
    bench.supervisor.tick()
    bench.until_last_word(jobs[0])
    bench.supervisor.tick()
    for _ in range(3):
        bench.times.pass_s(7.25)
        bench.supervisor.tick()
    for job in jobs[1:]:
        bench.jobs.stop(alice, job.id)
    bench.supervisor.tick()
    bench.executor.join()
    bench.settle()
    assert sum(used_ms(bench, alice, job) for job in jobs) == 7 * 7000 + 3 * 7250
    shares = [used_ms(bench, alice, job) for job in jobs]
    assert shares[1] > shares[2] > 0
    charged = sum(micro_usd(bench.billing.job_cost(alice, job.id).cost_usd) for job in jobs)
    assert 0 <= sum(shares) - charged < len(jobs)  # a job pays whole micro-dollars: what is cut off of its last one is a gift


def test_a_job_that_shared_says_nothing_about_the_speed_of_one_alone(bench, fake, alice):
    submitted(bench, 2)
    bench.supervisor.tick()
    bench.times.pass_s(5)
    bench.executor.join()
    bench.settle()
    assert bench.jobs.estimate(alice, bench.spec()).basis == "assumed"


def test_the_time_limit_of_a_job_is_the_time_that_it_was_trained_whoever_shared(bench, fake):
    bench.trainer.attempts = [fake.runs()]
    limited, other = bench.submit(limits={"max_seconds": 15}), bench.submit()
    started(bench, [limited, other])
    for _ in range(2):
        bench.times.pass_s(10)
        bench.supervisor.tick()
    bench.supervisor.tick()
    bench.until_last_word(limited)
    bench.supervisor.tick()
    assert states(bench, [limited, other]) == ["failed", "running"]
    assert "limits.max_seconds" in bench.get(limited).error.message


def test_tenants_share_a_trainer_only_where_the_setting_says_so(bench, fake, alice, bob):
    bench.trainer.attempts = [fake.runs()]
    hers, his = bench.submit(), bench.submit(bob, dataset=bench.datasets.upload(bob, Upload([ROWS], name="mine")).id)
    bench.supervisor.tick()
    assert bench.supervisor.running == [hers.id]
    bench.supervisor.close()
    bench._supervisor = None
    bench.pace = replace(bench.pace, gang_across_tenants=True)
    bench.supervisor.tick()
    assert bench.supervisor.running == [hers.id, his.id]
    assert bench.here(hers).control().members == bench.here(his).control().members == ()
    assert bench.executor.started[-1].log_path == f"trainers/{hers.id}-2+1.log"  # neither reads what the other's job printed


def test_the_jobs_of_a_sweep_that_come_one_after_the_other_go_together(bench, fake):
    bench.trainer.attempts = [fake.runs()]
    bench.pace = replace(bench.pace, gather_s=0.3)
    jobs = []
    for _ in range(3):
        jobs += submitted(bench, 1)
        bench.supervisor.tick()
        assert bench.supervisor.running == []
        assert bench.supervisor.pause_s == pytest.approx(0.1)  # who came alone waits no longer than it must
        bench.times.pass_s(0.2)
    bench.times.pass_s(0.2)
    bench.supervisor.tick()
    assert bench.supervisor.running == [job.id for job in jobs]
    assert bench.supervisor.pause_s == bench.pace.tick_s
