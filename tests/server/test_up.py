"""`luthier up`: one command from an empty folder to an API that answers, and back to no process at all."""

import os
import signal
import socket
import sqlite3
import stat

import httpx
import psutil
import pytest

from luthier.datasets.types import Upload
from luthier.jobs.spec import RunSpec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def test_a_first_start_answers_and_leaves_a_key_that_only_its_owner_can_read(server, get):
    url = server.up()
    assert get(url, "/health").status_code == 200
    assert stat.S_IMODE((server.data / "admin.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(server.data.stat().st_mode) == 0o700
    assert get(url, "/api/jobs", server.key()).status_code == 200
    assert get(url, "/api/jobs").status_code == 401
    status, _, said = server.stop()
    assert status == 0
    assert url in said
    assert f"{url}/docs" in said
    assert str(server.data / "admin.key") in said
    assert "Ctrl-C stops" in said
    assert server.key() not in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_everything_in_order_within_ten_seconds(server, number):
    server.up()
    server.until(server.supervisors, "the supervisor works")
    status, seconds, said = server.stop(number)
    assert (status, server.working(), server.facts()) == (0, [], {})
    assert seconds < 10
    assert "Traceback" not in said + server.log()
    assert "stopping" in server.log()


def test_a_second_start_on_the_same_folder_is_refused_and_harms_nothing(server, get):
    url = server.up()
    second = server.command("up", "--port", "0")
    _, said = second.communicate(timeout=60)
    assert second.returncode == 78
    assert "Another `luthier up` serves this data folder." in said
    assert "Traceback" not in said
    assert server.facts()["url"] == url
    assert get(url, "/health").status_code == 200


def test_a_port_in_use_is_refused_with_a_hint(server):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process = server.command("up", "--port", port)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 78
    assert port in said
    assert "--port" in said
    assert "Traceback" not in said


def test_an_unknown_setting_stops_the_start(server):
    process = server.command("up", LUTHIER_PORTT="1")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 78
    assert "Did you mean LUTHIER_PORT?" in said


def test_a_later_start_keeps_the_key_and_the_admin(server, get):
    server.up()
    key = server.key()
    server.stop()
    url = server.up()
    assert server.key() == key
    assert get(url, "/api/jobs", key).status_code == 200


@pytest.mark.parametrize(("proxies", "third"), [("", 429), ("10.0.0.1", 429), ("127.0.0.1", 401)])
def test_a18_what_is_said_of_an_address_counts_only_from_a_proxy_that_was_named(server, proxies, third):
    url = server.up(LUTHIER_TRUSTED_PROXIES=proxies, LUTHIER_LIMIT_ADDRESS="2/minute")

    def status(said_to_come_from):
        headers = {"x-forwarded-for": said_to_come_from}
        return httpx.get(f"{url}/api/me", headers=headers, timeout=10, trust_env=False).status_code

    assert [status(f"192.0.2.{number}") for number in (1, 2, 3)] == [401, 401, third]
    # What a caller puts in front of the proxy's own word is nobody's address.
    assert [status(f"198.51.100.{number}, 192.0.2.9") for number in (1, 2, 3)][-1] == 429


def test_a_supervisor_that_dies_is_started_again(server, get):
    url = server.up()
    server.until(server.supervisors, "the supervisor works")
    first = server.supervisors()[0]
    first.kill()
    server.until(lambda: any(process.pid != first.pid for process in server.supervisors()), "another one works")
    assert get(url, "/health").status_code == 200


def test_a_supervisor_without_work_ends_when_its_server_was_killed(server):
    server.up()
    server.until(server.supervisors, "the supervisor works")
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    server.until(lambda: not server.working(), "the supervisor has ended", 15)


def test_a_start_after_a_kill_takes_over_with_one_supervisor(server, get):
    server.up()
    server.until(server.supervisors, "the supervisor works")
    supervisor = server.supervisors()[0]
    supervisor.suspend()  # it still holds its lock, as if it were finishing a job
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    url = server.up()
    assert get(url, "/health").status_code == 200
    supervisor.resume()
    server.until(lambda: not supervisor.is_running(), "the old one has ended")
    server.until(lambda: len(server.supervisors()) == 1, "one new one works")


def test_a_lost_database_gives_its_team_back_its_admin(server, get):
    server.up()
    server.stop()
    team = "team_" + "0" * 26
    (server.data / "users" / team).mkdir(parents=True)
    for path in server.data.glob("luthier.db*"):
        path.unlink()
    url = server.up()
    assert get(url, "/api/jobs", server.key()).status_code == 200
    with sqlite3.connect(server.data / "luthier.db") as connection:
        assert connection.execute("SELECT tenant_id FROM memberships").fetchall() == [(team,)]
    connection.close()


def test_an_open_event_stream_does_not_hold_up_the_end(server, prepared):
    platform, admin = prepared
    rows = b"".join(b'{"prompt": "say %d", "completion": "%d"}\n' % (number, number) for number in range(20))
    dataset = platform.datasets.upload(admin, Upload([rows], name="numbers"))
    job_id = platform.jobs.submit(admin, RunSpec(base_model="luthier/tiny", dataset=dataset.id)).job.id
    with sqlite3.connect(server.data / "luthier.db") as connection:
        connection.execute("UPDATE jobs SET hardware = 'elsewhere'")  # so that nobody here starts it
    connection.close()
    url = server.up()
    headers = {"authorization": f"Bearer {server.key()}", "accept": "text/event-stream"}
    with httpx.stream("GET", f"{url}/api/jobs/{job_id}/events", headers=headers, timeout=30, trust_env=False) as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith("retry:"), server.stop()
        status, seconds, _ = server.stop()
        assert list(lines) == [""]  # a whole answer: the reader was not cut off
    assert (status, seconds < 5) == (0, True)


def test_it_starts_small(server, get):
    get(server.up(), "/health")
    resident = psutil.Process(server.process.pid).memory_info().rss
    assert resident < 150 * 2**20
