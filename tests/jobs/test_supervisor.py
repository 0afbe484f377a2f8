"""One supervisor, from the queue to the model: every way in which an attempt can end."""

import itertools
import json
from dataclasses import replace

import pytest

from luthier.errors import ArtifactCorrupt, StorageFull, WrongState

ENDS_WELL = ["queued", "starting", "running", "succeeded"]


def test_a_job_goes_from_the_queue_to_a_model(bench):
    job = bench.submit(name="numbers")
    bench.settle()
    done = bench.get(job)
    assert bench.path_of(job) == ENDS_WELL
    assert (done.state, done.model_id, done.attempt, done.step, done.loss) == ("succeeded", "model_1", 1, 60, 1.5)
    finished = bench.registry.finished[0]
    assert finished.results == f"users/team_alice/jobs/{job.id}/attempts/1/results"
    assert finished.spec.sources is not None


def test_the_job_directory_ends_with_the_seeds_files_at_its_top(bench):
    job = bench.submit()
    bench.settle()
    status = json.loads(bench.storage.read(f"users/team_alice/jobs/{job.id}/status.json"))
    assert status["status"] == "succeeded"
    assert status["gpu_metrics"]["gpu_type"] == "local-cpu"
    assert status["gpu_metrics"]["current_duration_seconds"] >= 0
    assert bench.storage.read(f"users/team_alice/jobs/{job.id}/job.log") == b"trained\n"
    assert bench.storage.read(f"users/team_alice/jobs/{job.id}/config.yml") == b"resolved: true\n"


def test_jobs_start_in_the_order_in_which_they_came(bench):
    jobs = [bench.submit() for _ in range(3)]
    bench.settle()
    started = [finished.job_id for finished in bench.registry.finished]
    assert started == [job.id for job in jobs]


@pytest.mark.parametrize("fails", [False, True])
def test_every_tick_sees_to_trainers_that_are_kept_ready_and_no_job_depends_on_it(bench, fails):
    bench.executor.cannot_tend = fails
    bench.supervisor.tick()
    assert bench.executor.tended == 1
    job = bench.submit()
    bench.settle()
    assert bench.get(job).state == "succeeded"
    assert bench.executor.tended > 1


def test_no_more_jobs_run_than_there_are_slots(bench, fake):
    bench.trainer.attempts = [fake.runs()]
    bench.pace = replace(bench.pace, slots=2, gang_size=1)
    for _ in range(3):
        bench.submit()
    bench.supervisor.tick()
    assert len(bench.supervisor.running) == 2


@pytest.mark.parametrize("code", ["bad_data", "out_of_memory", "diverged", "spec_tampered", "base_unavailable", "no_effect"])
def test_what_would_fail_again_is_not_tried_again(bench, fake, code):
    bench.trainer.attempts = [fake.fails(code)]
    job = bench.submit()
    bench.settle()
    failed = bench.get(job)
    assert (failed.state, failed.attempt, failed.error.code, failed.error.hint) == ("failed", 1, code, "Change it.")


@pytest.mark.parametrize("code", ["crashed", "storage", "device"])
def test_what_may_pass_by_itself_is_tried_again_with_longer_and_longer_pauses(bench, fake, code):
    bench.trainer.attempts = [fake.fails(code)]
    job = bench.submit()
    starts = []
    for _ in range(60):
        before = bench.get(job).attempt
        bench.supervisor.tick()
        bench.executor.join()
        bench.supervisor.tick()
        if bench.get(job).attempt > before:
            starts.append(bench.times.steady)
        bench.times.pass_s(1)
    failed = bench.get(job)
    assert [later - earlier for earlier, later in itertools.pairwise(starts)] == [5, 10, 20]
    assert (failed.state, failed.attempt, failed.error.code) == ("failed", 4, code)
    assert "start number 4" in failed.error.message


def test_a_trainer_that_died_goes_on_from_its_last_checkpoint(bench, fake):
    bench.trainer.attempts = [fake.dies(checkpoint=30), fake.succeeds()]
    job = bench.submit()
    bench.settle()
    assert bench.trainer.resumed == [None, 30]
    assert bench.path_of(job) == ["queued", "starting", "queued", "starting", "running", "succeeded"]


