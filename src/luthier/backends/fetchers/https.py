"""Files from https, guarded: only public addresses, the one that was checked is the one that is spoken to, no redirects."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

from luthier.seams import NotFetched

_PORTS = frozenset({443, 8443})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CHUNK_BYTES = 256 * 1024
_MOST_URL = 4096


@dataclass(frozen=True)
class Guard:
    """What a fetch may do."""

    connect_s: float = 10
    """Also for each read: a server that falls silent is left."""
    total_s: float = 1800
    private: bool = False
    """Whether plain http, any port and private addresses are allowed: for a hub in one's own network, and for tests."""


class HttpsFetcher:
    """Fetches one file at a time; safe in threads."""

    def __init__(self, guard: Guard | None = None) -> None:
        self._guard = guard or Guard()
        self._tls = ssl.create_default_context()

    def fetch(self, url: str, *, max_bytes: int, redirects: int = 0) -> Iterator[bytes]:
        """The body of a GET, in pieces. Raises: NotFetched, also on the way."""
        ends = time.monotonic() + self._guard.total_s
        connection, response = self._opened(url, redirects)
        try:
            declared = response.getheader("content-length", "")
            if declared.isdigit() and int(declared) > max_bytes:
                raise NotFetched(f"the file is larger than {max_bytes:,} bytes")
            size = 0
            while chunk := response.read(_CHUNK_BYTES):
                size += len(chunk)
                if size > max_bytes:
                    raise NotFetched(f"the file is larger than {max_bytes:,} bytes")
                if time.monotonic() > ends:
                    raise NotFetched(f"it took longer than {self._guard.total_s:g} s")
                yield chunk
            if declared.isdigit() and size != int(declared):
                raise NotFetched("the connection broke off before the end")
        except (OSError, http.client.HTTPException):
            raise NotFetched("the connection broke off, or fell silent") from None
        finally:
            response.close()
            connection.close()

    def _opened(self, url: str, redirects: int) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection, response = self._asked(url)
        if response.status == 200:
            return connection, response
        location = response.getheader("location")
        response.close()
        connection.close()
        if response.status in _REDIRECTS and location and redirects > 0:
            return self._opened(urljoin(url, location), redirects - 1)
        if response.status in _REDIRECTS:
            raise NotFetched("the server redirects, and redirects are not followed")
        raise NotFetched(f"the server answered with status {response.status}")

    def _asked(self, url: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        parts, port = self._checked(url)
        host = str(parts.hostname)
        address = self._address(host, port)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection = http.client.HTTPConnection(host, port, timeout=self._guard.connect_s)
        try:
            # The address that was checked, and not the name once more: it could mean another one by now.
            plain = socket.create_connection((address, port), timeout=self._guard.connect_s)
            connection.sock = plain
            if parts.scheme == "https":
                connection.sock = self._tls.wrap_socket(plain, server_hostname=host)
            connection.request("GET", path, headers={"accept-encoding": "identity", "user-agent": "luthier"})
            return connection, connection.getresponse()
        except (OSError, http.client.HTTPException):
            connection.close()
            raise NotFetched("the server cannot be reached, or its answer is none") from None

    def _checked(self, url: str) -> tuple[SplitResult, int]:
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            raise NotFetched("this is no address of a file") from None
        if len(url) > _MOST_URL or not url.isascii() or any(character <= " " for character in url) or not parts.hostname:
            raise NotFetched("this is no address of a file")
        if parts.username is not None or parts.password is not None:
            raise NotFetched("an address with a password in it is not fetched")
        if not self._guard.private and (parts.scheme != "https" or port not in _PORTS):
            raise NotFetched("only https on its usual port is fetched")
        if parts.scheme not in {"http", "https"}:
            raise NotFetched("only https is fetched")
        return parts, port

    def _address(self, host: str, port: int) -> str:
        """One address of the host, where all of them are public."""
        try:
            found = {str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
        except (OSError, UnicodeError):
            raise NotFetched("the name of the server is not known") from None
        if not self._guard.private and not all(map(is_public, found)):
            raise NotFetched("the server lies in a private network")
        return sorted(found)[0]


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
        if found in ipaddress.ip_network("64:ff9b::/96"):
            return is_public(str(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)))
    return found.is_global and not found.is_multicast
