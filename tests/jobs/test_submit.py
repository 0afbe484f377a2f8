"""Submit: what is refused leaves nothing behind, what is accepted is one job, whatever is sent how often."""

import threading

import pytest

from luthier.accounts.types import Idempotency
from luthier.errors import (
    BudgetExceeded,
    CursorInvalid,
    FieldInvalid,
    ForbiddenField,
    Gone,
    InUse,
    KeyReused,
    LuthierError,
    ModelNotAllowed,
    NotFound,
    WillNotFit,
    WrongState,
)

UNKNOWN = "ds_" + "0" * 26


def files_of(bench) -> list[str]:
    return list(bench.storage.names("users/team_alice/jobs"))


def nothing_is_left(bench, alice) -> bool:
    return not bench.jobs.list(alice).data and not files_of(bench) and bench.billing.usage(alice).held_usd == "0.00"


REFUSED = [
    ({"dataset": UNKNOWN}, NotFound, "No such dataset"),
    ({"validation_dataset": UNKNOWN}, NotFound, "No such dataset"),
    ({"base_model": "someone/else"}, ModelNotAllowed, "luthier/tiny"),
    ({"hardware": "local-cpus"}, FieldInvalid, "Did you mean local-cpu"),
    ({"hardware": "A100"}, FieldInvalid, "Nothing that runs here reaches"),
    ({"train": {"max_seq_len": 1_000_000}}, FieldInvalid, "context"),
    ({"train": {"warmup_steps": 5000}}, FieldInvalid, "warmup_steps"),
    ({"train": {"eval_steps": 5000}}, FieldInvalid, "eval_steps"),
    ({"train": {"quantization": "4bit"}}, FieldInvalid, "4bit, which needs an NVIDIA GPU"),
    ({"hardware": "A100", "train": {"quantization": "4bit", "device": "cpu"}}, FieldInvalid, "on a CPU it is slower"),
    ({"hardware": "local-gpu", "train": {"quantization": "8bit", "device": "mps"}}, FieldInvalid, "does not train on mps"),
    ({"hardware": "A100", "train": {"epochs": 1000}, "limits": {"max_cost_usd": "0.01"}}, BudgetExceeded, "needs about"),
]


@pytest.mark.parametrize(("changes", "error", "words"), REFUSED, ids=[str(row[0]) for row in REFUSED])
def test_a_refused_job_leaves_nothing_behind(bench, alice, changes, error, words):
    with pytest.raises(error, match=words):
        bench.submit(**changes)
    assert nothing_is_left(bench, alice)


def test_sources_are_the_platforms_business(bench, alice):
    spec = bench.spec(sources={"dataset": source(), "base": {"id": "x", "revision": "1", "url": "hub:x"}})
    with pytest.raises(ForbiddenField) as refused:
        bench.jobs.submit(alice, spec)
    assert refused.value.error_code == "forbidden_field"
    assert nothing_is_left(bench, alice)


def test_a_job_that_does_not_fit_is_refused_with_the_numbers_and_a_way_out(bench, alice):
    spec = bench.spec(base_model="HuggingFaceTB/SmolLM2-1.7B-Instruct", hardware="t4-small", train={"precision": "fp32"})
    changed = spec.model_copy(update={"lora": spec.lora.model_copy(update={"rank": 512})})
    assert not bench.jobs.estimate(alice, changed).fits
    with pytest.raises(WillNotFit, match=r"needs about \d+\.\d GB, but t4-small has 16\.0 GB.*bf16"):
        bench.jobs.submit(alice, changed)
    assert nothing_is_left(bench, alice)


def test_another_tenants_dataset_is_not_there(bench, bob):
    with pytest.raises(NotFound, match="No such dataset"):
        bench.submit(bob)


def test_a_transaction_that_fails_takes_the_directory_with_it(bench, alice):
    class Full(Exception):
        pass

    def hold(*_):
        raise Full

    bench.jobs._billing.hold = hold
    with pytest.raises(Full):
        bench.submit()
    assert not files_of(bench)
    assert bench.jobs.list(alice).data == []


def test_an_accepted_job_is_a_directory_a_row_and_a_hold(bench, alice):
    bench.billing.set_price("local-cpu", "3.60")
    submitted = bench.jobs.submit(alice, bench.spec(name="numbers", train={"epochs": 2}))
    job, estimate = submitted.job, submitted.estimate
    assert (job.state, job.attempt, job.total_steps, job.name) == ("queued", 0, estimate.steps, "numbers")
    assert sorted(name.rsplit("/", 1)[1] for name in files_of(bench)) == ["run.yaml", "status.json"]
    assert bench.billing.job_cost(alice, job.id).held_usd == estimate.cost_usd == job.estimated_cost_usd
    assert estimate.cost_usd != "0.00"
    with pytest.raises(InUse):
        bench.datasets.delete(alice, bench.dataset_id)


def test_what_faces_see_of_a_job_names_no_place_in_our_storage(bench, alice):
    job = bench.submit()
    assert "file://" not in job.model_dump_json()
    assert b"file://" in bench.here(job).read_spec()


