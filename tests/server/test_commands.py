"""What an admin does on a data folder: bases, doctor, reindex, a supervisor by hand."""

import json
import os
import signal
import sqlite3
import subprocess
import sys

import pytest

from luthier.database import Database
from luthier.datasets.types import Upload
from luthier.jobs.presence import Presence
from luthier.jobs.spec import RunSpec
from luthier.migrations import HEAD, upgrade
from luthier.registry.types import Finished
from luthier.server.doctor import examine
from luthier.server.locks import FolderLock
from luthier.settings import Settings
from luthier.wiring import build

pytestmark = pytest.mark.timeout(180)


def findings(data, *names: str) -> dict:
    return {finding.what: finding for finding in examine(Settings(data=data), *names)}


@pytest.fixture
def data(tmp_path):
    database = Database(tmp_path / "luthier.db")
    upgrade(database)
    database.close()
    return tmp_path


def test_bases_are_listed_with_their_sizes(server):
    output, _ = server.command("bases", "list").communicate(timeout=60)
    assert "luthier/tiny" in output
    assert "not fetched yet" in output
    output, _ = server.command("bases", "list", "--json").communicate(timeout=60)
    assert json.loads(output)[0]["parameters"] == 2607168


def test_a_base_that_is_not_allowed_is_not_fetched(server):
    process = server.command("bases", "fetch", "../../etc/passwd")
    output, said = process.communicate(timeout=60)
    assert (process.returncode, output) == (1, "")
    assert "luthier/tiny" in said
    assert "Traceback" not in said


def test_a_base_that_is_here_needs_no_fetch(server):
    folder = server.data / "bases" / "luthier--tiny" / "1"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}", "utf-8")
    (folder / "model.safetensors").write_bytes(b"weights")
    output, said = server.command("bases", "fetch", "luthier/tiny", "--json").communicate(timeout=120)
    assert json.loads(output) == {"base": "luthier/tiny", "folder": str(folder)}, said


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached_is_named_and_so_is_the_way_out(server):
    process = server.command("bases", "fetch", "smollm2-135m", LUTHIER_HUB_URL="http://127.0.0.1:9")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "luthier/tiny" in said
    assert "Traceback" not in said


def test_a_sound_folder_is_reported_as_sound(data):
    found = findings(data)
    assert {name for name, finding in found.items() if not finding.ok} <= {"memory", "disk"}  # of this machine
    assert f"revision {HEAD}" in found["database"].found
    assert all(finding.mend is None for finding in found.values() if finding.ok)


def test_an_empty_place_is_no_fault(tmp_path):
    found = findings(tmp_path / "not-there-yet", "data folder", "disk", "database")
    assert found["data folder"].ok
    assert "database" not in found
    assert not (tmp_path / "not-there-yet").exists()


def test_a_key_that_others_can_read_must_be_mended(data):
    key = data / "admin.key"
    key.write_text("lk_x", "utf-8")
    key.chmod(0o644)
    assert "chmod 600" in findings(data, "admin key")["admin key"].mend
    key.chmod(0o600)
    assert findings(data, "admin key")["admin key"].ok


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b""])
def test_a_broken_database_must_be_mended(data, content):
    for path in data.glob("luthier.db*"):
        path.unlink()
    (data / "luthier.db").write_bytes(content)
    assert "luthier reindex" in findings(data, "database")["database"].mend


def test_a_database_of_a_newer_version_is_told(data):
    connection = sqlite3.connect(data / "luthier.db")
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    assert "newer" in findings(data, "database")["database"].found


def test_folders_without_a_row_are_counted(data):
    for name in ("jobs/job_1", "models/model_1", "models/model_2"):
        (data / "users/team_1" / name).mkdir(parents=True)
    finding = findings(data, "folders")["folders"]
    assert "3 of jobs and models, 3 without a row" in finding.found
    assert "luthier reindex" in finding.mend


def test_a_server_without_its_supervisor_must_be_looked_at(data):
    lock = FolderLock(data, "server")
    assert lock.take()
    held = FolderLock(data, "supervisor")
    try:
        assert not findings(data, "supervisor")["supervisor"].ok
        assert held.take()
        assert findings(data, "supervisor")["supervisor"].ok
    finally:
        lock.release()
        held.release()


def test_the_doctor_removes_the_locks_of_supervisors_that_died_over_an_hour_ago(data):
    folder = data / "supervisors"
    living = Presence(folder)
    for name in ("sup_old.lock", "sup_new.lock"):
        (folder / name).touch()
    for name in ("sup_old.lock", f"{living.owner.rpartition('/')[2]}.lock"):
        os.utime(folder / name, (0, 0))
    assert findings(data, "supervisors")["supervisors"].found == "1 alive; the locks of 1 that died were removed"
    assert not (folder / "sup_old.lock").exists()
    assert (folder / "sup_new.lock").exists()
    assert living.alive(living.owner)
    living.close()
    assert findings(data, "supervisors")["supervisors"].found == "0 alive"


