"""The sync face: the async code, run on an event loop in a thread of its own, with the signatures kept.

The loop lives in another thread, so a `Client` also works inside a notebook, where one runs already.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from luthier.errors import ClientError

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_END = object()


class LoopThread:
    """An event loop that runs until `close`, or until nobody holds this any more. `last` is awaited at its end."""

    def __init__(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_serve, args=(self._loop, last), name="luthier-client", daemon=True)
        self._thread.start()
        self._end = weakref.finalize(self, _end, self._loop, self._thread)

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """The result of `work`. Ctrl-C cancels it. Raises: ClientError once closed, or in a forked child."""
        if threading.current_thread() is self._thread:
            work.close()
            raise ClientError("A callback of this client cannot call it again.", hint="Use a second client, or AsyncClient.")
        if not self.open:
            work.close()
            raise ClientError("This client is closed, or was made before a fork.", hint="Make a new `luthier.Client()` here.")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()  # on Ctrl-C; one that is done stays as it is

    def iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        """The items one by one; leaving the loop early closes the stream behind them."""
        try:
            while (item := self.run(_next(items))) is not _END:
                yield item
        finally:
            if isinstance(items, AsyncGenerator) and self.open:
                closing = asyncio.run_coroutine_threadsafe(_close(items), self._loop)
                # The garbage collector may come by here on the loop's own thread, which must not wait for itself.
                if threading.current_thread() is not self._thread:
                    closing.result()

    @property
    def open(self) -> bool:
        """Whether it can still run something."""
        return self._end.alive and self._thread.is_alive()

    def close(self) -> None:
        """End the loop and its thread."""
        self._end()


class Face:
    """A resource's sync face: the async resource, and the loop that it runs on."""

    def __init__(self, inner: Any, loop: LoopThread) -> None:
        self.inner = inner
        self.loop = loop


class Blocking(Generic[P, R]):
    """A coroutine method as a plain one. See `blocking`."""

    def __init__(self, method: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]) -> None:
        self._method = method
        self.__doc__ = method.__doc__
        self.__wrapped__ = method  # for `help` and `inspect`

    @overload
    def __get__(self, face: None, kind: type) -> Blocking[P, R]: ...
    @overload
    def __get__(self, face: Face, kind: type) -> Callable[P, R]: ...
    def __get__(self, face: Face | None, kind: type) -> Blocking[P, R] | Callable[P, R]:
        if face is None:
            return self

        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return face.loop.run(self._method(face.inner, *args, **kwargs))

        return functools.wraps(self._method.__get__(face.inner))(call)  # pyright: ignore[reportReturnType]  # a method's signature


class Iterating(Generic[P, T]):
    """An async iterator method as a plain one. See `iterating`."""

    def __init__(self, method: Callable[Concatenate[Any, P], AsyncIterator[T]]) -> None:
        self._method = method
        self.__doc__ = method.__doc__
        self.__wrapped__ = method  # for `help` and `inspect`

    @overload
    def __get__(self, face: None, kind: type) -> Iterating[P, T]: ...
    @overload
    def __get__(self, face: Face, kind: type) -> Callable[P, Iterator[T]]: ...
    def __get__(self, face: Face | None, kind: type) -> Iterating[P, T] | Callable[P, Iterator[T]]:
        if face is None:
            return self

        def call(*args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
            return face.loop.iterate(self._method(face.inner, *args, **kwargs))

        return functools.wraps(self._method.__get__(face.inner))(call)  # pyright: ignore[reportReturnType]  # a method's signature


def blocking(method: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]) -> Blocking[P, R]:
    """`submit = blocking(AsyncJobs.submit)`: the same parameters, the same answer, no `await`."""
    return Blocking(method)


def iterating(method: Callable[Concatenate[Any, P], AsyncIterator[T]]) -> Iterating[P, T]:
    """`follow = iterating(AsyncJobs.follow)`: for a plain `for`."""
    return Iterating(method)


async def _next(items: AsyncIterator[T]) -> Any:
    return await anext(items, _END)


async def _close(items: AsyncGenerator[Any]) -> None:
    with contextlib.suppress(RuntimeError):  # after Ctrl-C it may still be on its own way out
        await items.aclose()


def _serve(loop: asyncio.AbstractEventLoop, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(last())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    if thread.is_alive():
        loop.call_soon_threadsafe(loop.stop)
        if thread is not threading.current_thread():  # the garbage collector may run anywhere
            thread.join(timeout=5)
