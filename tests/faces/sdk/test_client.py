import asyncio
import base64
import gc
import inspect
import json
import os
import pickle
import subprocess
import sys
import threading

import pytest

import luthier
from luthier import AsyncClient, Client
from luthier.errors import ClientError
from luthier.faces.sdk.answers import Job

from .conftest import KEY, MODEL, Reply, as_json, sse

JOB = {"id": "job_1", "state": "running", "step": 3, "error": None, "spec": {"train": {"epochs": 2}}, "a_new_field": [{"x": 1}]}


def test_an_answer_is_its_json_with_attributes_and_keeps_what_it_does_not_know(server, client):
    server.say("GET /api/jobs/job_1", as_json(JOB))
    job = client.jobs.get("job_1")
    assert (job.state, job["step"], job.spec.train.epochs, job.get("missing"), job.finished) == ("running", 3, 2, None, False)
    assert job.a_new_field[0].x == 1
    assert job.raw == JOB
    assert server.asked[0].headers["authorization"] == f"Bearer {KEY}"
    with pytest.raises(AttributeError, match="cannot be changed"):
        job.state = "queued"
    with pytest.raises(AttributeError, match="This Job has no 'colour'; it has: id, state"):
        job.colour  # noqa: B018


def test_answers_can_be_compared_and_pickled():
    job = Job(JOB)
    assert pickle.loads(pickle.dumps(job)) == job == JOB
    assert repr(job).startswith("Job({'id': 'job_1'")


def test_a_list_gives_one_page_and_each_goes_through_all(server, client):
    pages = [
        as_json({"data": [{"id": "a"}, {"id": "b"}], "next_cursor": "c1"}),
        as_json({"data": [{"id": "c"}], "next_cursor": None}),
    ]
    server.say("GET /api/jobs", pages[0], *pages)
    page = client.jobs.list(limit=2)
    assert ([job.id for job in page], len(page), page.next_cursor) == (["a", "b"], 2, "c1")
    assert [job.id for job in client.jobs.each()] == ["a", "b", "c"]
    assert [asked.query for asked in server.asked] == [{"limit": "2"}, {"limit": "200"}, {"limit": "200", "after": "c1"}]


def test_a_cursor_that_comes_back_unchanged_ends_the_list(server, client):
    server.say("GET /api/datasets", as_json({"data": [{"id": "a"}], "next_cursor": "same"}))
    assert len(list(client.datasets.each())) == 2


def test_ids_cannot_leave_their_place_in_the_path(server, client):
    server.say("GET /api/jobs/..%2Fmodels%3Fx", as_json({"id": "?"}))
    assert client.jobs.get("../models?x").id == "?"


def test_every_noun_has_its_routes(server, client):
    server.say("GET /api/me", as_json({"role": "admin"}))
    server.say("GET /health", as_json({"status": "ok"}))
    server.say("GET /api/bases", as_json({"data": [{"id": "luthier/tiny"}], "next_cursor": None}))
    server.say("GET /api/billing/pricing", as_json({"data": [{"hardware": "local-cpu"}]}))
    server.say("GET /api/billing/usage", as_json({"cost_usd": "0.00"}))
    server.say("GET /api/billing/history", as_json({"data": [{"id": "charge_1"}]}))
    server.say("GET /api/billing/job/job_1/cost", as_json({"cost_usd": "1.50"}))
    server.say("POST /api/models/transition", as_json({"stage": "Production"}))
    server.say(f"DELETE /api/models/{MODEL}", Reply(204))
    server.say("GET /api/models", as_json({"data": []}))
    assert (client.me().role, client.health().status, client.bases.list()[0].id) == ("admin", "ok", "luthier/tiny")
    assert (client.billing.pricing()[0].hardware, client.billing.usage().cost_usd) == ("local-cpu", "0.00")
    assert ([charge.id for charge in client.billing.each()], client.billing.job_cost("job_1").cost_usd) == (["charge_1"], "1.50")
    assert client.models.transition("mine@2", "Production").stage == "Production"
    assert server.asked[-1].json == {"model": "mine@2", "stage": "Production"}
    assert client.models.delete(MODEL) is None
    assert len(client.models.list()) == 0


def test_a_model_is_found_by_id_by_name_and_version_and_by_name_alone(server, client):
    versions = [{"id": f"model_{number}", "name": "a@b", "version": str(number)} for number in (2, 1)]
    server.say(f"GET /api/models/{MODEL}", as_json({"id": MODEL}))
    server.say("GET /api/models", as_json({"data": versions, "next_cursor": None}))
    assert (client.models.get(MODEL).id, client.models.get("a@b@1").id, client.models.get("a@b").id) == (
        MODEL,
        "model_1",
        "model_2",
    )
    queries = [asked.query for asked in server.asked[1:]]
    assert queries == [{"limit": "200", "name": "a@b"}, {"limit": "200", "name": "a@b", "stage": "Production"}]
    with pytest.raises(luthier.errors.NotFound, match="version in Production"):
        client.models.get("a@b@3")


def test_chat_gives_a_whole_answer_or_its_pieces(server, client):
    whole = {"model": "model_1", "choices": [{"message": {"role": "assistant", "content": "blue"}}], "usage": {"total_tokens": 3}}
    server.say("POST /api/chat", as_json(whole))
    answer = client.chat.answer("mine", "What colour?", max_tokens=8, seed=1)
    assert (answer.text, answer.model, answer.usage.total_tokens) == ("blue", "model_1", 3)
    expected = {
        "model": "mine",
        "messages": [{"role": "user", "content": "What colour?"}],
        "max_tokens": 8,
        "seed": 1,
        "stream": False,
    }
    assert server.asked[0].json == expected

    pieces = [json.dumps({"choices": [{"delta": {"content": text}}]}, ensure_ascii=False) for text in ("bl", "ue\u2028")]
    body = "".join(f"data: {piece}\n\n" for piece in [*pieces, "[DONE]"]).encode()
    server.say("POST /api/chat", Reply(body=body, headers={"content-type": "text/event-stream; charset=utf-8"}))
    assert [chunk.text for chunk in client.chat.stream("mine", [{"role": "user", "content": "?"}])] == ["bl", "ue\u2028"]


