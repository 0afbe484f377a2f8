import os

import pytest

from luthier import Client
from luthier.errors import ClientError, SetupError, Unauthenticated
from luthier.faces.sdk.access import find_access

from .conftest import as_json


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith("LUTHIER_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LUTHIER_DATA", str(tmp_path))
    return tmp_path


def write_key(data, text: str = "lk_local\n", mode: int = 0o600) -> None:
    path = data / "admin.key"
    path.write_text(text)
    path.chmod(mode)


def test_a_local_start_needs_no_settings_at_all(data):
    write_key(data)
    access = find_access()
    assert (access.base_url, access.api_key(), access.local) == ("http://127.0.0.1:8000", "lk_local", True)
    assert "lk_local" not in repr(access)


def test_an_empty_variable_is_no_key(data, monkeypatch):
    write_key(data)
    monkeypatch.setenv("LUTHIER_API_KEY", "")
    assert find_access().api_key() == "lk_local"


def test_what_is_given_wins_over_the_environment_and_that_over_the_file(data, monkeypatch):
    write_key(data)
    monkeypatch.setenv("LUTHIER_API_KEY", "lk_env")
    monkeypatch.setenv("LUTHIER_API_URL", "https://there.example/luthier/")
    access = find_access()
    assert (access.base_url, access.api_key(), access.local) == ("https://there.example/luthier", "lk_env", False)
    assert find_access("http://localhost:1", "lk_given").api_key() == "lk_given"


def test_the_key_of_this_machine_is_not_sent_to_another_one(data):
    write_key(data)
    with pytest.raises(Unauthenticated, match="LUTHIER_API_KEY"):
        find_access("https://there.example").api_key()


def test_a_key_that_others_can_read_is_refused_with_the_remedy(data):
    write_key(data, mode=0o640)
    with pytest.raises(Unauthenticated, match="chmod 600"):
        find_access().api_key()


@pytest.mark.parametrize("text", ["", "\n", "two words", "a\nb", "\x00\x01", "x" * 300])
def test_a_broken_key_file_says_how_to_get_a_key(data, text):
    write_key(data, text)
    with pytest.raises(Unauthenticated, match="holds no key"):
        find_access().api_key()


def test_no_key_at_all_says_how_to_get_one(data):
    with pytest.raises(Unauthenticated, match="luthier up"):
        find_access().api_key()
    os.mkfifo(data / "admin.key")
    with pytest.raises(Unauthenticated, match="not a file"):
        find_access().api_key()


@pytest.mark.parametrize("key", ["", "a b", "a\r\nx-evil: 1", "ключ"])
def test_a_key_that_would_break_a_header_is_refused(key):
    with pytest.raises(Unauthenticated, match="characters"):
        find_access("http://127.0.0.1:1", key).api_key()


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8000", "ftp://x", "http://", "http://x:99999", "http://[::1", "http://user:pass@x", "http://x/?a=1"]
)
def test_an_address_that_is_none_is_told(url):
    with pytest.raises(ClientError, match="not the address"):
        find_access(url, "k")


def test_an_unknown_setting_is_refused_here_too(monkeypatch):
    monkeypatch.setenv("LUTHIER_API_KEI", "x")
    with pytest.raises(SetupError, match="LUTHIER_API_KEI"):
        find_access()


def test_nothing_is_read_before_the_first_request(server, data):
    with Client(base_url=server.url) as client:
        write_key(data)
        server.say("GET /api/me", as_json({"role": "admin"}))
        client.me()
    assert server.asked[0].headers["authorization"] == "Bearer lk_local"


def test_no_proxy_stands_between_a_client_and_its_own_machine(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    server.say("GET /api/me", as_json({"role": "admin"}))
    with Client(base_url=server.url, api_key="k") as client:
        assert client.me().role == "admin"


def test_a_server_can_be_asked_how_it_is_without_a_key_and_when_it_is_not_well(server, pauses, retry):
    server.say("GET /health", as_json({"status": "degraded", "database": "unavailable"}, 503))
    with Client(base_url=server.url, retry=retry) as client:
        assert client.health().database == "unavailable"
    assert "authorization" not in server.asked[0].headers
    assert pauses == []
