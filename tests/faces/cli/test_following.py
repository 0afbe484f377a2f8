"""Watching a job: what the events say, plain lines in a pipe, and what the exit status tells."""

import json

import pytest

from luthier.faces.cli.following import Lines, Seen
from luthier.faces.sdk.answers import Event

from ..sdk.conftest import Reply, as_json, refused, sse
from .conftest import DATASET, JOB

ESTIMATE = {
    "rows": 8,
    "tokens": 4000,
    "steps": 40,
    "seconds": 90,
    "hardware": "local-cpu",
    "hourly_usd": "1.50",
    "cost_usd": "0.037500",
    "memory": {"total_bytes": 2**30, "available_bytes": 2**33},
    "fits": True,
    "advice": [],
}


def event(seq: int, kind: str, *, at: int = 0, attempt: int = 1, step: int = 0, message: str = "", **data):
    when = f"2026-01-01T00:{at // 60:02d}:{at % 60:02d}Z"
    facts = {"attempt": attempt, "seq": seq, "at": when, "kind": kind, "level": "info", "step": step, "message": message}
    return {"id": f"{attempt}-{seq}", **facts, "data": data}


def steps(seq: int, at: int, step: int, loss: float, **more):
    data = {"loss": loss, "tokens_per_second": 1234.5, "steps": [[step - 1, loss + 1], [step, loss]]}
    return event(seq, "step", at=at, step=step, **data, **more)


RUN = [
    event(0, "state", message="Attempt 1 starts."),
    event(1, "phase", message="Training begins.", phase="training"),
    steps(2, 10, 10, 2.0),
    steps(3, 15, 15, 1.5),
    steps(4, 20, 20, 1.0),
    event(5, "eval", at=21, step=20, message="Step 20: validation loss 0.9.", eval_loss=0.9),
    steps(6, 30, 40, 0.5),
    event(7, "phase", at=31, step=40, message="Comparing the tuned model with its base.", phase="evaluating"),
]


def job(state: str = "succeeded", **more):
    facts = {"id": JOB, "state": state, "step": 40, "total_steps": 40, "cost_usd": "0.01", "model_id": None, "error": None}
    return {**facts, "created_at": "2026-01-01T00:00:00Z", **more}


def test_events_add_up_to_step_loss_speed_and_time_left():
    seen = Seen(total_steps=40)
    for each in RUN[:5]:
        seen.take(Event(each))
    assert seen.words() == "step 20/40  loss 1.000  1,234 tok/s  ETA 20 s"
    for each in RUN[5:]:
        seen.take(Event(each))
    assert seen.words() == "step 40/40  loss 0.500  eval 0.900  1,234 tok/s  evaluating"
    assert [loss for _, loss in seen.losses] == [3.0, 2.0, 2.5, 1.5, 2.0, 1.0, 1.5, 0.5]


def test_a_new_attempt_takes_back_what_it_does_again():
    seen = Seen(total_steps=40)
    for each in [*RUN[:5], event(0, "state", attempt=2, step=15, message="Attempt 2 starts.")]:
        seen.take(Event(each))
    assert (seen.step, [step for step, _ in seen.losses][-1], seen.eta_s) == (15, 15, None)


def test_before_the_first_step_the_phase_is_what_there_is_to_say():
    seen = Seen()
    assert seen.words() == "waiting"
    seen.take(Event(event(0, "phase", phase="loading base")))
    assert seen.words() == "loading base"


def test_a_pipe_gets_a_line_every_ten_seconds_and_the_last_step():
    lines: list[str] = []
    seen = Seen(total_steps=40)
    with Lines(lines.append) as view:
        for each in RUN:
            seen.take(Event(each))
            view.show(Event(each), seen)
    assert [line.split("  ")[0] for line in lines] == [
        "Attempt 1 starts.",
        "Training begins.",
        "step 10/40",
        "step 20/40",
        "Step 20: validation loss 0.9.",
        "step 40/40",
        "Comparing the tuned model with its base.",
    ]


def test_escape_sequences_in_messages_are_not_shown():
    lines: list[str] = []
    with Lines(lines.append) as view:
        view.show(Event(event(0, "warning", message="a\x1b[31mb\nc")), Seen())
    assert lines == ["ab c"]


