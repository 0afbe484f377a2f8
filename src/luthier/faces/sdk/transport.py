"""The one place that sends a request: keys and headers on, refusals back as errors, pauses and retries where they are safe."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from luthier.errors import BaseUnavailable, ClientError, KeyInFlight, LuthierError, TooMany, Unauthenticated, Unavailable
from luthier.faces.sdk.access import Access
from luthier.faces.sdk.answers import Answer, Page
from luthier.faces.sdk.login_file import Login, LoginFile, login_of
from luthier.faces.sdk.refusals import read_object, read_page, refusal, unauthenticated

if TYPE_CHECKING:
    import httpx

A = TypeVar("A", bound=Answer)
R = TypeVar("R")

_SILENCE_S = 60.0
"""A live stream says every 15 s that it is still there."""


@dataclass(frozen=True)
class Retry:
    """How often a request is tried that may be tried again, and how long to wait in between."""

    attempts: int = 5
    first_s: float = 0.25
    most_s: float = 10.0
    follow_attempts: int = 30
    """A server that is being restarted must not end a night of watching: this often in a row without a new event."""
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def wait(self, attempt: int, wanted_s: float | None = None) -> None:
        """The pause after attempt 1, 2, ...: doubled each time, spread out, or what the server asked for."""
        backoff_s = min(self.first_s * 2 ** (attempt - 1), self.most_s) * random.uniform(0.75, 1.0)
        await self.pause(backoff_s if wanted_s is None else min(wanted_s, self.most_s))


@dataclass(frozen=True)
class Call:
    """One request, as a value, so that it can be sent again."""

    method: str
    path: str
    query: Mapping[str, str | int | None] = field(default_factory=dict[str, str | int | None])
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    content: Callable[[], AsyncIterator[bytes]] | None = None
    again: bool = False
    """Whether sending it twice does no harm."""
    keyless: bool = False
    """Goes without a key."""
    answers: frozenset[int] = frozenset()
    """Statuses of 300 and above whose body is an answer all the same."""
    live: bool = False
    """The answer goes on for long, with silence in between."""
    work_s: float = 0
    """How long the server may work on it in silence, where that is more than the client's `timeout_s`."""


class Lost(ClientError):
    """The connection was not made, or broke."""

    code = "connection"
    sent = True
    """False where the server cannot have got the whole request."""


