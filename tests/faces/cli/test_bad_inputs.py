"""Rows L01 to L08 of the bad inputs: each ends with its exit status, one line that says why, and no traceback."""

import base64
import errno
import json
import os
import socket
from pathlib import Path

import pytest

from ..sdk.conftest import Reply, as_json, refused
from .conftest import DATASET, JOB, MODEL

CONFIG = "train: {epochs: 1}\n"


def start(*more: str) -> tuple[str, ...]:
    return ("tune", "start", "--model", "luthier/tiny", "--dataset", DATASET, *more)


@pytest.mark.parametrize("command", ["tune", "model", "dataset"])
def test_l01_a_command_alone_or_an_unknown_one_is_usage(terminal, command):
    alone, unknown = terminal(command), terminal(command, "dance")
    assert (alone.code, unknown.code) == (2, 2)
    assert "Usage" in alone.out + alone.err
    assert "No such command" in unknown.err


@pytest.mark.parametrize(
    "inline", [["--epochs", "3"], ["--learning-rate", "1e-4"], ["--rank", "8"], ["--method", "sft"], ["--seed", "1"]]
)
def test_l01_config_and_inline_options_exclude_each_other(terminal, inline):
    Path("run.yaml").write_text(CONFIG)
    ended = terminal(*start("--config", "run.yaml", *inline))
    assert ended.code == 2
    assert inline[0] in ended.err


def test_l01_a_run_needs_a_model_and_a_dataset(terminal):
    assert "--dataset is missing" in terminal("tune", "start", "--model", "luthier/tiny").err
    Path("run.yaml").write_text(CONFIG)
    ended = terminal("tune", "start", "--config", "run.yaml", "--dataset", DATASET)
    assert (ended.code, "--model is missing, and the config has no base_model" in ended.err) == (2, True)


def a_folder(path: Path) -> None:
    path.mkdir()


def binary(path: Path) -> None:
    path.write_bytes(b"\x7fELF\x00\x01\xff")


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1024**3)


def forbidden(path: Path) -> None:
    path.write_text(CONFIG)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root may read everything")


def latin1(path: Path) -> None:
    path.write_bytes("name: Größe\n".encode("latin-1"))


def duplicate(path: Path) -> None:
    path.write_text("train: {epochs: 1, epochs: 2}\n")


def a_list(path: Path) -> None:
    path.write_text("- train\n")


@pytest.mark.parametrize("make", [None, a_folder, binary, huge, forbidden, latin1, duplicate, a_list])
def test_l02_a_config_that_cannot_be_used_is_named(terminal, make):
    if make is not None:
        make(Path("run.yaml"))
    ended = terminal(*start("--config", "run.yaml", "--json"))
    assert ended.code == 2
    assert "run.yaml" in ended.err
    assert ended.json["error"]["code"] == "usage"


@pytest.mark.parametrize("job_id", ["../x", "", "-x", "job_1", JOB.upper(), DATASET, "job_\x1b[31m", "a" * 5000])
@pytest.mark.parametrize("verb", ["status", "stop", "logs"])
def test_l03_what_is_no_id_is_usage_and_asks_no_server(fake, terminal, verb, job_id):
    ended = terminal("tune", verb, "--job-id", job_id)
    assert ended.code == 2
    assert fake.asked == []
    assert "\x1b" not in ended.err


def test_l03_two_ids_that_differ_and_none_at_all_are_usage(terminal):
    assert terminal("tune", "status", JOB, "--job-id", JOB[:-1] + "3").code == 2
    assert terminal("tune", "status").code == 2
    assert terminal("model", "show", "../../x").code == 2
    assert terminal("dataset", "show", JOB).code == 2


def test_l03_an_unknown_id_is_not_found(fake, terminal):
    fake.say(f"GET /api/jobs/{JOB}", refused(404, "not_found", "No such job."))
    ended = terminal("tune", "status", "--job-id", JOB)
    assert (ended.code, "No such job." in ended.err) == (4, True)


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "ftp://127.0.0.1", "", "http://", "http://[::1", "http://u:p@127.0.0.1", "not a url"]
)
def test_l04_an_address_that_is_none_is_a_network_error(terminal, url):
    terminal.point_to(url)
    ended = terminal("tune", "list", "--json")
    assert ended.code == 5
    assert "LUTHIER_API_URL" in ended.err
    assert ended.json["error"]["message"]


