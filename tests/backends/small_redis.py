"""The part of Redis that a cache speaks to, over its own protocol, for machines on which there is no Redis."""

import socketserver
import threading
import time


class _Connection(socketserver.StreamRequestHandler):
    def handle(self):
        while line := self.rfile.readline():
            parts = []
            for _ in range(int(line[1:])):
                size = int(self.rfile.readline()[1:])
                parts.append(self.rfile.read(size + 2)[:size])
            self.wfile.write(self.server.answer(*parts))


class SmallRedis(socketserver.ThreadingTCPServer):
    """GET, and SET with PX; the rest is answered with OK."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Connection)
        self.kept = {}
        self.url = f"redis://127.0.0.1:{self.server_address[1]}/0"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def answer(self, name, *parts):
        if name == b"HELLO":
            return b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n"
        if name == b"GET":
            until, value = self.kept.get(parts[0], (0, b""))
            return b"$%d\r\n%s\r\n" % (len(value), value) if until > time.monotonic() else b"_\r\n"
        if name == b"SET":
            self.kept[parts[0]] = (time.monotonic() + int(parts[3]) / 1000, parts[1])
        return b"+OK\r\n"
