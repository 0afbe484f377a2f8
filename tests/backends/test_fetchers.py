"""The guarded fetcher: what it refuses before it connects, and what it does with servers that misbehave."""

import http.server
import threading
from contextlib import contextmanager

import pytest
from sklearn.datasets import load_digits

from luthier.backends.fetchers.built_in import BuiltInFetcher, enlarged
from luthier.backends.fetchers.https import HttpsFetcher
from luthier.backends.outbound import Guard, is_public
from luthier.seams import NotFetched

BODY = b'{"prompt": "a", "completion": "b"}\n' * 100


class _Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status, headers, body = self.server.answers.get(self.path, (404, {}, b""))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


@contextmanager
def serving(answers):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    server.answers = answers
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def fetch(url, *, private=True, most=10**6, redirects=0):
    with HttpsFetcher(Guard(private=private, connect_s=5)).fetch(url, max_bytes=most, redirects=redirects) as file:
        return b"".join(file.chunks)


def refusal(url, **more):
    with pytest.raises(NotFetched) as refused:
        fetch(url, **more)
    return str(refused.value)


def test_a_file_comes_as_it_is():
    with serving({"/a?b=1": (200, {"content-length": str(len(BODY))}, BODY), "/open": (200, {}, BODY)}) as url:
        assert fetch(f"{url}/a?b=1") == fetch(f"{url}/open") == BODY


def test_sizes_ends_and_statuses():
    answers = {
        "/large": (200, {"content-length": "99999999"}, b""),
        "/endless": (200, {}, BODY),
        "/cut": (200, {"content-length": str(len(BODY) + 1)}, BODY),
        "/error": (500, {}, b"no"),
    }
    with serving(answers) as url:
        assert "larger than 1,000 bytes" in refusal(f"{url}/large", most=1000)
        assert "larger than 1,000 bytes" in refusal(f"{url}/endless", most=1000)
        assert "broke off" in refusal(f"{url}/cut")
        assert "status 500" in refusal(f"{url}/error")
        assert "status 404" in refusal(f"{url}/none")
    assert "cannot be reached" in refusal(url)


def test_redirects_are_followed_only_where_that_was_said_and_never_further():
    answers = {f"/{n}": (302, {"location": f"/{n + 1}"}, b"") for n in range(4)} | {"/4": (200, {}, BODY)}
    with serving(answers) as url:
        assert "redirects" in refusal(f"{url}/3")
        assert "redirects" in refusal(f"{url}/0", redirects=3)
        assert fetch(f"{url}/1", redirects=3) == BODY
        guarded = HttpsFetcher(Guard(connect_s=5))
        with pytest.raises(NotFetched, match="only https"), guarded.fetch(url, max_bytes=10, redirects=3):
            pass


PRIVATE = [
    *("127.0.0.1", "localhost", "0.0.0.0", "[::1]", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254"),
    *(
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a00:1]",
        "[fe80::1]",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
    ),
]


@pytest.mark.parametrize("host", PRIVATE)
def test_private_addresses_are_refused_however_they_are_written(host):
    assert refusal(f"https://{host}/a", private=False) in {
        "the server lies in a private network",
        "the name of the server is not known",
    }


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/a",
        "ftp://example.org/a",
        "file:///etc/passwd",
        "gopher://example.org",
        "https://example.org:22/a",
        "https://example.org:0x50/a",
        "https://example.org:99999/a",
        "https://name:word@example.org/a",
        "https:///a",
        "https://example.org/a b",
        "https://example.org/\r\nHost: x",
        "https://ex\u2460ample.org/",
        "https://" + "a" * 5000,
        "https://[::1",
    ],
)
def test_what_is_no_https_address_is_refused(url):
    assert refusal(url, private=False)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"])
def test_public_addresses_are_public(address):
    assert is_public(address)


def test_what_is_no_address_is_not_public():
    assert not is_public("example.org")
    assert not is_public("224.0.0.1")


def built_in(name, most=10**8):
    with BuiltInFetcher().fetch(f"luthier://digits/{name}", max_bytes=most) as file:
        return b"".join(file.chunks)


def test_the_digits_that_are_built_in_are_those_of_scikit_learn_in_the_shape_of_mnist():
    lines = [built_in(name).decode().splitlines() for name in ("train.csv", "test.csv")]
    assert [len(each) for each in lines] == [1494, 305]
    assert lines[0][0] == lines[1][0] == ",".join(["label", *(f"pixel{number}" for number in range(784))])
    ours = sorted([int(number) for number in line.split(",")] for each in lines for line in each[1:])
    images, labels = load_digits(return_X_y=True)
    greys = [enlarged(bytes(int(pixel) * 255 // 16 for pixel in image)) for image in images]
    assert ours == sorted([int(label), *each] for label, each in zip(labels, greys, strict=True))
    assert {line.partition(",")[0] for line in lines[1][1:]} == set("0123456789")


def test_enlarged_digits_keep_their_corners_and_their_mean():
    image = bytearray(64)
    image[0] = 255
    for row in range(2, 6):
        image[row * 8 + 2 : row * 8 + 6] = b"\x80" * 4
    large = enlarged(bytes(image))
    assert (len(large), large[0], large[14 * 28 + 14], large[-1]) == (784, 255, 128, 0)
    assert abs(sum(large) / 784 - sum(image) / 64) < 2


@pytest.mark.parametrize(("name", "most"), [("val.csv", 10**8), ("../train.csv", 10**8), ("test.csv", 1000)])
def test_what_is_not_built_in_or_too_large_is_refused(name, most):
    with pytest.raises(NotFetched):
        built_in(name, most)