def test_l04_a_port_where_nobody_listens_is_a_network_error(terminal):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    terminal.point_to(f"http://127.0.0.1:{port}")
    ended = terminal("tune", "list")
    assert (ended.code, ended.err.splitlines()[0]) == (5, "Error: No server answers at LUTHIER_API_URL.")


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, b"<html>Welcome to nginx</html>", {"content-type": "text/html"}),
        Reply(404, b"<html>Not Found</html>", {"content-type": "text/html"}),
        Reply(302, b"", {"location": "https://login.example.com"}),
        Reply(200, b'["a list"]', {"content-type": "application/json"}),
        Reply(200, b'{"data": 1e', {"content-type": "application/json"}),
    ],
)
def test_l04_something_else_than_luthier_is_a_network_error(fake, terminal, reply):
    fake.say("GET /api/jobs", reply)
    ended = terminal("tune", "list")
    assert ended.code == 5
    assert "Traceback" not in ended.err


def test_l04_https_to_a_plain_server_is_a_network_error(fake, terminal):
    terminal.point_to(fake.url.replace("http://", "https://"))
    assert terminal("tune", "stop", JOB).code == 5


def key_file(terminal, text: bytes, mode: int) -> Path:
    folder = terminal.folder / "data"
    folder.mkdir()
    path = folder / "admin.key"
    path.write_bytes(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("text", "mode", "hint"),
    [(b"lk_x\n", 0o644, "chmod 600"), (b"\xff\xfe\x00", 0o600, "admin"), (b"", 0o600, "admin"), (b"two words\n", 0o600, "admin")],
)
def test_l05_a_key_file_that_cannot_be_trusted_is_refused_with_the_remedy(fake, terminal, text, mode, hint):
    key_file(terminal, text, mode)
    terminal.point_to(fake.url, key=None)
    ended = terminal("tune", "list")
    assert ended.code == 3
    assert hint in ended.err
    assert fake.asked == []


def test_l05_no_key_and_an_expired_key_say_where_one_comes_from(fake, terminal):
    terminal.point_to(fake.url, key=None)
    assert "luthier up" in terminal("tune", "list").err
    terminal.point_to(fake.url, key="lk_old")
    fake.say("GET /api/jobs", refused(401, "unauthenticated", "The key has expired.", hint="Ask for a new one."))
    ended = terminal("tune", "list")
    assert (ended.code, "Ask for a new one." in ended.err) == (3, True)
    fake.say("GET /api/jobs", refused(403, "forbidden"))
    assert terminal("tune", "list").code == 3


def test_l05_the_key_file_of_a_local_start_is_used(fake, terminal):
    key_file(terminal, b"lk_local\n", 0o600)
    terminal.point_to(fake.url, key=None)
    fake.say("GET /api/jobs", as_json({"data": []}))
    assert terminal("tune", "list").code == 0
    assert fake.asked[0].headers["authorization"] == "Bearer lk_local"


def a_model(fake, files: list[dict]) -> None:
    fake.say(
        f"GET /api/models/{MODEL}", as_json({"id": MODEL, "name": "../../evil", "version": "1", "stage": "None", "card": {}})
    )
    fake.say(f"GET /api/models/{MODEL}/files", as_json({"data": files}))


@pytest.mark.parametrize("name", ["../../.bashrc", "/etc/passwd", "a/b", "..", "", ".bashrc", "a\x1b[31m", "C:\\x", "nul", None])
def test_l07_a_name_from_the_server_is_never_a_path(fake, terminal, name):
    a_model(fake, [{"name": name, "bytes": 1, "sha256": "0" * 64}])
    ended = terminal("model", "download", "--model-id", MODEL)
    assert ended.code == 5
    assert [path for path in terminal.folder.rglob("*") if path.is_file()] == []


