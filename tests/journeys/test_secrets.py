"""No secret of the settings leaves the process that needs it: a platform full of them, on which everything is refused.

Each has a canary in it. The services that they open repeat what they were told in each refusal, so that an error which
quotes its cause would show it. Then the canaries are looked for in all that is left behind: promise P21.
"""

from __future__ import annotations

import json
import os
import re
import resource
import secrets
import sys
import typing
from pathlib import Path

import httpx
import psutil
import pytest
from pydantic import SecretStr

from luthier.settings import Settings

from .tale_bearers import Mail, TaleBearer, Web

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

OF_THE_MACHINE = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_TOKEN", "GITHUB_TOKEN", "OPENAI_API_KEY")
"""What else a machine's environment holds, and no run needs."""
NEEDED_BY_A_TRAINER = "HF_TOKEN"
"""It fetches bases, also those with a licence to accept."""


def secret_settings() -> set[str]:
    """Settings that hold a secret, or say in which file it is: by their type, else by their name."""
    found = set()
    for name, field in Settings.model_fields.items():
        kinds = set(typing.get_args(field.annotation)) | {field.annotation}
        telling = re.search(r"secret|password|credential|webhook|service_account|(^|_)(api_)?key(_|$)|(^|_)token($|_id$)", name)
        if SecretStr in kinds or (telling and kinds & {str, Path}):
            found.add(name)
    return found


def canary(of: str) -> str:
    return f"canary{of.replace('_', '')}{secrets.token_hex(16)}"


class Kept:
    """The canaries, by the setting or variable that holds each, and how those are set."""

    def __init__(self, web: int, mail: int, folder: Path) -> None:
        of = {name: canary(name) for name in (*secret_settings(), *OF_THE_MACHINE, NEEDED_BY_A_TRAINER)}
        account = folder / "account.json"
        account.write_text(json.dumps({"private_key": of["gcs_service_account"], "client_email": "a@b.c", "private_key_id": "1"}))
        self.of = of
        self.given = {
            "api_key": of["api_key"],
            "gcs_service_account": str(account),
            "jwt_secret": of["jwt_secret"],
            "jwt_secret_before": of["jwt_secret_before"],
            "mlflow_url": f"http://luthier:{of['mlflow_url']}@127.0.0.1:{web}",
            "oidc_client_secret": of["oidc_client_secret"],
            "redis_url": f"redis://:{of['redis_url']}@127.0.0.1:{web}/0",
            "s3_access_key_id": of["s3_access_key_id"],
            "s3_secret_access_key": of["s3_secret_access_key"],
            "slack_webhook": f"http://127.0.0.1:{web}/services/{of['slack_webhook']}",
            "smtp_password": of["smtp_password"],
            "vllm_key": of["vllm_key"],
        }
        self.beside = {
            "import_from": "s3://closed/,gs://closed/",
            "notify_email": "ops@example.org",
            "notify_loopback": "true",
            "oidc_client_id": "luthier",
            "oidc_issuer": f"https://127.0.0.1:{web}",
            "s3_endpoint": f"http://127.0.0.1:{web}",
            "smtp_host": "127.0.0.1",
            "smtp_port": str(mail),
            "smtp_security": "none",
            "smtp_user": "luthier",
            "vllm_base": "luthier/tiny",
            "vllm_url": f"http://127.0.0.1:{web}",
        }

    def environment(self) -> dict[str, str]:
        ours = {f"LUTHIER_{name.upper()}": value for name, value in (self.given | self.beside).items()}
        return ours | {name: self.of[name] for name in (*OF_THE_MACHINE, NEEDED_BY_A_TRAINER)}

    def seen_in(self, data: bytes) -> list[str]:
        return sorted(name for name, value in self.of.items() if value.encode() in data)


@pytest.fixture
def services():
    web, mail = TaleBearer(Web), TaleBearer(Mail)
    yield web, mail
    web.close()
    mail.close()


