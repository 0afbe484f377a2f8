"""The guarded way out: what is refused by its look, what when its name is looked up, and that nothing outlasts its time."""

import socket
import time
from dataclasses import replace

import pytest

from luthier.backends.outbound import Guard, NotReached, Outbound, is_public

from .receivers import drip, http_server

QUICK = Guard(connect_s=0.5, total_s=0.6)

REFUSED = {
    "W01": (
        *("http://a.example", "ftp://a.example", "file:///etc/passwd", "gopher://a.example", "javascript:x", "a.example/in"),
        *("//a.example/in", "https://us:word@a.example/", "https://us@a.example/", "https://"),
    ),
    "W02": [
        f"https://{host}/"
        for host in (
            *("127.0.0.1", "localhost", "LOCALHOST", "x.localhost", "0.0.0.0", "[::1]", "[::]", "10.1.2.3", "172.16.0.1"),
            *("192.168.0.1", "100.64.0.1", "printer", "nas.local"),
        )
    ],
    "W03": [
        f"https://{host}/"
        for host in (
            *("169.254.169.254", "metadata.google.internal", "metadata.google.internal.", "[fd00:ec2::254]"),
            *("[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]", "[2002:a9fe:a9fe::1]", "[::127.0.0.1]", "[fe80::1]"),
            *("[ff02::1]", "[fe80::1%25eth0]", "[fec0::1]", "[64:ff9b:1::a9fe:a9fe]", "[::ffff:0:169.254.169.254]"),
        )
    ],
    "W04": [f"https://{host}/" for host in ("2130706433", "0x7f.1", "0177.0.0.1", "127.1", "①②⑦.0.0.1", "0x7f000001", "a.0x")],
    "W07": [f"https://a.example:{port}/" for port in (22, 25, 80, 6379, 0, 65536, "0x1bb", "-1")],
    "form": [f"https://a.example/{path}" for path in ("a b", "\r\nHost: x", "a" * 4096)] + ["https://[::1"],
}


@pytest.mark.parametrize(("row", "url"), [(row, url) for row, urls in REFUSED.items() for url in urls])
def test_what_is_refused_by_its_look(row, url):
    asked = []
    outbound = Outbound(replace(QUICK, resolve=lambda host, port: asked.append(host) or ["93.184.216.34"]))
    with pytest.raises(NotReached) as refused:
        outbound.check(url)
    assert refused.value.code in {"bad_url", "blocked_address"}
    with pytest.raises(NotReached), outbound.asked("POST", url, headers={}, body=b"{}"):
        pass
    assert asked == []


@pytest.mark.parametrize(
    "url", ["https://a.example", "https://a.example:8443/in?key=1", "https://93.184.216.34/", "https://[2606:4700::1111]:443/"]
)
def test_what_may_be_public_is_not_refused_by_its_look(url):
    Outbound(QUICK).check(url)


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["93.184.216.34", "10.0.0.1"],
        ["::1"],
        ["93.184.216.34", "fd00::1"],
        ["::ffff:192.168.0.1"],
        ["fe80::1%eth0"],
    ],
)
def test_w05_a_name_that_leads_into_a_private_network_is_blocked_and_nothing_is_sent(addresses):
    with http_server() as (_, heard):
        outbound = Outbound(replace(QUICK, resolve=lambda host, port: addresses))
        outbound.check("https://a.example/")
        with pytest.raises(NotReached) as refused, outbound.asked("POST", "https://a.example/", headers={}, body=b"{}"):
            pass
    assert refused.value.code == "blocked_address"
    assert heard.requests == []


def test_w05_the_address_that_was_checked_is_the_one_that_is_spoken_to():
    """A name that means another address at its second look-up (rebinding) gets no second look-up."""
    looks = []

    def changing(host, port):
        looks.append(host)
        return ["127.0.0.1"] if len(looks) == 1 else ["127.0.0.2"]

    with http_server() as (port, heard):
        outbound = Outbound(replace(QUICK, private=True, resolve=changing))
        with outbound.asked("POST", f"http://a.example:{port}/in", headers={}, body=b"{}") as response:
            assert response.status == 200
    assert looks == ["a.example"]
    assert heard.requests[0][0]["host"] == f"a.example:{port}"


def test_an_address_that_does_not_answer_is_not_the_last_one():
    with http_server() as (port, _):
        outbound = Outbound(replace(QUICK, private=True, resolve=lambda host, port: ["127.0.0.9", "127.0.0.1"]))
        with outbound.asked("POST", f"http://a.example:{port}/", headers={}) as response:
            assert response.status == 200


@pytest.mark.parametrize("raised", [socket.gaierror(), UnicodeError()])
def test_a_name_that_nobody_knows(raised):
    def unknown(host, port):
        raise raised

    with (
        pytest.raises(NotReached) as refused,
        Outbound(replace(QUICK, resolve=unknown)).asked("GET", "https://a.example", headers={}),
    ):
        pass
    assert refused.value.code == "unknown_host"


def test_a_resolver_that_hangs_is_left():
    def hanging(host, port):
        time.sleep(8)
        return ["93.184.216.34"]

    began = time.monotonic()
    with (
        pytest.raises(NotReached) as refused,
        Outbound(replace(QUICK, resolve=hanging)).asked("GET", "https://a.example", headers={}),
    ):
        pass
    assert refused.value.code == "timeout"
    assert time.monotonic() - began < 6  # 0.6 s, on a machine that has time for it


def test_w08_a_server_that_sends_a_byte_now_and_then_is_left_when_the_time_is_over():
    with http_server() as (port, heard):
        heard.reply = drip
        began = time.monotonic()
        with (
            pytest.raises(NotReached) as refused,
            Outbound(replace(QUICK, private=True)).asked("POST", f"http://127.0.0.1:{port}/", headers={}) as response,
        ):
            response.read()
    assert refused.value.code == "timeout"
    assert time.monotonic() - began < 6  # 0.6 s, on a machine that has time for it


def test_loopback_is_open_only_where_that_was_said_and_nothing_else_is():
    outbound = Outbound(replace(QUICK, loopback=True))
    for url in ("http://127.0.0.1:9/", "http://localhost:9/", "http://[::1]:9/", "https://a.example/"):
        outbound.check(url)
    for url in (
        "http://a.example/",
        "http://10.0.0.1:9/",
        "https://169.254.169.254/",
        "https://a.example:22/",
        "ftp://127.0.0.1/",
    ):
        with pytest.raises(NotReached):
            outbound.check(url)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8", "2002:808:808::1"])
def test_public_addresses_are_public(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("a.example", "", "224.0.0.1", "255.255.255.255", "192.0.2.1", "192.0.0.8", "192.88.99.1", "198.18.0.1", "240.0.0.1"),
        *("2001:db8::1", "3fff::1", "5f00::1", "4000::1", "::"),
    ],
)
def test_what_is_not_of_the_open_internet_is_not_public(address):
    assert not is_public(address)
