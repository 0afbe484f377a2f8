"""S3 and Google Cloud Storage on loopback, as far as reading goes: HEAD, GET with ranges and If-Match; and faults."""

import hashlib
import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

DATE = "Sat, 21 Nov 2026 00:00:00 GMT"


@dataclass
class Bucket:
    """What a server holds, how it misbehaves, and what it was asked."""

    objects: dict[str, bytes] = field(default_factory=dict)
    """By `bucket/key`."""
    faults: dict[str, str] = field(default_factory=dict)
    """By `bucket/key`: a status, `cut` (half of each body), `slow`, `replaced` (after the first look), `huge`, `no-range`."""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Verb, path, range."""
    signed: list[str] = field(default_factory=list)
    """The header `Authorization` of each request."""
    url: str = ""
    needs_key: str | None = None
    """S3: requests that are not signed with this key are refused. The signature itself is not verified."""

    def bodies(self) -> list[str]:
        return [asked for verb, _, asked in self.asked if verb == "GET"]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        bucket: Bucket = self.server.bucket
        parts = urlsplit(self.path)
        name = unquote(parts.path).lstrip("/")
        bucket.asked.append((self.command, name, self.headers.get("range", "")))
        bucket.signed.append(self.headers.get("authorization", ""))
        if bucket.needs_key is not None and not self._signed(bucket.needs_key):
            return self._refuse(403, "AccessDenied")
        fault = bucket.faults.get(name, "")
        if fault.isdigit():
            return self._refuse(int(fault), "Fault")
        if name not in bucket.objects:
            return self._refuse(404, "NoSuchKey")
        if fault == "slow":
            time.sleep(1.5)
        data = bucket.objects[name]
        if fault == "replaced" and self.command == "HEAD":
            bucket.objects[name] = data[::-1]
        return self._object(data, fault)

    do_HEAD = do_GET

    def _signed(self, key: str) -> bool:
        header = self.headers.get("authorization", "")
        return (
            header.startswith(f"AWS4-HMAC-SHA256 Credential={key}/") and "Signature=" in header and "x-amz-date" in self.headers
        )

    def _object(self, data: bytes, fault: str) -> None:
        tag = f'"{hashlib.md5(data).hexdigest()}"'
        if self.headers.get("if-match", tag) != tag:
            return self._refuse(412, "PreconditionFailed")
        asked = self.headers.get("range")
        first, last = 0, len(data) - 1
        if asked and fault != "no-range":
            start, _, end = asked.removeprefix("bytes=").partition("-")
            first, last = int(start), min(int(end), last)
        body = data[first : last + 1]
        self.send_response(206 if asked and fault != "no-range" else 200)
        if asked and fault != "no-range":
            self.send_header("content-range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("etag", tag)
        self.send_header("last-modified", DATE)
        self.send_header("content-length", str(10**15 if fault == "huge" else len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return None
        self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)
        self.close_connection = fault == "cut"
        return None

    def _refuse(self, status: int, code: str) -> None:
        self._xml(status, f"<Error><Code>{code}</Code><Message>SECRET of the endpoint</Message></Error>")

    def _xml(self, status: int, text: str) -> None:
        body = b'<?xml version="1.0" encoding="UTF-8"?>' + text.encode()
        self.send_response(status)
        self.send_header("content-type", "application/xml")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *words):
        pass


@contextmanager
def buckets(needs_key: str | None = None) -> Iterator[Bucket]:
    """A server with nothing in it yet."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.bucket = Bucket(needs_key=needs_key, url=f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.bucket
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def service_account(path: Path, url: str) -> Path:
    """The file of a service account whose storage is an emulator's."""
    empty = dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
    path.write_text(json.dumps({"gcs_base_url": url, "disable_oauth": True, **empty}))
    return path
