"""Receivers of notifications on loopback: an HTTP server and a mail server that do what a test tells them to."""

from __future__ import annotations

import contextlib
import http.server
import socketserver
import ssl
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Heard:
    """What came, and what is answered. `reply` gets the wire: status, headers and body, or a function of the handler."""

    requests: list = field(default_factory=list)
    reply: object = (200, {}, b"")
    silent: bool = False
    over: threading.Event = field(default_factory=threading.Event)


class _Posts(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        heard = self.server.heard
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        heard.requests.append(({name.lower(): value for name, value in self.headers.items()}, body))
        if heard.silent:
            heard.over.wait(20)
            return
        if callable(heard.reply):
            with contextlib.suppress(OSError):  # whoever asked has left
                heard.reply(self)
            return
        status, headers, answer = heard.reply
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *words):
        pass


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def handle_error(self, *words):
        pass  # a client that gave up in mid-handshake


@contextmanager
def http_server(tls: ssl.SSLContext | None = None):
    """`(port, heard)` of an HTTP server, with TLS where a context is given."""
    with _serving(_Posts, tls) as given:
        yield given


@contextmanager
def _serving(handler, tls):
    server = _Server(("127.0.0.1", 0), handler)
    server.heard, server.tls = Heard(), tls
    if tls is not None and handler is _Posts:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_address[1], server.heard
    finally:
        server.heard.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Mails(socketserver.StreamRequestHandler):
    """As much of SMTP as a relay needs: EHLO, STARTTLS, AUTH, MAIL, RCPT, DATA."""

    def handle(self):
        heard = self.server.heard
        if heard.silent:
            heard.over.wait(20)
            return
        self._say("220 mail.test")
        sender, recipients = "", []
        while line := self.rfile.readline().decode().strip():
            verb, _, rest = line.partition(" ")
            match verb.upper():
                case "EHLO":
                    self._say("250-mail.test\r\n250-STARTTLS\r\n250 AUTH PLAIN")
                case "STARTTLS":
                    self._say("220 go on")
                    self.request = self.server.tls.wrap_socket(self.request, server_side=True)
                    self.setup()
                case "AUTH":
                    heard.requests.append(("auth", rest))
                    self._say("235 in")
                case "MAIL":
                    sender = rest
                    self._say("250 ok")
                case "RCPT":
                    recipients.append(rest)
                    status, _, _ = heard.reply
                    self._say("250 ok" if status == 200 else f"{status} no")
                case "DATA":
                    self._say("354 go on")
                    body = b""
                    while (part := self.rfile.readline()) != b".\r\n":
                        body += part
                    heard.requests.append((sender, recipients, body))
                    self._say("250 taken")
                case "QUIT":
                    self._say("221 bye")
                    return
                case _:
                    self._say("250 ok")

    def finish(self):
        super().finish()
        self.request.close()

    def _say(self, line):
        self.wfile.write(f"{line}\r\n".encode())
        self.wfile.flush()


@contextmanager
def mail_server(tls: ssl.SSLContext | None = None):
    """`(port, heard)` of a mail server; with a context it does STARTTLS."""
    with _serving(_Mails, tls) as given:
        yield given


def drip(handler):
    """An answer of which a byte comes now and then, for ever."""
    while not handler.server.heard.over.is_set():
        handler.wfile.write(b"H")
        time.sleep(0.05)


def flood(handler):
    """An answer without an end."""
    handler.send_response(200)
    handler.end_headers()
    while not handler.server.heard.over.is_set():
        handler.wfile.write(bytes(65536))