class Transport:
    """A connection pool to one server."""

    def __init__(self, find: Callable[[], Access], *, timeout_s: float = 60.0, retry: Retry | None = None) -> None:
        self._find = find
        self._timeout_s = timeout_s
        self._http: httpx.AsyncClient | None = None
        self._access: Access | None = None
        self._renewing = asyncio.Lock()
        self.retry = retry or Retry()

    async def close(self) -> None:
        """Close all connections."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def get(self, path: str, kind: type[A], **query: str | int | None) -> A:
        """The object at `path`."""
        return kind(await self.json(Call("GET", path, query, again=True)))

    async def page(self, path: str, kind: type[A], **query: str | int | None) -> Page[A]:
        """One page of the list at `path`."""

        async def once() -> Page[A]:
            async with self.open(Call("GET", path, query)) as response:
                await response.aread()
                entries, cursor = read_page(response)
            return Page(tuple(kind(entry) for entry in entries), cursor)

        return await self.tried(once, again=True)

    async def each(self, path: str, kind: type[A], **query: str | int | None) -> AsyncGenerator[A]:
        """All items of the list at `path`, page by page."""
        after: str | None = None
        while True:
            page = await self.page(path, kind, **{"limit": 200, "after": after, **query})
            for item in page:
                yield item
            # A server that gives the same cursor back would keep us here for ever.
            if page.next_cursor is None or page.next_cursor == after:
                return
            after = page.next_cursor

    async def json(self, call: Call) -> dict[str, Any]:
        """Send, and read the object that comes back; tried again where that is safe."""
        return await self.tried(lambda: self.once(call), again=call.again)

    async def once(self, call: Call) -> dict[str, Any]:
        """Send one single time, and read the object that comes back."""
        async with self.open(call) as response:
            await response.aread()
            return {} if response.status_code == 204 else read_object(response)

    async def tried(self, once: Callable[[], Awaitable[R]], *, again: bool) -> R:
        """`once`, again after a pause while the server is away or busy. `again`: also where it may have worked already."""
        attempt = 1
        while True:
            try:
                return await once()
            except LuthierError as error:
                if attempt >= self.retry.attempts or not worth_another(error, again=again):
                    raise
                wanted_s = getattr(error, "retry_after_s", None)
            await self.retry.wait(attempt, wanted_s)
            attempt += 1

    @asynccontextmanager
    async def open(self, call: Call) -> AsyncGenerator[httpx.Response]:
        """Send, and give the answer with its body still unread. Raises: the refusal; Lost; ClientError."""
        import httpx

        http = self._client()
        try:
            request = http.build_request(
                call.method,
                call.path,
                params={name: value for name, value in call.query.items() if value is not None},
                headers={**call.headers, **await self._key(call)},
                json=call.body,
                content=call.content() if call.content else None,
                timeout=httpx.Timeout(self._patience_s(call), connect=10.0),
            )
            response = await http.send(request, stream=True)
            try:
                if response.status_code >= 300 and response.status_code not in call.answers:
                    await response.aread()
                    raise refusal(response)
                yield response
            finally:
                await response.aclose()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise lost(error) from None

    def _patience_s(self, call: Call) -> float:
        return max(self._timeout_s, call.work_s, _SILENCE_S if call.live else 0)

    def access(self) -> Access:
        """Where the server is, and who asks."""
        if self._access is None:
            self._access = self._find()
        return self._access

    async def _key(self, call: Call) -> dict[str, str]:
        if call.keyless:
            return {}
        access = self.access()
        login = access.current_login()
        if login is None:
            return {"authorization": f"Bearer {access.api_key()}"}
        if not login.lives(time.time()):
            login = await self._renewed(access)
        return {"authorization": f"Bearer {login.access_token}"}

    async def _renewed(self, access: Access) -> Login:
        """The login with its tokens exchanged. One exchange at a time, here and in other processes: two would end it."""
        async with self._renewing, _alone(access.logins if access.kept else None):
            if access.kept:
                access.reread()
            login = access.login
            if login is not None and login.lives(time.time()):
                return login
            try:
                if login is None:
                    raise Unauthenticated
                body = {"refresh_token": login.refresh_token}
                answer = await self.once(Call("POST", "/auth/refresh", body=body, keyless=True))
            except Unauthenticated:
                raise unauthenticated("The login has ended.", "Log in again: `tune login`.") from None
            login = login_of(answer, login.email, time.time())
            access.take(login, keep=access.kept)
            return login

    def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            import httpx

            access = self.access()
            self._http = httpx.AsyncClient(
                base_url=access.base_url,
                headers={"accept": "application/json"},
                trust_env=not access.local,
                follow_redirects=False,
            )
        return self._http


@asynccontextmanager
async def _alone(file: LoginFile | None) -> AsyncGenerator[None]:
    if file is None:
        yield
        return
    with contextlib.ExitStack() as stack:
        await asyncio.to_thread(stack.enter_context, file.alone())
        yield


def lost(error: httpx.HTTPError | httpx.InvalidURL) -> Lost:
    """What httpx calls it, as ours; without addresses and without what the system calls it."""
    import httpx

    found = _lost(error)
    found.sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout | httpx.WriteError)
    return found


def _lost(error: httpx.HTTPError | httpx.InvalidURL) -> Lost:
    import httpx

    if _is_tls(error):
        return Lost(
            "The server's certificate was not accepted, or it does not speak TLS.",
            hint="Check http against https in LUTHIER_API_URL; a private authority goes into SSL_CERT_FILE.",
            code="tls",
        )
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return Lost("No server answers at LUTHIER_API_URL.", hint="Start it with `luthier up`, or correct LUTHIER_API_URL.")
    if isinstance(error, httpx.TimeoutException):
        return Lost("The server took too long to answer.", hint="Try again, or give the client a larger `timeout_s`.")
    if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError | httpx.InvalidURL):
        return Lost("LUTHIER_API_URL is not the address of a server.", hint="Give it like http://127.0.0.1:8000.", code="setup")
    return Lost("The connection to the server broke off.", hint="Try again; if it goes on, look at the server's log.")


def _is_tls(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return True
        cause = cause.__cause__ or cause.__context__
    return "SSL" in str(error) or "TLS" in str(error)


def worth_another(error: LuthierError, *, again: bool) -> bool:
    """Busy and "not yet" changed nothing; a lost connection may have, so there it must do no harm to ask again."""
    if isinstance(error, Lost):
        return error.error_code == "connection" and (again or not error.sent)
    if isinstance(error, Unavailable | TooMany):
        return not isinstance(error, BaseUnavailable)  # a hub that was just tried in vain
    if isinstance(error, ClientError):
        details = error.details
        return again and isinstance(details, Mapping) and details.get("status") in {502, 503, 504}
    return again and isinstance(error, KeyInFlight)
