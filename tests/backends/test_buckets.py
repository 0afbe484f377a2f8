"""Objects of S3 and GCS over their real protocols, from servers on loopback. Real AWS and Google were never asked."""

import sys

import pytest

from luthier.backends.fetchers.buckets import BucketAccess, BucketFetcher, BucketPace
from luthier.backends.fetchers.by_scheme import BySchemeFetcher
from luthier.seams import NotFetched

from .bucket_servers import buckets, service_account

DATA = bytes(range(256)) * 40
KEY = ("AKIDEXAMPLE", "very-secret-word")
FAST = BucketPace(connect_s=1, request_s=1, range_bytes=4096, retries=1)


@pytest.fixture
def s3():
    with buckets(needs_key=KEY[0]) as server:
        server.objects["team-data/ann/rows ü.jsonl"] = DATA
        yield server


@pytest.fixture
def gcs():
    with buckets() as server:
        server.objects["team-data/ann/rows ü.jsonl"] = DATA
        yield server


@pytest.fixture(params=["s3", "gs"])
def storage(request, s3, gcs, tmp_path):
    """Either server, the fetcher that reads it, and an address in it."""
    access = BucketAccess(s3.url, s3_key=KEY, gcs_service_account=service_account(tmp_path / "account.json", gcs.url))
    return (s3 if request.param == "s3" else gcs), BucketFetcher(access, FAST), f"{request.param}://team-data/ann/rows ü.jsonl"


def fetch(fetcher, url, most=10**6):
    with fetcher.fetch(url, max_bytes=most) as file:
        return file.size, b"".join(file.chunks)


def refusal(fetcher, url, most=10**6):
    with pytest.raises(NotFetched) as refused:
        fetch(fetcher, url, most)
    assert refused.value.__cause__ is None
    assert not any(word in str(refused.value) for word in ("SECRET", KEY[0], KEY[1], "127.0.0.1"))
    return str(refused.value)


def test_an_object_comes_in_ranges_of_one_version_and_its_size_first(storage):
    server, fetcher, url = storage
    assert fetch(fetcher, url) == (len(DATA), DATA)
    assert [verb for verb, _, _ in server.asked] == ["HEAD", "GET", "GET", "GET"]
    assert server.bodies() == ["bytes=0-4095", "bytes=4096-8191", "bytes=8192-10239"]


def test_an_empty_object_is_only_looked_at(storage):
    server, fetcher, url = storage
    server.objects["team-data/ann/rows ü.jsonl"] = b""
    assert fetch(fetcher, url) == (0, b"")
    assert server.bodies() == []


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("403", "does not let the platform read it"),
        ("404", "no such object"),
        ("500", "cannot be reached, or its answer broke off"),
        ("cut", "cannot be reached, or its answer broke off"),
        ("slow", "cannot be reached, or its answer broke off"),
        ("no-range", "cannot be reached, or its answer broke off"),
        ("replaced", "the object was replaced while it was read"),
        ("huge", "larger than 1,000,000 bytes"),
    ],
)
def test_what_goes_wrong_is_told_in_our_words(storage, fault, told):
    server, fetcher, url = storage
    server.faults["team-data/ann/rows ü.jsonl"] = fault
    assert told in refusal(fetcher, url)


def test_an_object_that_is_too_large_is_not_begun(storage):
    server, fetcher, url = storage
    assert "larger than 1,000 bytes" in refusal(fetcher, url, most=1000)
    assert server.bodies() == []


def test_an_endpoint_that_is_not_there(storage, tmp_path):
    gone = "http://127.0.0.1:9"
    access = BucketAccess(gone, s3_key=KEY, gcs_service_account=service_account(tmp_path / "gone.json", gone))
    assert "cannot be reached" in refusal(BucketFetcher(access, FAST), storage[2])


def test_s3_is_asked_with_the_platforms_key_whatever_the_environment_says(s3, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AMBIENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "ambient-secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "ambient-token")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    assert fetch(BucketFetcher(BucketAccess(s3.url, s3_key=KEY), FAST), "s3://team-data/ann/rows ü.jsonl")[1] == DATA


def test_without_a_key_nothing_ambient_is_used_unless_that_is_allowed(s3, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY[1])
    url = "s3://team-data/ann/rows ü.jsonl"
    assert "does not let" in refusal(BucketFetcher(BucketAccess(s3.url), FAST), url)
    assert set(s3.signed) == {""}
    assert fetch(BucketFetcher(BucketAccess(s3.url, ambient=True), FAST), url)[1] == DATA


def test_a_service_account_that_cannot_be_read(tmp_path):
    assert "cannot be read; your admin" in refusal(
        BucketFetcher(BucketAccess(gcs_service_account=tmp_path / "none.json")), "gs://b/k"
    )


def test_no_secret_shows_in_a_repr():
    assert KEY[1] not in repr(BucketAccess(s3_key=KEY)) + repr(BucketFetcher(BucketAccess(s3_key=KEY)))


def test_a_server_without_the_client_says_how_it_is_installed(s3, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    assert 'pip install "luthier[cloud]"' in refusal(BucketFetcher(BucketAccess(s3.url)), "s3://team-data/x")


def test_a_scheme_that_nobody_fetches():
    with pytest.raises(NotFetched, match="nothing here"):
        BySchemeFetcher({}).fetch("ftp://a/b", max_bytes=1)