def test_a_checkpoint_with_a_flipped_byte_is_passed_over_for_the_one_before(bench, fake):
    def act(run, here):
        fake.save(here, 20)
        fake.save(here, 30, b"weightz")  # same size: only reading it tells
        return -9

    bench.trainer.attempts = [act, fake.succeeds()]
    bench.submit()
    bench.settle()
    assert bench.trainer.resumed == [None, 20]


def test_a_preemption_is_no_crash(bench, fake):
    bench.pace = replace(bench.pace, max_attempts=1)
    bench.trainer.attempts = [fake.runs(), fake.succeeds()]
    job = bench.submit()
    bench.supervisor.tick()
    bench.until_started(job)
    bench.executor.terminate("thread-1")
    bench.settle()
    assert bench.get(job).state == "succeeded"
    assert bench.trainer.resumed == [None, 10]


def test_a_stop_saves_and_a_resume_goes_on_from_there(bench, fake, alice):
    bench.trainer.attempts = [fake.runs(checkpoint=25), fake.succeeds()]
    job = bench.submit()
    bench.supervisor.tick()
    bench.until_started(job)
    assert bench.jobs.stop(alice, job.id).wish == "stop"
    assert bench.get(job).state in ("starting", "running")
    bench.settle()
    assert (bench.get(job).state, bench.get(job).wish) == ("stopped", None)
    assert bench.jobs.resume(alice, job.id).state == "queued"
    bench.settle()
    assert bench.trainer.resumed == [None, 25]
    assert bench.get(job).state == "succeeded"


def test_a_pause_saves_and_rests_until_it_is_resumed_or_cancelled(bench, fake, alice):
    bench.trainer.attempts = [fake.runs(checkpoint=25), fake.runs(checkpoint=30)]
    job = bench.submit()
    bench.supervisor.tick()
    bench.until_started(job)
    assert bench.jobs.pause(alice, job.id).wish == "pause"
    bench.settle()
    assert (bench.get(job).state, bench.get(job).wish) == ("paused", None)
    assert bench.jobs.stop(alice, job.id).state == "paused"
    assert bench.jobs.resume(alice, job.id).state == "queued"
    bench.supervisor.tick()
    bench.until_started(job)
    bench.jobs.pause(alice, job.id)
    bench.settle()
    assert bench.trainer.resumed == [None, 25]
    assert bench.jobs.cancel(alice, job.id).state == "cancelled"
    with pytest.raises(WrongState):
        bench.jobs.resume(alice, job.id)


def test_what_waits_in_the_queue_is_paused_at_once(bench, alice):
    job = bench.submit()
    assert bench.jobs.pause(alice, job.id).state == "paused"
    assert bench.billing.usage(alice).held_usd == "0.00"
    assert bench.jobs.resume(alice, job.id).state == "queued"
    bench.settle()
    assert bench.get(job).state == "succeeded"


def test_a_cancel_ends_the_trainer_and_nothing_is_registered(bench, fake, alice):
    bench.trainer.attempts = [fake.runs()]
    job = bench.submit()
    bench.supervisor.tick()
    bench.until_started(job)
    bench.jobs.stop(alice, job.id)
    assert bench.jobs.cancel(alice, job.id).wish == "cancel"
    bench.settle()
    assert bench.get(job).state == "cancelled"
    assert bench.registry.models == {}
    with pytest.raises(WrongState):
        bench.jobs.resume(alice, job.id)


def test_a_trainer_that_succeeded_before_it_saw_the_stop_has_succeeded(bench, fake, alice):
    job = bench.submit()
    bench.supervisor.tick()
    bench.jobs.stop(alice, job.id)
    bench.executor.join()
    bench.settle()
    assert bench.get(job).state == "succeeded"


@pytest.mark.parametrize(
    ("check", "code"), [("finite", "diverged"), ("changes_logits", "no_effect")], ids=["not finite", "changes nothing"]
)
def test_a_result_that_is_broken_is_no_success(bench, fake, check, code):
    bench.trainer.attempts = [fake.succeeds({**fake.good, check: False})]
    job = bench.submit()
    bench.settle()
    assert (bench.get(job).state, bench.get(job).error.code) == ("failed", code)
    assert bench.registry.models == {}


def test_an_adapter_that_does_not_load_again_is_trained_again(bench, fake):
    bench.trainer.attempts = [fake.succeeds({**fake.good, "loads_again": False}), fake.succeeds()]
    job = bench.submit()
    bench.settle()
    assert (bench.get(job).state, bench.get(job).attempt) == ("succeeded", 2)


