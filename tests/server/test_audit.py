"""`luthier audit`: the commands of the page that explains them, run."""

import csv
import io
import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from luthier import ids, wiring
from luthier.accounts.deeds import Act, Deed
from luthier.backends.engines.echo import EchoEngine
from luthier.server.main import app
from luthier.settings import Settings

PAGE = Path(__file__).parents[2] / "docs/how-to/verify-the-audit-log.md"
TEAM = ids.new(ids.TENANT)


@pytest.fixture
def data(tmp_path):
    platform = wiring.build(Settings(data=tmp_path / "data"), engine=EchoEngine())
    for actor in ("=HYPERLINK(1)", "alice", "bob"):
        platform.audit.answered(Deed(lambda actor=actor: Act("jobs.submit", actor, TEAM)), 200, None)
    platform.close()
    return tmp_path / "data"


def run(*words):
    return CliRunner().invoke(app, ["audit", *words])


def test_the_commands_of_the_page_work(data):
    head = run("verify", "--data", str(data)).stdout.split("head ")[1].strip()
    commands = re.findall(r"^luthier audit (.*)$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        done = run(*shlex.split(command.replace("DATA", str(data)).replace("HEAD", head)))
        assert (done.exit_code, done.stderr) == (0, ""), command


def test_a_row_that_was_changed_ends_with_status_1(data):
    import sqlite3

    with sqlite3.connect(data / "luthier.db") as connection:
        connection.execute("DROP TRIGGER audit_as_written")
        connection.execute("UPDATE audit SET actor = 'mallory' WHERE actor = 'bob'")
    done = run("verify", "--data", str(data))
    assert done.exit_code == 1
    assert "was changed" in done.stderr
    assert "hold" not in done.stdout
    assert json.loads(run("verify", "--data", str(data), "--json").stdout)["faults"] != []


def test_an_export_is_read_back_and_runs_nothing_in_a_spreadsheet(data):
    lines = [json.loads(line) for line in run("export", "--data", str(data)).stdout.splitlines()]
    assert sorted(line["actor"] for line in lines if line["tenant_id"] == TEAM) == ["=HYPERLINK(1)", "alice", "bob"]
    table = list(csv.DictReader(io.StringIO(run("export", "--data", str(data), "--format", "csv").stdout)))
    assert sorted(row["actor"] for row in table if row["tenant_id"] == TEAM) == ["'=HYPERLINK(1)", "alice", "bob"]
    assert run("export", "--data", str(data), "--from", "2099-01-01").stdout == ""


def test_an_export_takes_days_and_moments_of_any_zone_and_the_names_of_the_other_search(data):
    def found(*words):
        return len(run("export", "--data", str(data), *words).stdout.splitlines())

    everything = found()
    assert everything > 2
    assert found("--since", "2020-01-01", "--until", "2099-01-01T00:00:00Z") == everything
    assert found("--to", "2020-01-01T12:00:00+05:30") == found("--from", "2099-01-01T00:00:00") == 0
    for wrong in ("yesterday", "20260101", "2026-13-01"):
        assert "2026-11-01 (its beginning)" in str(run("export", "--data", str(data), "--from", wrong).exception)


def test_an_export_names_the_row_that_it_cannot_read_and_has_all_others(data):
    import sqlite3

    with sqlite3.connect(data / "luthier.db") as connection:
        connection.execute("DROP TRIGGER audit_as_written")
        connection.execute("UPDATE audit SET at = 'x' WHERE actor = 'bob'")
    done = run("export", "--data", str(data))
    assert done.exit_code == 1
    assert re.fullmatch(rf"BAD  {TEAM}: row aud_\w+ is left out: it was changed, and cannot be read\n", done.stderr)
    assert {json.loads(line)["actor"] for line in done.stdout.splitlines()} == {"=HYPERLINK(1)", "alice", "system"}


def test_what_cannot_be_is_refused_and_nothing_is_made(tmp_path, data):
    assert "no database" in str(run("verify", "--data", str(tmp_path / "none")).exception)
    assert not (tmp_path / "none").exists()
    for head in ("12", "0:" + "a" * 64, "1:" + "x" * 64, "9" * 5000 + ":" + "a" * 64):
        assert "number:sha256" in str(run("verify", "--data", str(data), "--head", head).exception)
    assert run("export", "--data", str(data), "--format", "xml").exit_code == 2
