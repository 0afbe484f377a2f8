"""What the routes do for a caller who asks rightly."""

import asyncio
import dataclasses
import hashlib
import io
import json
import tarfile
import time
from datetime import UTC, datetime

import pytest
from starlette.testclient import TestClient

from luthier.accounts.service import Accounts
from luthier.errors import EngineUnavailable
from luthier.faces.rest.app import create_app
from luthier.jobs.directory import Event
from luthier.seams import Piece

from .conftest import GOOD, WEIGHTS, World

ASKED = {"model": "luthier/tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}


class EndlessEngine:
    """Never stops by itself; `breaks_after` makes it fail instead."""

    def __init__(self, breaks_after=None):
        self.breaks_after = breaks_after
        self.closed_at = None

    def generate(self, model, request):
        try:
            for count in range(10**9):
                if count == self.breaks_after:
                    raise EngineUnavailable("The engine ended.", hint="Ask again.")
                yield Piece((request.prompt_ids[count % len(request.prompt_ids)],))
        finally:
            self.closed_at = time.monotonic()

    def score(self, model, prompt_ids, answers):
        return [0.0 for _ in answers]

    def unload(self, folder):
        pass

    def state(self):
        return {"state": "ready"}

    def close(self):
        pass


def data_of(answer):
    return [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]


def event(seq, kind="step", step=0):
    return Event(attempt=1, seq=seq, at=datetime(2026, 1, 1, tzinfo=UTC), kind=kind, step=step)


def test_the_same_key_gives_the_same_job(world):
    first, second = (world.submit({"idempotency-key": "k1"}) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["job"]["id"] == second.json()["job"]["id"]
    assert second.headers["idempotent-replayed"] == "true"
    assert first.headers["location"] == f"/api/jobs/{first.json()['job']['id']}"
    assert len(world.ask("GET", "/api/jobs").json()["data"]) == 1


def test_a_budget_refusal_has_the_seeds_five_keys_with_real_numbers(world):
    world.platform.billing.set_price("local-cpu", "3600.00")
    wanted = world.spec(limits={"max_cost_usd": "0.01"})
    cost = float(world.ask("POST", "/api/jobs/estimate", json=wanted).json()["cost_usd"])
    assert cost > 0.01
    for path in ("/api/jobs", f"/fine-tune/{world.actor.user_id}/start"):
        answer = world.ask("POST", path, json=wanted)
        body = answer.json()
        error = body.pop("error")
        assert answer.status_code == 402
        assert body == {"approved": False, "reason": "Budget exceeded", "current": 0.0, "limit": 0.01, "requested": cost}
        assert (error["code"], error["details"]["limit_usd"]) == ("budget_exceeded", "0.01")
    assert world.ask("GET", "/api/jobs").json()["data"] == []


def test_an_estimate_leaves_nothing_behind(world):
    answer = world.ask("POST", "/api/jobs/estimate", json=world.spec())
    assert answer.json()["cost_usd"] == "0.00"
    assert world.ask("GET", "/api/jobs").json() == {"data": [], "next_cursor": None}


def test_pages_follow_one_another(world):
    made = [world.job() for _ in range(3)]
    first = world.ask("GET", "/api/jobs?limit=2").json()
    rest = world.ask("GET", f"/api/jobs?limit=2&after={first['next_cursor']}").json()
    assert [job["id"] for job in first["data"] + rest["data"]] == made[::-1]
    assert rest["next_cursor"] is None


def test_an_unchanged_job_is_304(world):
    path = f"/api/jobs/{world.job()}"
    tag = world.ask("GET", path).headers["etag"]
    assert world.ask("GET", path, headers={"if-none-match": tag}).status_code == 304


def test_a_stream_of_events_has_history_and_an_end(world):
    job = world.job()
    world.events(job, 1, event(0, "phase"), event(1, step=1), event(2, step=2))
    world.ask("POST", f"/api/jobs/{job}/cancel")
    answer = world.ask("GET", f"/api/jobs/{job}/events", headers={"accept": "text/event-stream"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert [line for line in answer.text.splitlines() if line.startswith("id:")] == ["id: 1-0", "id: 1-1", "id: 1-2"]
    assert "event: end" in answer.text
    assert json.loads(data_of(answer)[-1])["state"] == "cancelled"


def test_a_cut_stream_goes_on_after_the_last_event_id(world):
    job = world.job()
    world.events(job, 1, event(0), event(1), event(2))
    world.ask("POST", f"/api/jobs/{job}/cancel")
    headers = {"accept": "text/event-stream", "last-event-id": "1-1"}
    answer = world.ask("GET", f"/api/jobs/{job}/events", headers=headers)
    assert [line for line in answer.text.splitlines() if line.startswith("id:")] == ["id: 1-2"]
    assert [found["seq"] for found in world.ask("GET", f"/api/jobs/{job}/events?after=1-0").json()] == [1, 2]
    assert world.ask("GET", f"/api/jobs/{job}/events", headers={**headers, "last-event-id": "x"}).status_code == 400


def test_a_jobs_estimate_is_kept_for_whoever_asks_how_good_it_was(world):
    submitted = world.ask("POST", "/api/jobs", json=world.spec()).json()
    kept = world.ask("GET", f"/api/jobs/{submitted['job']['id']}/estimate")
    assert (kept.status_code, kept.json()) == (200, submitted["estimate"])
    assert kept.json()["measured"] is None
    assert world.ask("GET", "/api/jobs/job_00000000000000000000000000/estimate").status_code == 404


def test_the_log_is_text_and_may_be_cut(world):
    job = world.job()
    name = f"users/{world.actor.tenant_id}/jobs/{job}/attempts/1/job.log"
    world.platform.storage.write(name, b"one\ntwo\n")
    answer = world.ask("GET", f"/api/jobs/{job}/logs?tail_bytes=4")
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.status_code == 200


def test_a_form_is_stored_like_a_body(world):
    sha256 = hashlib.sha256(GOOD).hexdigest()
    form = {"data": {"name": "formed", "sha256": sha256}, "files": {"file": ("x.jsonl", GOOD)}}
    answer = world.ask("POST", "/api/datasets", **form)
    assert (answer.status_code, answer.json()["name"], answer.json()["sha256"]) == (201, "formed", sha256)
    assert answer.json()["report"]["usable_rows"] == 12
    named_by_file = world.ask("POST", "/api/datasets", files={"file": ("../../x.jsonl", GOOD)})
    assert named_by_file.json()["name"] == "x"
    named_by_header = world.upload(query="", headers={"x-filename": "C:\\data\\y.jsonl"})
    assert named_by_header.json()["name"] == "y"


def test_an_upload_with_the_same_key_gives_the_same_dataset(world):
    key = {"idempotency-key": "one"}
    first, again = (world.upload(headers=key) for _ in range(2))
    formed = world.ask("POST", "/api/datasets", data={"name": "rows"}, files={"file": ("x.jsonl", GOOD)}, headers=key)
    by_seed_path = world.ask("POST", f"/datasets/{world.actor.user_id}/upload?name=rows", content=GOOD, headers=key)
    assert {answer.json()["id"] for answer in (first, again, formed, by_seed_path)} == {first.json()["id"]}
    assert [answer.status_code for answer in (first, again, formed)] == [201, 201, 201]
    assert ("idempotent-replayed" in first.headers, again.headers["idempotent-replayed"]) == (False, "true")
    assert len(world.ask("GET", "/api/datasets").json()["data"]) == 1
    assert world.upload().json()["version"] == 2


def test_a_refused_upload_leaves_its_key_free(world):
    key = {"idempotency-key": "one"}
    assert world.upload(b"{", headers=key).status_code == 422
    assert world.upload(headers=key).status_code == 201


def test_of_two_processes_with_one_key_one_dataset_stays(world):
    """The second process knows nothing of the first one's request in flight: the table decides."""
    platform = world.platform
    twin = TestClient(create_app(dataclasses.replace(platform, accounts=Accounts(platform.database, platform.now))))
    key = {"idempotency-key": "one"}

    def meanwhile():
        yield GOOD
        assert world.upload(headers=key).status_code == 201

    answer = twin.post("/api/datasets?name=rows", content=meanwhile(), headers={"x-api-key": world.key, **key})
    assert answer.headers["idempotent-replayed"] == "true"
    assert [found["id"] for found in world.ask("GET", "/api/datasets").json()["data"]] == [answer.json()["id"]]


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"files": {"other": ("x", GOOD)}}, 422),
        ({"files": [("file", ("x", GOOD)), ("file", ("y", GOOD))]}, 422),
        ({"files": {"name": (None, "n")}}, 422),
        ({"files": {"file": ("x", GOOD)}, "data": {"sha256": "0" * 64}}, 422),
        ({"content": b"--x\r\n", "headers": {"content-type": "multipart/form-data"}}, 400),
        ({"content": b"--x\r\n", "headers": {"content-type": "multipart/mixed; boundary=x"}}, 415),
        ({"content": b"--other\r\n", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400),
        ({"content": b"--x\r\nbroken", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400),
        ({"content": GOOD, "headers": {"content-encoding": "gzip"}}, 415),
        ({"content": GOOD, "headers": {"content-length": "99999999999999"}}, 413),
        ({"content": GOOD, "headers": {"content-length": str(len(GOOD) + 1)}}, 400),
    ],
)
def test_a_broken_upload_leaves_nothing(world, form, status):
    assert world.ask("POST", "/api/datasets", **form).status_code == status
    assert world.ask("GET", "/api/datasets").json()["data"] == []


def test_a_dataset_comes_back_byte_by_byte(world):
    answer = world.ask("GET", f"/api/datasets/{world.dataset}/download")
    assert answer.content == GOOD
    assert answer.headers["content-disposition"].startswith("attachment")
    part = world.ask("GET", f"/api/datasets/{world.dataset}/download", headers={"range": "bytes=5-9"})
    assert (part.status_code, part.content) == (206, GOOD[5:10])
    assert part.headers["content-range"] == f"bytes 5-9/{len(GOOD)}"


@pytest.mark.parametrize("wanted", ["bytes=0-9", "bytes=100-", "bytes=-7"])
def test_a_range_of_a_model_file_is_that_range(world, wanted):
    model = world.model().id
    first, last = wanted.removeprefix("bytes=").split("-")
    part = world.ask("GET", f"/api/models/{model}/files/adapter_model.safetensors", headers={"range": wanted})
    right = WEIGHTS[-int(last) :] if not first else WEIGHTS[int(first) : int(last) + 1 if last else None]
    assert (part.status_code, part.content) == (206, right)
    assert part.headers["content-length"] == str(len(right))


def test_a_model_comes_as_a_tar_of_known_length(world):
    model = world.model()
    for path in (f"/api/models/{model.id}/download", "/models/intents@1/download"):
        answer = world.ask("GET", path)
        assert int(answer.headers["content-length"]) == len(answer.content)
        with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
            names = {name.rsplit("/", 1)[-1] for name in archive.getnames()}
        assert "adapter_model.safetensors" in names


def test_a_version_moves_by_either_way_of_naming_it(world):
    model = world.model()
    for path in ("/api/models/transition", "/models/transition"):
        for named in ({"model": model.id}, {"model": "intents@1"}, {"model_name": "intents", "version": "1"}):
            assert world.ask("POST", path, json={**named, "stage": "Staging"}).json()["stage"] == "Staging"
    answer = world.ask("POST", "/api/models/transition", json={"model": model.id, "stage": "Production"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "evaluation_needed")
    for body in ({}, {"model": "a", "model_name": "b"}, {"model_name": "b"}, {"model": "a", "stage": "Best"}):
        assert world.ask("POST", "/api/models/transition", json={"stage": "Staging", **body}).status_code == 422


def test_a_version_is_compared_and_rolled_back_by_either_path(world):
    scores = {"rows": 9, "base": {"loss": 2.0}, "tuned": {"loss": 0.5}}
    first = world.model(evaluation=scores)
    world.ask("POST", "/api/models/transition", json={"model": first.id, "stage": "Production"})
    found = world.ask("GET", "/api/models/intents/compare").json()
    assert (found["base"]["loss"], found["tuned"]["loss"], found["production"], found["gate"]["passes"]) == (2.0, 0.5, None, True)
    for path in ("/api/models/rollback", "/models/rollback"):
        assert world.ask("POST", path, json={"model_name": "intents"}).json()["error"]["code"] == "wrong_state"
        world.ask("POST", "/api/models/transition", json={"model": first.id, "stage": "Archived"})
        assert world.ask("POST", path, json={"model_name": "intents"}).json()["stage"] == "Production"
        assert world.ask("POST", path, json={"model_name": "nobody"}).status_code == 404
        assert world.ask("POST", path, json={"name": "intents"}).status_code == 422


def test_chat_answers_in_openais_shape(world):
    world.build_base()
    answer = world.ask("POST", "/api/chat", json=ASKED).json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"]


def test_a_streamed_chat_says_the_same_and_ends_with_done(world):
    world.build_base()
    whole = world.ask("POST", "/api/chat", json=ASKED).json()["choices"][0]["message"]["content"]
    *chunks, done = data_of(world.ask("POST", "/api/chat", json={**ASKED, "stream": True}))
    assert done == "[DONE]"
    pieces = [json.loads(chunk)["choices"][0] for chunk in chunks]
    assert "".join(piece["delta"].get("content", "") for piece in pieces) == whole
    assert pieces[-1]["finish_reason"] in ("stop", "length")


def test_a_chat_that_breaks_tells_so_in_the_stream(tmp_path):
    world = World(tmp_path, EndlessEngine(breaks_after=2))
    world.build_base()
    *_, last = data_of(world.ask("POST", "/api/chat", json={**ASKED, "stream": True}))
    assert json.loads(last)["error"]["code"] == "engine_unavailable"
    assert world.ask("POST", "/api/chat", json=ASKED).status_code == 503
    world.platform.close()


@pytest.mark.parametrize("stream", [True, False])
def test_a_chat_ends_within_a_second_of_its_reader(tmp_path, stream):
    engine = EndlessEngine()
    world = World(tmp_path, engine)
    world.build_base()
    body = json.dumps({**ASKED, "max_tokens": 500, "stream": stream}).encode()
    hung_up_at = asyncio.run(_hang_up(world, body))
    assert engine.closed_at is not None
    assert engine.closed_at - hung_up_at < 1
    world.platform.close()


async def _hang_up(world, body):
    """Ask, read until the answer has begun (or is waited for), and go."""
    headers = [(b"x-api-key", world.key.encode()), (b"content-type", b"application/json")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/chat",
        "raw_path": b"/api/chat",
        "query_string": b"",
        "headers": headers,
    }
    scope |= {"http_version": "1.1", "scheme": "http", "server": ("h", 1), "client": ("c", 2), "root_path": ""}
    asked = iter([{"type": "http.request", "body": body, "more_body": False}])
    gone: list[float] = []

    async def receive():
        message = next(asked, None)
        if message is None:
            gone.append(time.monotonic())
            return {"type": "http.disconnect"}
        return message

    async def send(message):
        await asyncio.sleep(0)

    await world.app(scope, receive, send)
    return gone[0]


def test_seed_paths_speak_their_own_shapes(world):
    user = world.actor.user_id
    job = world.ask("POST", f"/fine-tune/{user}/start", json=world.spec(name="seed")).json()
    assert job["job_id"] == job["task_id"]
    assert (job["experiment_name"], job["status"]) == ("seed", "queued")
    for path in ("/fine-tune/{}/status", "/train/status/{}", "/task/{}"):
        status = world.ask("GET", path.format(job["job_id"])).json()
        assert status["gpu_metrics"] == {"gpu_type": "local-cpu", "current_duration_seconds": 0.0}
    assert world.ask("POST", f"/fine-tune/{job['job_id']}/stop").json()["state"] == "stopped"
    assert world.ask("GET", f"/billing/job/{job['job_id']}/cost").json()["hourly_rate"] == 0.0
    flat = {"base_model": "luthier/tiny", "dataset": world.dataset, "epochs": 2, "learning_rate": 1e-3, "batch_size": 4}
    assert world.ask("POST", "/train", json=flat).json()["status"] == "queued"
    assert world.ask("POST", "/train", json={**flat, "hidden_size": 128}).json()["error"]["param"] == "hidden_size"
    world.model()
    newest = {"name": "intents", "latest_version": "1", "latest_stage": "None"}
    assert world.ask("GET", "/models").json() == {"models": [newest], "total_count": 1}
    told = world.ask("GET", "/experiments").json()
    assert told["total_count"] == len(told["experiments"]) == 2
    seed = next(each for each in told["experiments"] if each["name"] == "seed")
    assert seed == {"experiment_id": "seed", "name": "seed", "total_runs": 1, "best_run": None}
    assert world.ask("POST", f"/datasets/{user}/upload?name=s", content=GOOD).status_code == 201


@pytest.mark.parametrize("path", ["me", "bases", "billing/pricing", "billing/usage", "billing/history", "models", "datasets"])
def test_what_is_there_can_be_listed(world, path):
    assert world.ask("GET", f"/api/{path}").status_code == 200
