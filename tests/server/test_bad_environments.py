"""The catalogue of bad environments: no start, exit status 78, and one line that names what is wrong and repeats no secret."""

import os
import socket
import stat
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from luthier.errors import SetupError
from luthier.server import ground
from luthier.server.first import first_start
from luthier.server.locks import FolderLock
from luthier.server.main import main
from luthier.settings import Settings
from luthier.wiring import build

IN_CATALOGUE = {f"E{n:02}" for n in range(1, 13)}
ELSEWHERE = {
    "E03": "starts: `test_e03_a_wrong_redis_is_told_by_health`",
    "E07": "tests/server/test_commands.py: `LUTHIER_PRICES`, with a file that lacks hardware or has a price of 0",
    "E09": "starts: `test_e09_what_is_written_is_the_owners_alone_in_any_locale_and_umask`",
    "E10": "starts: `test_e10_a_clock_that_was_never_set_is_told`",
}
SECRET = "SeCrEt"
BUDGETS = ("1e3", "-5", "NaN", "$100", "1,000", "inf")
NOT_OFFERED = ("CORS_ORIGINS", "DEBUG", "MLFLOW_HOST", "RAY_DASHBOARD_HOST")
"""What other servers let be set to something open: here there is no such thing."""

CASES = [
    *(("E01", "LUTHIER_JWT_SECRET", secret) for secret in ("", "x" * 31, "a" * 64, "changeme" * 8)),
    *(("E02", "LUTHIER_DATABASE_URL", url) for url in ("", "mongodb://db", "postgresql://luthier@db/luthier")),
    ("E04", "LUTHIER_DATA", "/proc/nothing/here"),
    ("E04", "LUTHIER_DATA", "/dev/null"),
    *(("E05", "LUTHIER_PORT", port) for port in ("-1", "70000", "http")),
    *(("E05", "LUTHIER_SLOTS", slots) for slots in ("0", "-1", "two")),
    *(("E06", "LUTHIER_BUDGET_LIMIT_USD", amount) for amount in BUDGETS),
    *(("E06", "BUDGET_LIMIT_USD", amount) for amount in BUDGETS),
    ("E08", "LUTHIER_PORTT", "1"),
    *(("E11", f"LUTHIER_{name}", "*") for name in NOT_OFFERED),
    ("E12", "LUTHIER_REDIS_URL", f"nonsense://:{SECRET}@cache"),
    ("E12", "LUTHIER_JWT_SECRET", SECRET),
]


@pytest.fixture
def started(tmp_path, monkeypatch, capsys):
    """`luthier up` with a variable more: its exit status and what it said."""

    def start(name: str, value: str) -> tuple[int, str]:
        before = os.umask(0o022)
        monkeypatch.setenv("LUTHIER_DATA", str(tmp_path / "data"))
        monkeypatch.setenv("LUTHIER_PORT", "0")
        monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["luthier", "up"])
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            os.umask(before)
        return ended.value.code, capsys.readouterr().err

    return start


@pytest.mark.parametrize(("name", "value"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_bad_environment_is_refused_by_the_name_of_its_variable(started, name, value):
    status, said = started(name, value)
    assert status == 78, said
    assert name.removeprefix("LUTHIER_") in said
    assert len(said.strip().splitlines()) == 1
    assert SECRET not in said


def test_every_row_of_the_catalogue_has_a_case():
    assert {case[0] for case in CASES} | set(ELSEWHERE) == IN_CATALOGUE
    assert not {case[0] for case in CASES} & set(ELSEWHERE)


def test_a_second_server_on_a_folder_is_refused(started, tmp_path):
    """E02. On this host by the kernel's lock; folders that another host can have, `ground.prepare` refuses for each of them."""
    first = FolderLock(tmp_path / "data", "server")
    assert first.take()
    status, said = started("LUTHIER_DATA", str(tmp_path / "data"))
    first.release()
    assert (status, "Another `luthier up` serves this data folder." in said) == (78, True)


@pytest.mark.parametrize(
    "kind", ["nfs4", "cifs", "ceph", "fuse.ceph-fuse", "lustre", "gpfs", "fuse.glusterfs", "ocfs2", "fuse.gcsfuse"]
)
def test_a_folder_that_another_host_may_have_too_is_refused(kind):
    assert kind in ground.SHARED


def test_a_port_in_use_is_refused(started):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        status, said = started("LUTHIER_PORT", str(taken.getsockname()[1]))
    assert status == 78
    assert "--port" in said


def test_a_network_filesystem_is_known_by_the_deepest_mount_and_refused(tmp_path, monkeypatch):
    mounts = [("/", "ext4"), ("/srv", "nfs4"), ("/srv/disk", "xfs"), ("/srv/disk", "nfs")]
    assert ground.filesystem(Path("/srv/data"), mounts) == "nfs4"
    assert ground.filesystem(Path("/srv/disk/data"), mounts) == "nfs"
    assert ground.filesystem(Path("/srvdata"), mounts) == "ext4"
    ground.prepare(tmp_path / "data")
    monkeypatch.setattr(ground, "SHARED", {ground.filesystem(tmp_path, _mounts())})
    with pytest.raises(SetupError, match=r"LUTHIER_DATA.*network filesystem"):
        ground.prepare(tmp_path / "data")


def _mounts():
    lines = Path("/proc/self/mounts").read_text("utf-8").splitlines()
    return [(line.split()[1], line.split()[2]) for line in lines]


def test_e10_a_clock_that_was_never_set_is_told():
    assert "1970-01-01" in ground.clock_warning(datetime(1970, 1, 1, tzinfo=UTC))
    assert ground.clock_warning(ground.BUILT) is None


def test_no_setting_shows_its_secret(tmp_path):
    secret = "SeCrEt-of-thirty-two-bytes-0123456789"
    names = ("jwt_secret", "redis_url", "smtp_password", "s3_secret_access_key", "oidc_client_secret", "slack_webhook", "api_key")
    settings = Settings(data=tmp_path, **dict.fromkeys(names, secret))
    assert secret not in repr(settings) + str(settings)


def test_e03_a_wrong_redis_is_told_by_health(tmp_path):
    from fastapi.testclient import TestClient

    from luthier.faces.rest.app import create_app

    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        url = f"redis://:SeCrEt@127.0.0.1:{nobody.getsockname()[1]}/0"
        platform = build(Settings(data=tmp_path / "data", redis_url=url))
        first_start(platform)
        key = (tmp_path / "data" / "admin.key").read_text("utf-8").strip()
        client = TestClient(create_app(platform))
        health = client.get("/health")
        assert client.get("/api/jobs", headers={"x-api-key": key}).status_code == 200
        platform.close()
    assert health.status_code == 200
    assert (health.json()["status"], health.json()["request_limits"]) == ("degraded", "degraded")
    assert SECRET not in health.text


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_e09_what_is_written_is_the_owners_alone_in_any_locale_and_umask(server, get):
    before = os.umask(0)
    try:
        server.process = server.command("up", "--port", "0", TZ="Asia/Kathmandu", LANG="C", LC_ALL="C", HOME="/nonexistent")
        server.until(lambda: server.facts().get("url"), "it is ready")
    finally:
        os.umask(before)
    url = server.facts()["url"]
    assert get(url, "/health").status_code == 200
    assert get(url, "/api/me", server.key()).status_code == 200
    server.until(server.supervisors, "the supervisor works")
    server.stop()
    files = [path for path in server.data.rglob("*") if not path.is_symlink()]
    assert files
    assert [path for path in files if stat.S_IMODE(path.stat().st_mode) & 0o077] == []
