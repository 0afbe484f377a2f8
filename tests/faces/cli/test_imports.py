"""`dataset import s3://...` and `gs://...` from the terminal to a storage on loopback that speaks their protocols; `download`."""

import json

import pytest

from ...backends.bucket_servers import buckets, service_account
from ..rest.conftest import World
from .conftest import serving

KEY = ("AKIDEXAMPLE", "very-secret-word")
ROWS = "".join(json.dumps({"prompt": f"{n} + 1 =", "completion": f" {n + 1}"}) + "\n" for n in range(200)).encode()


@pytest.fixture
def s3():
    with buckets(needs_key=KEY[0]) as server:
        server.objects |= {"team-data/open/sums.jsonl": ROWS, "team-data/secret/sums.jsonl": ROWS}
        yield server


@pytest.fixture
def gcs():
    with buckets() as server:
        server.objects["corpora/sums.jsonl"] = ROWS
        yield server


@pytest.fixture
def world(s3, gcs, terminal, tmp_path):
    settings = {
        "import_from": "s3://team-data/open/,s3://team-data/{tenant_id}/,gs://corpora/",
        "s3_endpoint": s3.url,
        "s3_access_key_id": KEY[0],
        "s3_secret_access_key": KEY[1],
        "gcs_service_account": service_account(tmp_path / "account.json", gcs.url),
        "inline_upload_bytes": 1000,
    }
    with serving(World(tmp_path / "data", **settings), terminal) as world:
        yield world


@pytest.mark.parametrize("source", ["s3://team-data/open/sums.jsonl", "gs://corpora/sums.jsonl"])
def test_an_object_is_fetched_checked_and_named(world, terminal, source):
    ended = terminal("dataset", "import", source)
    assert (ended.code, ended.out.startswith("ds_"), "It is being fetched" in ended.err) == (0, True, True)
    made = terminal("dataset", "show", ended.out.strip(), "--json").json
    assert (made["name"], made["rows"], made["arriving"], made["report"]["origin"]) == ("sums", 200, None, source)


def test_the_folder_of_a_team_is_its_own(world, terminal, s3):
    s3.objects[f"team-data/{world.actor.tenant_id}/sums.jsonl"] = ROWS
    assert terminal("dataset", "import", f"s3://team-data/{world.actor.tenant_id}/sums.jsonl").code == 0
    refused = terminal("dataset", "import", f"s3://team-data/{world.stranger.tenant_id}/sums.jsonl")
    assert refused.code == 1
    assert f"s3://team-data/open/, s3://team-data/{world.actor.tenant_id}/, gs://corpora/" in " ".join(refused.err.split())


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("403", "does not let the platform read it"),
        ("404", "there is no such object"),
        ("replaced", "the object was replaced while it was read"),
        ("cut", "its answer broke off"),
    ],
)
def test_what_breaks_off_says_why_and_is_never_listed(world, terminal, s3, fault, told):
    s3.faults["team-data/open/sums.jsonl"] = fault
    ended = terminal("dataset", "import", "s3://team-data/open/sums.jsonl")
    assert (ended.code, told in " ".join(ended.err.split())) == (1, True)
    assert "SECRET" not in ended.err + ended.out
    assert terminal("dataset", "list", "--json").json["data"] == []


def test_nothing_of_the_platforms_key_is_shown_or_logged(world, terminal, s3, caplog):
    s3.needs_key = "another"
    ended = terminal("dataset", "import", "s3://team-data/open/sums.jsonl", "--json")
    assert not any(word in ended.err + ended.out + caplog.text for word in KEY)
    assert KEY[1] not in repr(world.platform.settings)


def test_rows_are_written_as_they_were_understood(world, terminal, tmp_path):
    made = terminal("dataset", "import", "gs://corpora/sums.jsonl", "--name", "a").out.strip()
    kept = tmp_path / "kept.jsonl"
    assert terminal("dataset", "download", made, "--format", "jsonl", "-o", str(kept)).code == 0
    assert [json.loads(line)["prompt"] for line in kept.read_text().splitlines()] == [f"{n} + 1 =" for n in range(200)]
    assert terminal("dataset", "download", made, "-o", str(tmp_path / "raw")).code == 0
    assert (tmp_path / "raw").read_bytes() == ROWS
    assert terminal("dataset", "download", made, "--format", "csv", "-o", str(tmp_path / "x")).code == 2