@pytest.mark.parametrize(
    ("given", "found", "mends"),
    [
        ({"warm_trainers": 0}, "off", False),
        ({"warm_trainers": 2, "warm_idle_s": 60, "warm_memory_mb": 512}, "2 after each job, for 60 s", False),
        ({"warm_trainers": 1, "warm_memory_mb": 2**40}, "none now: ", True),
    ],
)
def test_the_doctor_says_whether_trainers_are_kept_ready(data, given, found, mends):
    (finding,) = examine(Settings(data=data, **given), "warm trainers")
    assert finding.found.startswith(found)
    assert finding.ok  # without one a job starts later, and that is all
    assert (finding.mend is not None) == mends


def test_the_doctor_changes_nothing(data):
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*.db")}
    findings(data, "database", "admin key", "supervisor", "folders")
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*.db")} == before


def test_the_doctor_says_by_its_exit_status_whether_something_must_be_mended(server):
    server.data.mkdir()
    (server.data / "luthier.db").write_bytes(b"broken" * 1000)
    process = server.command("doctor", "--json")
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 1
    assert [finding["ok"] for finding in json.loads(output) if finding["what"] == "database"] == [False]


def test_reindex_works_on_a_folder_without_a_database_and_makes_an_admin(server):
    process = server.command("reindex", "--json")
    output, said = process.communicate(timeout=60)
    assert json.loads(output) == {"jobs": 0, "models": 0}, said
    assert (server.data / "admin.key").stat().st_mode & 0o777 == 0o600


def test_a_lost_database_loses_neither_jobs_nor_models(server, prepared):
    platform, admin = prepared
    rows = b"".join(b'{"prompt": "say %d", "completion": "%d"}\n' % (number, number) for number in range(20))
    dataset = platform.datasets.upload(admin, Upload([rows], name="numbers"))
    spec = RunSpec(base_model="luthier/tiny", dataset=dataset.id, name="numbers")
    job = platform.jobs.submit(admin, spec).job
    frozen = RunSpec.model_validate_json(platform.storage.read(f"users/{admin.tenant_id}/jobs/{job.id}/run.yaml"))
    results = f"users/{admin.tenant_id}/jobs/{job.id}/attempts/1/results"
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        platform.storage.write(f"{results}/final_model/{name}", b"{}")
    model = platform.registry.register(Finished(admin.tenant_id, admin.user_id, job.id, frozen, results))
    platform.close()
    for path in server.data.glob("luthier.db*"):
        path.unlink()

    output, said = server.command("reindex", "--json").communicate(timeout=60)
    assert json.loads(output) == {"jobs": 1, "models": 1}, said
    again = build(Settings(data=server.data))
    owner = again.accounts.authenticate(server.key())
    assert owner.tenant_id == admin.tenant_id
    assert again.registry.get(owner, model.id) == model
    assert again.jobs.get(owner, job.id).name == "numbers"
    again.close()


def test_reindex_is_refused_while_a_server_works(server):
    lock = FolderLock(server.data, "server")
    assert lock.take()
    process = server.command("reindex")
    _, said = process.communicate(timeout=60)
    lock.release()
    assert process.returncode == 78
    assert "Stop it" in said


@pytest.mark.parametrize(("folder", "words"), [(False, "File exists"), (True, "file is not a database")])
def test_an_error_that_nobody_foresaw_is_one_line(server, folder, words):
    if folder:
        server.data.mkdir()
        (server.data / "luthier.db").write_bytes(b"not a database" * 1000)
    else:
        server.data.write_text("a file", "utf-8")
    process = server.command("reindex")
    output, said = process.communicate(timeout=60)
    assert (process.returncode, output) == (1, "")
    assert words in said
    assert said.startswith("Error: ")
    assert len(said.splitlines()) == 1, said


def test_supervisors_by_hand_may_be_many_and_end_on_a_signal(server):
    processes = [server.command("supervise") for _ in range(2)]
    server.until(lambda: len(list((server.data / "supervisors").glob("*.lock"))) == 2, "both work")
    for process in processes:
        os.kill(process.pid, signal.SIGTERM)
    assert [process.communicate(timeout=60) and process.returncode for process in processes] == [0, 0]
    assert list((server.data / "supervisors").glob("*.lock")) == []


def test_a_lock_is_free_when_its_holder_was_killed(tmp_path, server):
    script = (
        "import sys, pathlib, time; from luthier.server.locks import FolderLock; "
        "print(FolderLock(pathlib.Path(sys.argv[1]), 'x').take(), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        assert FolderLock(tmp_path, "x").held_by_another()
        holder.kill()
        holder.wait()
    assert FolderLock(tmp_path, "x").take()


def test_e07_a_price_file_that_lacks_hardware_stops_the_start(server, tmp_path):
    file = tmp_path / "prices.json"
    file.write_text('[{"hardware": "A100", "hourly_usd": "9.50"}]', "utf-8")
    process = server.command("up", "--port", "0", LUTHIER_PRICES=str(file))
    _, said = process.communicate(timeout=60)
    assert process.returncode == 78
    assert "LUTHIER_PRICES: no price for" in said
    assert "Traceback" not in said