def test_a_classifier_is_asked_about_one_thing(server, client):
    server.say("POST /api/predict", as_json({"prediction": 7, "classes": ["6", "7"], "probabilities": [0.1, 0.9]}))
    assert client.predict(image=(0.0, 1.0)).prediction == 7
    assert client.predict(text="a text", model="intents").probabilities == (0.1, 0.9)
    asked = [request.json for request in server.asked]
    assert asked == [{"model_name": "MNISTClassifier", "image": [0.0, 1.0]}, {"model_name": "intents", "text": "a text"}]


def test_a_picture_goes_as_its_bytes_or_from_its_file(server, client, tmp_path):
    server.say("POST /api/predict/picture", as_json({"prediction": 7, "classes": ["6", "7"], "probabilities": [0.1, 0.9]}))
    (tmp_path / "seven.png").write_bytes(b"a png")
    assert client.predict_picture(tmp_path / "seven.png", digit=True).prediction == 7
    assert client.predict_picture(b"a png", model="shapes").prediction == 7
    assert [request.json for request in server.asked] == [{"picture": base64.b64encode(b"a png").decode()}] * 2
    asked = [(request.query["model_name"], request.query["digit"]) for request in server.asked]
    assert asked == [("MNISTClassifier", "true"), ("shapes", "false")]


def test_a_chat_stream_that_breaks_off_is_not_taken_for_an_answer(server, client):
    server.say("POST /api/chat", sse((None, "message", {"choices": []})))
    with pytest.raises(ClientError, match="broke off"):
        list(client.chat.stream("mine", "?"))


def test_an_error_in_the_middle_of_a_chat_stream_is_raised(server, client):
    server.say("POST /api/chat", sse((None, "message", {"error": {"message": "Out of memory.", "code": "engine_unavailable"}})))
    with pytest.raises(luthier.errors.LuthierError, match="Out of memory"):
        list(client.chat.stream("mine", "?"))


def test_the_async_client_has_the_same_verbs(server, retry):
    server.say("GET /api/jobs/job_1", as_json(JOB))

    async def ask() -> str:
        async with AsyncClient(base_url=server.url, api_key=KEY, retry=retry) as client:
            return (await client.jobs.get("job_1")).id

    assert asyncio.run(ask()) == "job_1"


def test_both_faces_have_the_same_verbs_parameters_and_texts():
    ours, theirs = Client(base_url="http://127.0.0.1:9", api_key="k"), AsyncClient(base_url="http://127.0.0.1:9", api_key="k")
    for noun in ("datasets", "jobs", "models", "bases", "billing", "chat"):
        verbs = {name for name in dir(getattr(theirs, noun)) if not name.startswith("_")}
        assert verbs == {name for name in dir(getattr(ours, noun)) if not name.startswith("_")} - {"inner", "loop"}
        for verb in verbs:
            plain, coroutine = getattr(getattr(ours, noun), verb), getattr(getattr(theirs, noun), verb)
            assert inspect.signature(plain) == inspect.signature(coroutine)
            assert plain.__doc__
            assert plain.__doc__ == coroutine.__doc__
    ours.close()


def test_a_client_works_inside_a_running_loop_and_from_many_threads(server, client):
    server.say("GET /api/me", as_json({"role": "admin"}))

    async def notebook() -> str:
        return client.me().role

    assert asyncio.run(notebook()) == "admin"
    seen: list[str] = []
    threads = [threading.Thread(target=lambda: seen.append(client.me().role)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == ["admin"] * 8


def test_a_closed_client_says_so_and_leaves_no_thread(server):
    before = threading.active_count()
    client = Client(base_url=server.url, api_key=KEY)
    client.close()
    client.close()
    assert threading.active_count() == before
    with pytest.raises(ClientError, match="closed"):
        client.me()


def _threads_of_clients() -> int:
    return sum(thread.name == "luthier-client" for thread in threading.enumerate())


def test_a_client_that_nobody_closed_ends_with_its_last_reference_and_with_the_process(server):
    server.say("GET /api/me", Reply(body=b'{"role": "admin"}', headers={"connection": "keep-alive"}))
    before = _threads_of_clients()
    jobs = Client(base_url=server.url, api_key=KEY).jobs
    assert _threads_of_clients() == before + 1
    del jobs
    gc.collect()
    assert _threads_of_clients() == before
    code = f"from luthier import Client; client = Client(base_url={server.url!r}, api_key='k'); print(client.me().role)"
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert (done.stdout, done.stderr) == ("admin\n", "")


def test_a_callback_that_calls_its_own_client_is_told_and_does_not_hang(server, client, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"{}\n")
    server.say("POST /api/datasets", as_json({"id": "ds_1"}))
    with pytest.raises(ClientError, match="callback"):
        client.datasets.upload(path, on_progress=lambda done, total: client.me())


def test_importing_luthier_loads_neither_httpx_nor_pydantic():
    code = "import sys, luthier.faces.sdk.client; print([m for m in ('httpx', 'pydantic', 'yaml') if m in sys.modules])"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LUTHIER_")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=clean)
    assert done.stdout.strip() == "[]"


def test_the_package_knows_no_other_names():
    with pytest.raises(AttributeError, match="no attribute 'Clint'"):
        luthier.Clint  # noqa: B018
