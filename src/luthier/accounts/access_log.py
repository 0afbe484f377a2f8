"""The access log: one line of JSON for each request that only looked, in files that take turns."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path

from luthier.accounts.deeds import Act

_FILES = 4


class AccessLog:
    """Lines of ASCII without control characters, whatever a caller sends; no header, no query and no body is in them."""

    def __init__(self, path: Path, most_bytes: int) -> None:
        self._file = _Turns(path, maxBytes=most_bytes, backupCount=_FILES, encoding="ascii", delay=True) if most_bytes else None

    def write(self, act: Act, *, status: int | None, code: str | None, ms: float) -> None:
        """One line. A disk that is full costs the line, never the answer."""
        if self._file is None:
            return
        facts = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": act.request_id,
            "action": act.action,
            "route": act.route,
            "on": act.on,
            "status": status,
            "code": code,
            "ms": ms,
            "tenant_id": act.tenant_id,
            "actor": act.actor,
            "key_id": act.key_id,
            "address": act.address,
        }
        line = json.dumps({name: value for name, value in facts.items() if value not in (None, ())})
        self._file.handle(logging.makeLogRecord({"msg": line}))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class _Turns(RotatingFileHandler):
    def _open(self) -> TextIOWrapper:
        private = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return TextIOWrapper(os.fdopen(private, "ab"), encoding=self.encoding)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # the base class's name
        """Nothing: a line is lost."""
