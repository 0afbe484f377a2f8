"""The sync face: the async code, run on an event loop in a thread of its own, with the signatures kept.

The loop lives in another thread, so a `Client` also works inside a notebook, where one runs already.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from luthier.errors import ClientError

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
Work = Callable[[], Coroutine[Any, Any, R]]
"""What makes a coroutine: it is made on the loop's thread."""

_END = object()


class Outcome(Generic[R]):
    """What a coroutine on another thread's loop comes to.

    Not a `concurrent.futures.Future`: its lock is taken by both sides, and a Ctrl-C that strikes the waiting side just after
    it has taken it leaves the loop waiting for it for ever. Here the waiting side holds nothing that the loop asks for. Nor
    does it hold coroutine or task: Python drops an interrupt that strikes while an object is finalised.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Work[R]) -> None:
        self._loop = loop
        self._ended = threading.Lock()
        self._ended.acquire()
        self._task: asyncio.Task[R] | None = None
        self._values: list[R] = []
        self._error: BaseException | None = None
        loop.call_soon_threadsafe(self._start, work)

    def wait(self) -> R:
        """The result. Raises: what the coroutine raised; asyncio.CancelledError."""
        self._ended.acquire()
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # its traceback has this frame: a circle
        return self._values.pop()

    def cancel(self) -> None:
        """Cancel what still runs, without waiting for its end."""
        self._loop.call_soon_threadsafe(self._cancel)

    def _start(self, work: Work[R]) -> None:
        self._task = self._loop.create_task(_worked(work))
        self._task.add_done_callback(self._done)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _done(self, task: asyncio.Task[R]) -> None:
        self._task = None
        if task.cancelled():
            self._error = asyncio.CancelledError()
        elif (error := task.exception()) is not None:
            self._error = error
        else:
            self._values.append(task.result())
        self._ended.release()


class LoopThread:
    """An event loop that runs until `close`, or until nobody holds this any more. `last` is awaited at its end."""

    def __init__(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_serve, args=(self._loop, last), name="luthier-client", daemon=True)
        self._thread.start()
        # Not `Thread.is_alive`: a Ctrl-C that strikes it marks the thread as ended, although it runs.
        self._process = os.getpid()
        self._end = weakref.finalize(self, _end, self._loop, self._thread, self._process)

    def run(self, work: Work[R]) -> R:
        """The result of `work()`. Ctrl-C cancels it. Raises: ClientError once closed, or in a forked child."""
        if threading.current_thread() is self._thread:
            raise ClientError("A callback of this client cannot call it again.", hint="Use a second client, or AsyncClient.")
        if not self.open:
            raise ClientError("This client is closed, or was made before a fork.", hint="Make a new `luthier.Client()` here.")
        outcome = Outcome(self._loop, work)
        try:
            return outcome.wait()
        except BaseException:  # also Ctrl-C, after which it would go on in its thread
            if self.open:
                outcome.cancel()
            raise

    def iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        """The items one by one; leaving the loop early closes the stream behind them."""
        held = [items]
        del items  # what iterates is finalised where it runs, as tasks are
        try:
            while (item := self.run(lambda: _next(held))) is not _END:
                yield item
        finally:
            if self.open:
                closing = Outcome(self._loop, lambda: _close(held))
                # The garbage collector may come by here on the loop's own thread, which must not wait for itself.
                if threading.current_thread() is not self._thread:
                    closing.wait()

    @property
    def open(self) -> bool:
        """Whether it can still run something."""
        return self._end.alive and self._process == os.getpid()

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
            return face.loop.run(functools.partial(self._method, face.inner, *args, **kwargs))

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


async def _worked(work: Work[R]) -> R:
    return await work()


async def _next(held: list[AsyncIterator[Any]]) -> Any:
    return await anext(held[0], _END)


async def _close(held: list[AsyncIterator[Any]]) -> None:
    items = held.pop()
    if isinstance(items, AsyncGenerator):
        with contextlib.suppress(RuntimeError):  # after Ctrl-C it may still be on its own way out
            await items.aclose()


def _serve(loop: asyncio.AbstractEventLoop, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(last())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread, process: int) -> None:
    if process == os.getpid():  # a forked child has no such thread
        loop.call_soon_threadsafe(loop.stop)
        if thread is not threading.current_thread():  # the garbage collector may run anywhere
            thread.join(timeout=5)
