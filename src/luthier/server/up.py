"""`luthier up`: the API in this process, the supervisor as a child of it."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from types import FrameType

import typer
import uvicorn

from luthier.errors import SetupError
from luthier.faces.rest.app import create_app
from luthier.server.carrier import carrying
from luthier.server.checker import admitting
from luthier.server.collecting import keep_what_is_here
from luthier.server.first import first_start
from luthier.server.ground import clock_warning, leave_no_core, prepare
from luthier.server.http import BoundedHttp, room_for_connections
from luthier.server.keeper import SupervisorKeeper
from luthier.server.locks import FolderLock
from luthier.server.observer import observing
from luthier.server.sealer import sealing
from luthier.server.sweeper import sweeping
from luthier.server.token_keeper import metering
from luthier.settings import Settings
from luthier.wiring import Platform, build, mirror

_DRAIN_S = 20


def up(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then stop in order: answers in flight, supervisor, engine.

    Raises: SetupError where the folder cannot be used, or it or the port is taken.
    """
    leave_no_core()
    prepare(settings.data)
    warning = clock_warning(datetime.now(UTC))
    if warning is not None:
        typer.echo(warning, err=True)
    lock = FolderLock(settings.data, "server")
    if not lock.take_patiently():
        raise SetupError("Another `luthier up` serves this data folder.", hint="Stop it first, or give another --data folder.")
    with contextlib.closing(_listening(settings)) as listener, _platform(settings) as platform:
        keeper = SupervisorKeeper(settings)
        server = _Server(platform, keeper, _url(listener))
        signals = _Signals(server.ask_to_stop)
        try:
            server.run(sockets=[listener])
        finally:
            (settings.data / "server.json").unlink(missing_ok=True)
            keeper.stop(signals.hurry)
    lock.release()


class _Server(uvicorn.Server):
    """uvicorn, which tells that it is ready, and only then starts the supervisor: the first answer comes first."""

    def __init__(self, platform: Platform, keeper: SupervisorKeeper, url: str) -> None:
        self._app = create_app(platform)
        super().__init__(
            uvicorn.Config(
                self._app,
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=_DRAIN_S,
                server_header=False,
                http=BoundedHttp,
                limit_concurrency=room_for_connections(),
                lifespan="off",
                # Without a proxy that we were told of, a caller's own word on its address is just a word.
                proxy_headers=bool(platform.settings.trusted_proxies),
                forwarded_allow_ips=platform.settings.trusted_proxies,
            )
        )
        self._settings = platform.settings
        self._keeper = keeper
        self._url = url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then write `server.json` and say where everything is."""
        await super().startup(sockets=sockets)
        keep_what_is_here()
        data = self._settings.data
        arriving = data / f".server.json.{os.getpid()}"
        arriving.write_text(json.dumps({"url": self._url, "pid": os.getpid()}) + "\n", "utf-8")
        arriving.replace(data / "server.json")
        typer.echo(f"Luthier serves {self._url}   (API page: {self._url}/docs)", err=True)
        typer.echo(f"Data: {data}   Key: {self._settings.key_path}", err=True)
        typer.echo("Ctrl-C stops; running jobs save first and go on next time.", err=True)
        self._keeper.start()

    def ask_to_stop(self) -> None:
        """Answer what is in flight, then return from `run`. Event streams would go on for as long as a job: they end now."""
        self._app.state.pace.stopping = True
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by uvicorn, on a signal while it serves."""
        super().handle_exit(sig, frame)
        self.ask_to_stop()


class _Signals:
    """The first SIGTERM or SIGINT stops in order; one more, while that takes its time, sets `hurry`.

    uvicorn takes both signals while it serves, and raises them again when it has stopped: without a handler of ours, SIGTERM
    would then end this process before the supervisor was told.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self.hurry = threading.Event()
        self._stop = stop
        self._stopping = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._arrived)

    def _arrived(self, _number: int, _frame: object) -> None:
        if self._stopping:
            self.hurry.set()
        self._stopping = True
        self._stop()


@contextlib.contextmanager
def _platform(settings: Settings) -> Generator[Platform]:
    platform = build(settings)
    try:
        first_start(platform)
        mirror(platform)  # what the supervisor would refuse is refused where somebody reads it
        platform.datasets.recover()
        platform.imports.recover()
        platform.uploads.sweep()
        with (
            sealing(platform.audit, second=True),
            carrying(platform.database),
            sweeping(platform),
            metering(platform.billing.tokens),
            admitting(platform),
            observing(platform),
        ):
            yield platform
    finally:
        platform.close()


def _listening(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        hint = "Stop what listens there, or choose another with --port (0 takes a free one)."
        raise SetupError(f"{settings.host}:{settings.port} cannot be used ({error.strerror}).", hint=hint) from None
    listener.listen(2048)
    return listener


def _url(listener: socket.socket) -> str:
    """Where a client on this machine reaches it."""
    host, port = listener.getsockname()[:2]
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        address = ipaddress.ip_address("::1" if address.version == 6 else "127.0.0.1")
    return f"http://[{address}]:{port}" if address.version == 6 else f"http://{address}:{port}"
