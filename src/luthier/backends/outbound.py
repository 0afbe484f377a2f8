"""The one way out to servers that somebody else named: https, only public addresses, and the address that was checked is the
one that is spoken to. No redirect is followed here, and no answer may take longer than `Guard.total_s`.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import queue
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_PORTS = frozenset({443, 8443})
_MOST_URL = 4096
_MOST_ADDRESSES = 3
_NAMES_OF_NO_PUBLIC_HOST = (".localhost", ".local", ".internal", ".home.arpa", ".lan")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# `is_global` of Python 3.11 says yes to all of IPv6 outside of this (site-local addresses and NAT64 prefixes of one's own
# network among it), and to these blocks for protocols and documentation.
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_NOT_SERVERS = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20")))
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII | re.IGNORECASE)

Resolve = Callable[[str, int], list[str]]


class NotReached(Exception):
    """A server may not be asked, or does not answer as it must. `code` is for programs, the words go on where they stand."""

    def __init__(self, code: str, words: str) -> None:
        super().__init__(words)
        self.code = code


def resolve(host: str, port: int) -> list[str]:
    """All addresses of a name, the system's preferred one first. Raises: OSError, UnicodeError."""
    return list(dict.fromkeys(str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))


@dataclass(frozen=True)
class Guard:
    """What may be reached, and how long it may take."""

    connect_s: float = 10
    """Also for each read: a server that falls silent is left."""
    total_s: float = 1800
    private: bool = False
    """Whether plain http, any port and private addresses are allowed: for a hub in one's own network, and for tests."""
    loopback: bool = False
    """The same for this machine only: for development, and for tests."""
    resolve: Resolve = resolve
    tls: ssl.SSLContext | None = None
    """For tests, whose authority nobody knows."""


