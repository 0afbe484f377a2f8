import pytest

from luthier.errors import ClientError, NotFound

from .conftest import Reply, as_json, refused, sse

EVENTS = "GET /api/jobs/job_1/events"


def event(seq: int, attempt: int = 1, **more) -> tuple[str, str, object]:
    facts = {"attempt": attempt, "seq": seq, "kind": "step", "step": seq * 10, "message": "", "data": {}, **more}
    return f"{attempt}-{seq}", "step", facts


END = (None, "end", {"id": "job_1", "state": "succeeded"})


def test_a_cut_stream_goes_on_where_it_broke_and_nothing_comes_twice(server, client):
    server.say(EVENTS, sse(event(1), event(2), cut=50), sse(event(3)), Reply(deaf=True), sse(event(1, attempt=2), END))
    seen = [(event.id, event.step) for event in client.jobs.follow("job_1")]
    assert seen == [("1-1", 10), ("1-2", 20), ("1-3", 30), ("2-1", 10)]
    assert [asked.headers.get("last-event-id") for asked in server.asked] == [None, "1-2", "1-3", "1-3"]
    assert {asked.headers["accept"] for asked in server.asked} == {"text/event-stream"}


def test_half_an_event_is_not_an_event(server, client):
    half = sse(event(1), event(2))
    half.body = half.body[:-2]
    server.say(EVENTS, half, sse(event(2), END))
    assert [event.id for event in client.jobs.follow("job_1")] == ["1-1", "1-2"]
    assert server.asked[1].headers["last-event-id"] == "1-1"


def test_following_survives_a_restart_of_the_server_but_not_for_ever(server, client, pauses):
    server.say(EVENTS, *[Reply(deaf=True)] * 29, sse(event(1), END))
    assert [event.id for event in client.jobs.follow("job_1")] == ["1-1"]
    assert max(pauses) <= 10
    server.say(EVENTS, sse())
    with pytest.raises(ClientError, match="broke off before"):
        list(client.jobs.follow("job_1"))
    assert len(pauses) == 29 + 29


def test_an_unknown_job_is_said_at_once(server, client, pauses):
    server.say(EVENTS, refused(404, "not_found"))
    with pytest.raises(NotFound):
        list(client.jobs.follow("job_1"))
    assert pauses == []


def test_a_page_instead_of_a_stream_is_told(server, client):
    server.say(EVENTS, Reply(200, b"<html>", {"content-type": "text/html"}))
    with pytest.raises(ClientError, match="no event stream"):
        next(client.jobs.follow("job_1"))


def test_following_can_be_left_early_and_taken_up_later(server, client):
    server.say(EVENTS, sse(event(1), event(2), END))
    following = client.jobs.follow("job_1")
    assert next(following).id == "1-1"
    following.close()
    list(client.jobs.follow("job_1", after="1-1"))
    assert server.asked[1].headers["last-event-id"] == "1-1"


def test_text_with_odd_line_breaks_arrives_whole(server, client):
    server.say(EVENTS, sse(event(1, message="a\u2028b\u0085c\x0bd"), END))
    assert next(client.jobs.follow("job_1")).message == "a\u2028b\u0085c\x0bd"


def test_waiting_gives_the_finished_job(server, client):
    server.say(EVENTS, sse(event(1), END))
    job = client.jobs.wait("job_1")
    assert (job.state, job.finished) == ("succeeded", True)


def test_the_events_so_far_are_a_list(server, client):
    server.say(EVENTS, as_json([event(1)[2], event(2)[2]]))
    assert [event.id for event in client.jobs.events("job_1", after="1-0")] == ["1-1", "1-2"]
    assert server.asked[0].query == {"after": "1-0"}


def test_a_log_comes_as_text_with_its_size(server, client):
    headers = {"x-attempt": "2", "x-total-bytes": "900", "x-truncated": "true", "content-type": "text/plain; charset=utf-8"}
    server.say("GET /api/jobs/job_1/logs", Reply(503, b"<html>"), Reply(200, "zäh\n".encode(), headers))
    log = client.jobs.logs("job_1", tail_bytes=5)
    assert (log.text, log.attempt, log.total_bytes, log.truncated) == ("zäh\n", 2, 900, True)
    assert server.asked[1].query == {"tail_bytes": "5"}