@pytest.fixture
def core_dumps():
    """The system would let a process dump its core, as many do."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if hard == 0:
        pytest.skip("this system lets nobody dump a core")
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def refused(http: httpx.Client) -> bytes:
    """What the platform says where a service that it asks refuses it."""
    question = {"model": "luthier/tiny", "messages": [{"role": "user", "content": "hi"}]}
    answers = [
        http.get("/health"),
        http.post("/v1/chat/completions", json=question),
        http.post("/api/datasets/import", json={"source": "s3://closed/rows.jsonl", "name": "from-s3"}),
        http.post("/api/datasets/import", json={"source": "gs://closed/rows.jsonl", "name": "from-gs"}),
        http.get("/auth/oidc/login"),
        http.post("/auth/login", json={"email": "ops@example.org", "password": "wrong password"}),
        http.get("/api/billing/usage", headers={"authorization": "Bearer made.up.token"}),
    ]
    return b"".join(answer.content + repr(answer.headers).encode() for answer in answers)


def trained(house, client, tmp_path) -> tuple[str, bytes]:
    """A job of two steps, and what the system shows of its trainer: command line, environment and the size of a core dump."""
    rows = [{"prompt": f"say {number}", "completion": str(number)} for number in range(20)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = {"base_model": "luthier/tiny", "dataset": client.datasets.upload(path, name="rows").id, "train": {"max_steps": 2}}
    job_id = client.jobs.submit(spec).id
    house.wait_until(lambda: house.processes("luthier.training"), "a trainer runs")
    shown = b"".join(shown_of(process) for process in house.processes("luthier.training"))
    house.wait_until(lambda: client.jobs.get(job_id).state in {"succeeded", "failed"}, "the job ends")
    assert client.jobs.get(job_id).state == "succeeded", house.log()
    return job_id, shown


def shown_of(process: psutil.Process) -> bytes:
    of = Path("/proc", str(process.pid))
    return b"".join((of / name).read_bytes() for name in ("cmdline", "environ", "limits"))


def test_each_secret_setting_has_a_canary(tmp_path):
    kept = Kept(1, 2, tmp_path)
    assert set(kept.given) == secret_settings()
    assert {name for name, value in kept.environment().items() if name.startswith("LUTHIER_") and "canary" in value} == {
        f"LUTHIER_{name.upper()}" for name in secret_settings() - {"gcs_service_account"}
    }
    Settings(**kept.given, **kept.beside)


@pytest.mark.usefixtures("core_dumps")
@pytest.mark.skipif(sys.platform != "linux", reason="what a process inherits is read from /proc")
def test_p21_no_secret_is_in_a_log_an_answer_a_job_folder_or_a_trainer(house, services, tmp_path):
    web, mail = services
    kept = Kept(web.port, mail.port, tmp_path)
    client = house.start(**kept.environment())
    key = (house.data / "admin.key").read_text().strip()
    with httpx.Client(base_url=house.url(), headers={"X-API-Key": key}, timeout=60, trust_env=False) as http:
        said = refused(http)
        job_id, shown = trained(house, client, tmp_path)
        told = (b"/services/", b"luthier:canarymlflow", b"canaryredis", b"canarys3access", b"canaryvllm")
        house.wait_until(lambda: all(each in web.heard for each in told) and b"canarysmtp" in mail.heard, "all were asked")
        house.wait_until(lambda: b"could not be mirrored" in logs(house), "MLflow's refusal is noted")
        paths = [f"/api/jobs/{job_id}", f"/api/jobs/{job_id}/logs", f"/api/experiments/mlflow/{job_id}", "/health"]
        answers = [http.get(path) for path in paths]
        assert [answer.status_code for answer in answers] == [200] * len(paths)
        said += b"".join(answer.content for answer in answers)
        limits = shown + b"".join(shown_of(process) for process in house.processes("luthier.server.main"))
    house.stop()
    assert kept.seen_in(said) == []
    assert kept.seen_in(shown) == [NEEDED_BY_A_TRAINER]
    assert {name: kept.seen_in(content) for name, content in left(house.data) if kept.seen_in(content)} == {}
    assert re.findall(rb"Max core file size +(\S+)", limits) == [b"0"] * 3, "a dump of the server's core would hold them all"


def logs(house) -> bytes:
    return b"".join(path.read_bytes() for path in house.data.glob("*.log"))


def left(data: Path):
    """Each file below the data folder, the server's own output among them."""
    for folder, _, names in os.walk(data):
        for name in names:
            path = Path(folder, name)
            if not path.is_symlink() and path.is_file():
                yield str(path.relative_to(data)), str(path).encode() + path.read_bytes()