def test_l07_what_the_server_calls_a_model_names_no_folder(fake, terminal):
    a_model(fake, [{"name": "a.txt", "bytes": 2, "sha256": "8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4"}])
    fake.say(f"GET /api/models/{MODEL}/files/a.txt", Reply(200, b"hi"))
    assert terminal("model", "download", MODEL).code == 0
    assert (terminal.folder / MODEL / "a.txt").read_text() == "hi"


def test_l06_bytes_that_do_not_match_their_checksum_are_removed(fake, terminal):
    a_model(fake, [{"name": "a.txt", "bytes": 2, "sha256": "0" * 64}])
    fake.say(f"GET /api/models/{MODEL}/files/a.txt", Reply(200, b"hi"))
    ended = terminal("model", "download", MODEL)
    assert ended.code == 1
    assert "checksum" in ended.err
    assert [path for path in terminal.folder.rglob("*") if path.is_file()] == []


_OSC52 = "\x1b]52;c;" + base64.b64encode(b"rm -rf ~").decode() + "\x07"


def test_l08_escape_sequences_are_removed_from_logs_unless_raw(fake, terminal):
    text = f"\x1b[31mred\x1b[0m {_OSC52}\x9b2Jand \x1b]0;title\x1b\\more\r\n\u202etxt"
    fake.say(f"GET /api/jobs/{JOB}/logs", Reply(200, text.encode(), {"content-type": "text/plain"}))
    assert terminal("tune", "logs", JOB).out == "red and more\ntxt\n"
    assert terminal("tune", "logs", JOB, "--raw").out == text.replace("\r\n", "\r\n") + "\n"


def test_l08_names_states_and_errors_are_shown_clean_and_json_stays_ascii(fake, terminal):
    evil = f"a{_OSC52}\x1b[2Jb\nc"
    job = {"id": JOB, "name": evil, "state": evil, "step": 1, "cost_usd": "0.00", "created_at": evil, "base_model": evil}
    job |= {"dataset": evil, "hardware": evil, "error": {"code": evil, "message": evil, "hint": evil}}
    fake.say("GET /api/jobs", as_json({"data": [job], "next_cursor": None}))
    fake.say(f"GET /api/jobs/{JOB}", as_json(job))
    fake.say("GET /api/datasets", refused(422, "invalid", evil, hint=evil, details=[{"message": evil}, {"message": evil}]))
    ended = [terminal("tune", "list"), terminal("tune", "status", JOB), terminal("dataset", "list")]
    assert not [each for each in ended if "\x1b" in each.out + each.err or "\x07" in each.out + each.err]
    as_text = terminal("tune", "status", JOB, "--json").out
    assert as_text.isascii()
    assert "\x1b" not in as_text
    assert json.loads(as_text)["name"] == evil


def test_l06_a_full_disk_gets_its_part_back(fake, terminal):
    from luthier.faces.cli.saving import parts_removed_when_full

    path = terminal.folder / "a.bin"
    part = terminal.folder / "a.bin.part"
    part.write_bytes(b"half")
    with pytest.raises(OSError, match="No space"), parts_removed_when_full([path]):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not part.exists()
    part.write_bytes(b"half")
    with pytest.raises(KeyboardInterrupt), parts_removed_when_full([path]):
        raise KeyboardInterrupt
    assert part.read_bytes() == b"half"


def test_an_unknown_setting_is_usage(fake, terminal, monkeypatch):
    monkeypatch.setenv("LUTHIER_API_KEYS", "x")
    ended = terminal("tune", "list")
    assert (ended.code, "Did you mean LUTHIER_API_KEY?" in ended.err) == (2, True)


def test_a_dataset_file_that_is_not_there_is_usage(fake, terminal):
    assert terminal("dataset", "upload", "--file", "nowhere.jsonl").code == 2
    assert terminal("dataset", "upload", "--file", ".").code == 2
    assert terminal("dataset", "upload").code == 2
    assert terminal("dataset", "download", DATASET, "-o", ".").code == 2
