import select
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from luthier import Client, errors
from luthier.errors import ClientError
from luthier.faces.sdk.transport import Retry

from .conftest import KEY, Reply, as_json, refused

SPEC = {"base_model": "luthier/tiny", "dataset": "ds_1"}


def test_a_refusal_comes_back_as_the_error_that_the_server_raised(server, client):
    details = {"needed_usd": "5.00"}
    server.say("POST /api/jobs", refused(402, "budget_exceeded", "Needs $5.", hint="Pay.", param="limits", details=details))
    with pytest.raises(errors.BudgetExceeded) as caught:
        client.jobs.submit(SPEC)
    error = caught.value
    assert (error.message, error.hint, error.param, error.details) == ("Needs $5.", "Pay.", "limits", details)
    assert (error.error_code, error.request_id, len(server.asked)) == ("budget_exceeded", "req_1", 1)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "cursor_invalid", errors.CursorInvalid),
        (401, "unauthenticated", errors.Unauthenticated),
        (403, "forbidden", errors.Forbidden),
        (404, "not_found", errors.NotFound),
        (409, "evaluation_needed", errors.EvaluationNeeded),
        (410, "deleted", errors.Gone),
        (413, "too_large", errors.TooLarge),
        (415, "unsupported_media_type", errors.UnsupportedType),
        (422, "dataset_rejected", errors.DatasetRejected),
        (422, "json_syntax", errors.Invalid),
        (507, "storage_full", errors.StorageFull),
        (500, "bug", errors.LuthierError),
        (418, "of_the_future", errors.LuthierError),
        (422, "connection", errors.Invalid),
        (500, "connection", errors.LuthierError),
    ],
)
def test_the_class_is_that_of_the_code_and_else_that_of_the_status(server, client, status, code, kind):
    server.say("DELETE /api/jobs/job_1", refused(status, code))
    with pytest.raises(errors.LuthierError) as caught:
        client.jobs.delete("job_1")
    assert type(caught.value) is kind
    assert caught.value.error_code == code


def test_wrong_fields_and_rejected_rows_are_told_apart_by_what_they_list(server, client):
    fields = [{"param": "nme", "message": "No such field.", "code": "extra_forbidden"}]
    server.say("POST /api/jobs", refused(422, "extra_forbidden", param="nme", details=fields))
    with pytest.raises(errors.FieldInvalid) as caught:
        client.jobs.submit(SPEC)
    assert (caught.value.param, caught.value.details) == ("nme", fields)
    server.say("POST /api/jobs", refused(422, "json_syntax", details={"rows": 2, "findings": [{"line": 2}]}))
    with pytest.raises(errors.DatasetRejected, match="No"):
        client.jobs.submit(SPEC)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(200, b"<html>log in</html>", {"content-type": "text/html"}), "not a Luthier server: status 200"),
        (Reply(404, b"<html>no</html>"), "not a Luthier server: status 404"),
        (Reply(502, b"<html>bad gateway</html>"), "A proxy answered 502"),
        (Reply(302, b"", {"location": "https://elsewhere.invalid/"}), "sends elsewhere"),
        (as_json(["a", "list"]), "not our JSON"),
        (as_json({"error": "text"}, 400), "not our JSON"),
        (Reply(200, b'{"id": "jo', cut=100), "broke off"),
    ],
)
def test_what_is_no_luthier_server_is_told_apart_with_a_hint(server, client, reply, message):
    server.say("GET /api/me", reply)
    with pytest.raises(ClientError, match=message) as caught:
        client.me()
    assert caught.value.hint
    assert "html" not in str(caught.value)


def test_nobody_listening_is_said_with_what_to_start(pauses, retry):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Client(base_url=f"http://127.0.0.1:{port}", api_key=KEY, retry=retry) as client, pytest.raises(ClientError) as caught:
        client.me()
    assert "No server answers" in caught.value.message
    assert "luthier up" in (caught.value.hint or "")
    assert len(pauses) == 4


def test_https_to_a_plain_server_is_a_matter_of_the_certificate(server, retry, pauses):
    url = server.url.replace("http:", "https:")
    with Client(base_url=url, api_key=KEY, retry=retry) as client, pytest.raises(ClientError, match="certificate") as caught:
        client.me()
    assert caught.value.error_code == "tls"
    assert pauses == []