class Outbound:
    """Asks one server at a time; safe in threads."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._tls = guard.tls or ssl.create_default_context()

    def check(self, url: str) -> None:
        """Whether this may be asked at all, by its form and without asking anybody. Raises: NotReached."""
        self._checked(url)

    @contextmanager
    def asked(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None
    ) -> Generator[http.client.HTTPResponse]:
        """The answer, whatever its status, with its body still to be read. Raises: NotReached, also within the block."""
        ends = time.monotonic() + self._guard.total_s
        parts, port = self._checked(url)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            with closing(self._connected(parts, port, ends)) as opened:
                connection = http.client.HTTPConnection(str(parts.hostname), port)
                connection.sock = _Bounded(opened, ends, self._guard.connect_s)
                connection.request(method, path, body, {"accept-encoding": "identity", "user-agent": "luthier", **headers})
                with closing(connection.getresponse()) as response:
                    yield response
        except TimeoutError:
            raise NotReached("timeout", self._too_long(ends)) from None
        except (OSError, http.client.HTTPException):
            raise NotReached("unreachable", "the server cannot be reached, or its answer broke off") from None

    def _too_long(self, ends: float) -> str:
        return f"it took longer than {self._guard.total_s:g} s" if time.monotonic() >= ends else "the server fell silent"

    def _connected(self, parts: SplitResult, port: int, ends: float) -> socket.socket:
        host = str(parts.hostname)
        addresses = self._addresses(host, port, ends)
        # The addresses that were checked, and not the name once more: it could mean another one by now.
        for last, address in enumerate(addresses, 1 - len(addresses)):
            try:
                plain = socket.create_connection((address, port), timeout=_left(ends, self._guard.connect_s))
            except OSError:
                if last == 0:
                    raise
                continue
            if parts.scheme != "https":
                return plain
            try:
                return self._tls.wrap_socket(plain, server_hostname=host)
            except OSError:
                plain.close()
                raise
        raise OSError("no address")

    def _checked(self, url: str) -> tuple[SplitResult, int]:
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            raise NotReached("bad_url", "this is no address of a server") from None
        if len(url) > _MOST_URL or not url.isascii() or any(character <= " " for character in url) or not parts.hostname:
            raise NotReached("bad_url", "this is no address of a server")
        if parts.username is not None or parts.password is not None:
            raise NotReached("bad_url", "an address with a password in it is not used")
        free = self._guard.private or (self._guard.loopback and _is_loopback(parts.hostname))
        if not free and (parts.scheme != "https" or port not in _PORTS or parts.port == 0):
            raise NotReached("bad_url", "only https is used, on its usual ports (443, 8443)")
        if parts.scheme not in {"http", "https"}:
            raise NotReached("bad_url", "only https is used")
        if not free:
            self._check_host(parts.hostname)
        return parts, port

    def _check_host(self, host: str) -> None:
        """What is private by its look; what a name leads to is seen when it is asked."""
        try:
            ipaddress.ip_address(host)
        except ValueError:
            labels = host.rstrip(".").split(".")
            # `127.1` and `0x7f.1` are addresses to some libraries and names to others.
            if len(labels) == 1 or _NUMBER.fullmatch(labels[-1]) or f".{'.'.join(labels)}".endswith(_NAMES_OF_NO_PUBLIC_HOST):
                raise _private() from None
            return
        if not is_public(host):
            raise _private()

    def _addresses(self, host: str, port: int, ends: float) -> list[str]:
        """Addresses of the host, where all of them may be spoken to."""
        found = self._resolved(host, port, ends)
        if not self._guard.private and not all(
            is_public(each) or (self._guard.loopback and _is_loopback(each)) for each in found
        ):
            raise _private()
        return found[:_MOST_ADDRESSES]

    def _resolved(self, host: str, port: int, ends: float) -> list[str]:
        # The system's resolver takes no time limit: it runs in a thread that nobody waits for longer than allowed.
        answers: queue.SimpleQueue[list[str] | None] = queue.SimpleQueue()

        def look() -> None:
            try:
                answers.put(self._guard.resolve(host, port))
            except (OSError, UnicodeError):
                answers.put(None)

        threading.Thread(target=look, name="resolver", daemon=True).start()
        try:
            found = answers.get(timeout=_left(ends, self._guard.connect_s))
        except queue.Empty:
            raise TimeoutError from None
        if not found:
            raise NotReached("unknown_host", "the name of the server is not known")
        return found


class _Bounded:
    """A socket as http.client needs it, of which no call takes longer than what is left of the whole."""

    def __init__(self, opened: socket.socket, ends: float, each_s: float) -> None:
        self._opened = opened
        self._ends = ends
        self._each_s = each_s

    def sendall(self, data: bytes) -> None:
        self._opened.settimeout(_left(self._ends, self._each_s))
        self._opened.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reading(self._opened, self._ends, self._each_s))

    def close(self) -> None:
        """Whoever opened the socket closes it: http.client would do it while the answer is still being read."""


class _Reading(io.RawIOBase):
    def __init__(self, opened: socket.socket, ends: float, each_s: float) -> None:
        self._opened = opened
        self._ends = ends
        self._each_s = each_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        self._opened.settimeout(_left(self._ends, self._each_s))
        return self._opened.recv_into(buffer)


def _left(ends: float, most: float) -> float:
    """Seconds that a call may take. Raises: TimeoutError where none are left."""
    left = min(ends - time.monotonic(), most)
    if left <= 0:
        raise TimeoutError
    return left


def _private() -> NotReached:
    return NotReached("blocked_address", "the server lies in a private network")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_public(address: str) -> bool:
    """Whether this is an address of the open internet.

    >>> is_public("93.184.216.34"), is_public("169.254.169.254"), is_public("::ffff:10.0.0.1"), is_public("100.64.0.1")
    (True, False, False, False)
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if inner is not None:
            return is_public(str(inner))
        if found in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)))
        if found not in _GLOBAL_UNICAST:
            return False
    return found.is_global and not found.is_multicast and not any(found in network for network in _NOT_SERVERS)