def test_results_that_the_registry_finds_corrupt_are_trained_again(bench):
    bench.registry.before = ArtifactCorrupt("The adapter is torn.")
    job = bench.submit()
    bench.settle()
    assert (bench.get(job).state, bench.get(job).attempt) == ("succeeded", 2)


def test_a_full_disk_at_the_last_step_delays_it_and_loses_nothing(bench):
    bench.registry.before = StorageFull()
    job = bench.submit()
    bench.settle()
    assert (bench.get(job).state, bench.get(job).attempt) == ("succeeded", 1)


def test_a_machine_that_cannot_start_a_process_uses_up_no_jobs_attempts(bench):
    bench.executor.refuses = True
    jobs = [bench.submit() for _ in range(3)]
    for _ in range(100):
        bench.supervisor.tick()
        bench.times.pass_s(5)
    assert {bench.get(job).state for job in jobs} == {"queued"}
    bench.executor.refuses = False
    began = bench.times.steady
    bench.settle()
    assert bench.times.steady - began <= 30
    assert {bench.get(job).state for job in jobs} == {"succeeded"}


def test_a_directory_that_leads_elsewhere_is_not_followed_and_holds_up_nobody(bench, tmp_path):
    bad, good = bench.submit(), bench.submit()
    root = bench.folder / "users/team_alice/jobs" / bad.id
    root.rename(tmp_path / "elsewhere")
    root.symlink_to(tmp_path / "elsewhere")
    for _ in range(60):
        bench.supervisor.tick()
        bench.executor.join()
        bench.times.pass_s(2)
    assert bench.get(bad).state == "failed"
    assert bench.get(good).state == "succeeded"
    assert not (tmp_path / "elsewhere/control.json").exists()


def test_a_directory_that_the_trainer_cannot_use_fails_at_once(bench, fake):
    bench.trainer.attempts = [lambda run, here: 78]
    job = bench.submit()
    bench.settle()
    assert (bench.get(job).state, bench.get(job).error.code) == ("failed", "spec_tampered")


def test_progress_reaches_the_row_with_the_next_tick(bench, fake):
    bench.trainer.attempts = [fake.runs()]
    job = bench.submit()
    bench.supervisor.tick()
    bench.until_started(job)
    bench.supervisor.tick()
    seen = bench.get(job)
    assert (seen.state, seen.phase, seen.step, seen.total_steps, seen.loss) == ("running", "training", 5, 60, 1.5)


def test_closing_saves_and_puts_the_jobs_back(bench, fake):
    bench.trainer.attempts = [fake.runs(checkpoint=42), fake.succeeds()]
    job = bench.submit()
    bench.supervisor.tick()
    bench.until_started(job)
    bench.supervisor.close()
    assert bench.get(job).state == "queued"
    bench._supervisor = None
    bench.settle()
    assert bench.trainer.resumed == [None, 42]
    assert bench.path_of(job)[-4:] == ["queued", "starting", "running", "succeeded"]


def test_the_speed_of_a_finished_job_makes_the_next_estimate(bench, alice):
    assert bench.jobs.estimate(alice, bench.spec()).basis == "assumed"
    bench.submit()
    bench.settle()
    estimate = bench.jobs.estimate(alice, bench.spec())
    assert (estimate.basis, estimate.tokens_per_second) == ("measured", 1000.0)


def test_the_dataset_is_free_again_when_the_job_has_ended(bench, alice):
    bench.submit()
    bench.settle()
    bench.datasets.delete(alice, bench.dataset_id)


def test_an_error_that_nobody_foresaw_while_a_model_is_made_does_not_hold_the_slot_for_ever(bench):
    class Wrong:
        def register(self, finished):
            raise AssertionError("a fault of the platform")

    job = bench.submit()
    bench.registry = Wrong()
    bench.settle(rounds=200)
    found = bench.get(job)
    assert (found.state, found.error.code) == ("failed", "crashed")
    assert "an error of its own" in found.error.message
    assert found.attempt == bench.pace.max_attempts


def test_a_job_on_gpus_gets_as_many_processes_as_it_may_have_gpus(bench):
    bench.pace = replace(bench.pace, gpus=2)
    on_gpu, on_cpu = bench.submit(hardware="local-gpu"), bench.submit()
    bench.settle()
    assert {launch.label: launch.processes for launch in bench.executor.started} == {f"{on_gpu.id}-1": 2, f"{on_cpu.id}-1": 1}
