"""Row D48 of the catalogue of bad input: which objects of buckets a team may read, and that no spelling leads out of that."""

import pytest

from luthier.datasets.buckets import may_read, of_team, prefixes_of, trouble
from luthier.datasets.sources import Import, Sources
from luthier.errors import Invalid, SetupError

from .test_importing import Files

PREFIXES = prefixes_of("s3://team-data/{tenant_id}/,gs://shared-corpora/")


def allowed(url: str, team: str = "team_a") -> bool:
    return trouble(url) is None and may_read(url, of_team(PREFIXES, team))


@pytest.mark.parametrize(
    "url", ["s3://team-data/team_a/rows.jsonl", "s3://team-data/team_a/2026/Überblick v1 (neu).csv", "gs://shared-corpora/a"]
)
def test_what_lies_below_a_prefix_may_be_read(url):
    assert allowed(url)


@pytest.mark.parametrize(
    "url",
    [
        "s3://other-bucket/a",
        "s3://team-data/team_b/rows.jsonl",
        "s3://team-data/team_ab/rows.jsonl",
        "s3://team-data/team_a",
        "s3://team-data/team_a/",
        "S3://team-data/team_a/x",
        "s3://TEAM-DATA/team_a/x",
        "gs://team-data/team_a/x",
        "s3://shared-corpora/a",
        "s3:///team-data/team_a/x",
        "s3://team-data/team_a/../team_b/x",
        "s3://team-data/team_a/..",
        "s3://team-data/team_a/./x",
        "s3://team-data/team_a//x",
        "s3://team-data//team_a/x",
        "s3://team-data/team_a/%2e%2e/team_b/x",
        "s3://team-data/team_a/%2E%2E%2Fteam_b/x",
        "s3://team-data/team_a\\..\\team_b/x",
        "s3://team-data/team_a/..\\x",
        "s3://team-data/team_a/\uff0e\uff0e/team_b/x",
        "s3://team-data/team_a/\u2024\u2024/team_b/x",
        "s3://team-data/team_a/\u2025/team_b/x",
        "s3://team-data/team_a\uff0fx",
        "s3://team-data/team_a/.\u200b./team_b/x",
        "s3://team-data/team_a/.\u00ad./x",
        "s3://team-data/team_a/x\u0000",
        "s3://team-data/team_a/x\r\nHost: y",
        "s3://team-data/team_a/\u202ex",
        "s3://team-data/team_a/\ud800",
        "s3://team-data/team_a/x?versionId=1",
        "s3://team-data/team_a/x#a",
        "s3://key:secret@team-data/team_a/x",
        "s3://team-data:443/team_a/x",
        "s3://team-data@evil.example/team_a/x",
        "s3://team-data/team_a/" + "a" * 1100,
        "gs://shared-corpora/..",
        "gs://shared-corpora",
    ],
)
def test_d48_nothing_else_may(url):
    assert not allowed(url)


@pytest.mark.parametrize("source", ["s3://other-bucket/a", "gs://other/a", "s3://team-data/team_a/%2e%2e/x"])
def test_d48_a_refusal_names_what_is_allowed_and_asks_nobody(source):
    files = Files({})
    with pytest.raises(Invalid) as refused:
        Sources(files, "https://hub.example", PREFIXES).find("team_a", Import(source=source))
    assert (refused.value.error_code, refused.value.param, files.asked) == ("source", "source", [])
    assert "s3://team-data/team_a/, gs://shared-corpora/" in refused.value.hint
    assert "team_b" not in refused.value.hint


def test_d48_without_a_setting_no_bucket_may_be_read():
    with pytest.raises(Invalid, match="no bucket may be read here") as refused:
        Sources(Files({}), "https://hub.example").find("team_a", Import(source="s3://team-data/team_a/x"))
    assert "LUTHIER_IMPORT_FROM" in refused.value.hint


def test_an_allowed_object_is_what_is_fetched_and_where_it_is_from():
    found = Sources(Files({}), "https://hub.example", PREFIXES).find("team_a", Import(source="s3://team-data/team_a/x/rows.csv"))
    assert (found.errand.url, found.file_name, found.origin) == (
        "s3://team-data/team_a/x/rows.csv",
        "rows.csv",
        "s3://team-data/team_a/x/rows.csv",
    )


@pytest.mark.parametrize(
    "text",
    ["s3://data/ann", "s3://data", "https://data/", "s3://data/../", "s3://data//", "s3://data/{tenant}/", "s3://data/%2e/", "/"],
)
def test_prefixes_that_would_open_more_than_they_say_stop_the_start(text):
    with pytest.raises(SetupError, match="LUTHIER_IMPORT_FROM"):
        prefixes_of(f"gs://good/,{text}")


def test_no_prefixes_are_none():
    assert prefixes_of(" , ") == ()