def started(fake, state: str = "succeeded", **more) -> None:
    ended = job(state, **more)
    fake.say("POST /api/jobs/estimate", as_json(ESTIMATE))
    fake.say("POST /api/jobs", as_json({"job": job("queued", step=0), "estimate": ESTIMATE, "replayed": False}, 201))
    fake.say(f"GET /api/jobs/{JOB}/events", sse(*[(each["id"], each["kind"], each) for each in RUN], (None, "end", ended)))
    fake.say(f"GET /api/jobs/{JOB}", as_json(ended))


START = ("tune", "start", "--model", "m", "--dataset", DATASET, "--follow")


def test_follow_ends_with_0_for_a_job_that_succeeded(fake, terminal):
    started(fake, model_id="model_1")
    ended = terminal(*START)
    assert (ended.code, ended.out) == (0, JOB + "\n")
    assert "about $0.0375" in ended.err
    assert "step 40/40  loss 0.500" in ended.err
    assert "model chat model_1" in ended.err


def test_follow_ends_with_1_for_a_job_that_failed_and_says_why(fake, terminal):
    started(fake, "failed", error={"code": "diverged", "message": "The loss is NaN.", "hint": "Lower it."})
    ended = terminal(*START, "--json")
    assert ended.code == 1
    assert "Failed (diverged): The loss is NaN.\nLower it." in ended.err
    assert (ended.json["job"]["state"], ended.json["estimate"]["steps"]) == ("failed", 40)


def test_an_estimate_says_how_far_off_earlier_ones_were(fake, terminal):
    error = {"jobs": 4, "seconds_median": 0.18, "seconds_worst": 0.6, "memory_median": 0.04, "memory_worst": 0.09}
    test = {"job_id": JOB, "fits": False, "memory_bytes": None, "tokens_per_second": None}
    told = {**ESTIMATE, "calibrated_by": 4, "earlier_error": error, "fit_test": test}
    fake.say("POST /api/jobs/estimate", as_json(told))
    ended = terminal("tune", "estimate", "--model", "m", "--dataset", DATASET)
    assert "from what 4 earlier jobs took" in ended.out
    assert "time by 18% (at worst 60%), memory by 4% (at worst 9%)" in ended.out
    assert f"fit test {JOB} of this run: it does not fit" in ended.out


def test_what_does_not_fit_is_said_before_and_after_the_server_refuses_it(fake, terminal):
    started(fake)
    fake.say("POST /api/jobs/estimate", as_json({**ESTIMATE, "fits": False, "advice": ["Halve batch_size."]}))
    fake.say("POST /api/jobs", refused(422, "will_not_fit", "This job needs 9 GB.", hint="Halve batch_size."))
    ended = terminal(*START)
    assert ended.code == 1
    assert "DOES NOT FIT" in ended.err
    assert "This job needs 9 GB." in ended.err


def test_events_and_logs_can_be_followed(fake, terminal):
    started(fake)
    ended = terminal("tune", "events", JOB, "--follow", "--json")
    assert [json.loads(line)["seq"] for line in ended.out.splitlines()] == list(range(8))
    assert "Training begins." in terminal("tune", "events", JOB, "--follow").out

    fake.say(f"GET /api/jobs/{JOB}/events", as_json([RUN[0]]), sse(("1-1", "phase", RUN[1]), (None, "end", job())))
    text = ["one\n", "one\ntwo\n", "one\ntwo\nthree\n"]
    fake.say(
        f"GET /api/jobs/{JOB}/logs",
        *[Reply(200, each.encode(), {"x-attempt": "1", "x-total-bytes": str(len(each))}) for each in text],
    )
    ended = terminal("tune", "logs", JOB, "--follow")
    assert (ended.code, ended.out) == (0, "one\ntwo\nthree\n")


def test_resume_can_be_followed(fake, terminal):
    started(fake, "stopped")
    fake.say(f"POST /api/jobs/{JOB}/resume", as_json(job("queued")))
    ended = terminal("tune", "resume", JOB, "--follow")
    assert (ended.code, "stopped." in ended.err) == (1, True)


@pytest.mark.parametrize("verb", ["stop", "cancel", "resume"])
def test_verbs_say_what_happens_next(fake, terminal, verb):
    fake.say(f"POST /api/jobs/{JOB}/{verb}", as_json(job("running", wish="stop")))
    ended = terminal("tune", verb, "--job-id", JOB)
    assert (ended.code, ended.out) == (0, f"{JOB}  running\n")
    assert ended.err