def test_a_busy_server_is_asked_again_after_the_pause_that_it_wants(server, client, pauses):
    busy = refused(503, "database_busy")
    busy.headers["retry-after"] = "3"
    server.say("GET /api/me", busy, Reply(deaf=True), Reply(502, b"<html>"), as_json({"role": "admin"}))
    assert client.me().role == "admin"
    assert len(server.asked) == 4
    assert pauses[0] == 3
    assert 0.375 <= pauses[1] <= 0.5
    assert 0.75 <= pauses[2] <= 1


def test_asking_again_ends(server, client, pauses):
    server.say("GET /api/me", refused(503, "database_busy", "Busy."))
    with pytest.raises(errors.DatabaseBusy, match="Busy"):
        client.me()
    assert len(server.asked) == 5


def test_a_retried_submit_carries_one_idempotency_key_so_it_makes_one_job(server, client):
    made = as_json({"job": {"id": "job_1", "state": "queued"}, "estimate": {"steps": 10}, "replayed": True}, 201)
    server.say("POST /api/jobs", Reply(deaf=True), refused(409, "idempotency_key_in_flight"), refused(503, "unavailable"), made)
    submitted = client.jobs.submit(SPEC)
    assert (submitted.id, submitted.job.state, submitted.estimate.steps, submitted.replayed) == ("job_1", "queued", 10, True)
    keys = [asked.headers["idempotency-key"] for asked in server.asked]
    assert len(keys) == 4
    assert len(set(keys)) == 1
    assert all(asked.json == SPEC for asked in server.asked)
    client.jobs.submit(SPEC)
    client.jobs.submit(SPEC, idempotency_key="mine")
    assert server.asked[-2].headers["idempotency-key"] not in keys
    assert server.asked[-1].headers["idempotency-key"] == "mine"


def test_what_may_have_worked_already_is_not_sent_twice(server, client):
    server.say("POST /api/jobs/job_1/resume", Reply(deaf=True))
    with pytest.raises(ClientError, match="broke off"):
        client.jobs.resume("job_1")
    assert len(server.asked) == 1


def test_a_base_that_cannot_be_fetched_is_not_asked_for_again(server, client):
    server.say("POST /api/chat", refused(503, "base_unavailable"))
    with pytest.raises(errors.BaseUnavailable):
        client.chat.answer("mine", "?")
    assert len(server.asked) == 1


def test_a_slow_answer_is_told_apart_from_none(retry):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        client = Client(base_url=url, api_key=KEY, timeout_s=0.05, retry=Retry(attempts=1))
        with client, pytest.raises(ClientError, match="too long"):
            client.me()


def test_a_spec_can_be_a_file_or_a_value(server, client, tmp_path):
    from luthier.jobs.spec import RunSpec

    server.say("POST /api/jobs/estimate", as_json({"steps": 1}))
    path = tmp_path / "run.yaml"
    path.write_text("base_model: luthier/tiny\ndataset: ds_1\nname: no\n")
    client.jobs.estimate(path)
    client.jobs.estimate(RunSpec(base_model="luthier/tiny", dataset="ds_1"))
    assert [asked.json for asked in server.asked] == [{**SPEC, "name": "no"}, SPEC]
    path.write_text("- a list\n")
    with pytest.raises(errors.FieldInvalid, match="no mapping"):
        client.jobs.estimate(path)
    with pytest.raises(errors.FieldInvalid, match="cannot be read"):
        client.jobs.estimate(tmp_path / "missing.yaml")


def test_a_chat_may_take_longer_than_other_requests(retry):
    with socket.create_server(("127.0.0.1", 0)) as slow, ThreadPoolExecutor(1) as pool:

        def answer() -> bool:
            connection, _ = slow.accept()
            with connection:
                while b'"stream"' not in connection.recv(65536):
                    pass
                gone = bool(select.select([connection], [], [], 0.3)[0])
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\nconnection: close\r\n\r\n" + b'{"id": "1"}')
                return gone

        gone = pool.submit(answer)
        with Client(base_url=f"http://127.0.0.1:{slow.getsockname()[1]}", api_key=KEY, timeout_s=0.05, retry=retry) as client:
            assert client.chat.answer("a", "Hello?", max_tokens=4000).id == "1"
        assert not gone.result()