def test_a_hundred_sends_with_one_key_make_one_job(bench, alice):
    key, answers, errors = Idempotency("once", "0" * 64), [], []

    def send() -> None:
        try:
            answers.append(bench.jobs.submit(alice, bench.spec(), key))
        except LuthierError as error:
            errors.append(error)

    threads = [threading.Thread(target=send) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert len(answers) == 100
    assert len({answer.job.id for answer in answers}) == 1
    assert sum(not answer.replayed for answer in answers) == 1
    assert len(bench.jobs.list(alice).data) == 1
    assert len({name.split("/")[3] for name in files_of(bench)}) == 1


def test_a_key_that_stood_for_another_request_is_refused(bench, alice):
    bench.jobs.submit(alice, bench.spec(), Idempotency("once", "0" * 64))
    with pytest.raises(KeyReused):
        bench.jobs.submit(alice, bench.spec(), Idempotency("once", "1" * 64))
    assert len(bench.jobs.list(alice).data) == 1


def test_a_list_is_paged_newest_first_and_knows_its_cursors(bench, alice, bob):
    jobs = [bench.submit().id for _ in range(3)]
    first = bench.jobs.list(alice, limit=2)
    second = bench.jobs.list(alice, after=first.next_cursor, limit=2)
    assert [job.id for job in first.data + second.data] == sorted(jobs, reverse=True)
    assert second.next_cursor is None
    for actor, after in ((bob, first.next_cursor), (alice, "garbage")):
        with pytest.raises(CursorInvalid):
            bench.jobs.list(actor, after=after)


@pytest.mark.parametrize("verb", ["get", "logs", "events", "stop", "cancel", "resume", "delete", "transitions"])
@pytest.mark.parametrize("job_id", ["foreign", "unknown", "../x", ""])
def test_a_foreign_job_is_answered_like_an_unknown_one(bench, bob, verb, job_id):
    mine = bench.submit()
    asked = {"foreign": mine.id, "unknown": "job_" + "0" * 26}.get(job_id, job_id)
    with pytest.raises(NotFound) as refused:
        getattr(bench.jobs, verb)(bob, asked)
    assert str(refused.value) == str(NotFound("job"))


def test_a_job_that_is_stopped_in_the_queue_ends_at_once_and_can_be_resumed(bench, alice):
    job = bench.submit()
    stopped = bench.jobs.stop(alice, job.id)
    assert stopped.state == "stopped"
    assert bench.jobs.stop(alice, job.id) == stopped
    assert bench.billing.job_cost(alice, job.id).settled
    assert bench.jobs.resume(alice, job.id).state == "queued"
    bench.settle()
    assert bench.get(job).state == "succeeded"


def test_stopping_or_cancelling_a_finished_job_changes_nothing(bench, alice):
    job = bench.submit()
    bench.settle()
    done = bench.get(job)
    assert bench.jobs.stop(alice, job.id) == bench.jobs.cancel(alice, job.id) == done


def test_only_a_finished_job_can_be_deleted_and_then_it_is_gone(bench, alice):
    job = bench.submit()
    for verb in (bench.jobs.delete, bench.jobs.resume):
        with pytest.raises(WrongState):
            verb(alice, job.id)
    bench.jobs.cancel(alice, job.id)
    bench.jobs.delete(alice, job.id)
    assert files_of(bench) == []
    assert bench.jobs.list(alice).data == []
    for verb in (bench.jobs.get, bench.jobs.resume, bench.jobs.stop, bench.jobs.delete, bench.jobs.logs):
        with pytest.raises(Gone):
            verb(alice, job.id)


def test_resuming_needs_the_dataset_that_is_not_there_any_more(bench, alice):
    job = bench.submit()
    bench.jobs.stop(alice, job.id)
    bench.datasets.delete(alice, bench.dataset_id)
    with pytest.raises(Gone):
        bench.jobs.resume(alice, job.id)
    assert bench.get(job).state == "stopped"


def test_the_log_is_cut_at_its_front(bench, alice):
    job = bench.submit()
    assert bench.jobs.logs(alice, job.id).text == ""
    bench.settle()
    tail = bench.jobs.logs(alice, job.id, tail_bytes=4)
    assert (tail.text, tail.total_bytes, tail.truncated) == ("ned\n", 8, True)


def test_events_go_on_after_the_one_that_the_reader_has(bench, alice):
    from luthier.jobs.directory import Event

    job = bench.submit()
    bench.settle()
    for number in (1, 2):
        here = bench.here(job).attempt(number)
        for chunk in (0, 3):
            lines = [
                Event(attempt=number, seq=seq, at=bench.times.now(), kind="phase", step=0).model_dump_json() + "\n"
                for seq in range(chunk, chunk + 3)
            ]
            bench.storage.write(here.name("events", f"{chunk:08d}.jsonl"), "".join(lines).encode())
    ids = [event.id for event in bench.jobs.events(alice, job.id)]
    assert ids == [f"{number}-{seq}" for number in (1, 2) for seq in range(6)]
    for index, event_id in enumerate(ids):
        assert [event.id for event in bench.jobs.events(alice, job.id, after=event_id)] == ids[index + 1 :]
    with pytest.raises(CursorInvalid):
        bench.jobs.events(alice, job.id, after="1-x")


def test_losing_the_database_loses_no_job(bench, alice):
    done, waiting = bench.submit(name="numbers"), None
    bench.settle()
    waiting = bench.submit()
    before, estimate = bench.get(done), bench.jobs.submitted_estimate(alice, done.id)
    with bench.database.write("*") as session:
        from luthier.jobs.store import JobRow

        for job in (done, waiting):
            session.delete(session.get(JobRow, job.id))
    assert bench.jobs.list(alice).data == []
    assert bench.jobs.reindex() == 2
    assert bench.jobs.reindex() == 0
    assert bench.get(done) == before
    assert bench.jobs.submitted_estimate(alice, done.id) == estimate
    assert bench.get(waiting).state == "stopped"
    assert bench.jobs.resume(alice, waiting.id).state == "queued"


def source():
    return {"id": "x", "url": "file:///x", "sha256": "0" * 64}
