"""Ctrl-C strikes between any two steps of the interpreter: at each of them the sync face must give way, and never hang."""

import asyncio
import sys
import threading

import pytest

from luthier.errors import ClientError
from luthier.faces.sdk.blocking import LoopThread


async def nothing() -> None:
    """What a client does at its end."""


async def numbers():
    for number in range(2):
        await asyncio.sleep(0)
        yield number


def struck_at(step: int, act) -> bool:
    """Do `act`, with an interrupt at this step of the interpreter. Returns False where it took fewer."""
    left = step

    def trace(frame, what, arg):
        nonlocal left
        frame.f_trace_opcodes = True
        if what == "opcode":
            left -= 1
            if left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        act()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return left <= 0  # inside of a finaliser


@pytest.mark.timeout(60)
def test_an_interrupt_at_any_step_ends_the_waiting_and_leaves_a_client_that_can_be_closed():
    step, dropped = 1, []
    sys.unraisablehook, before = dropped.append, sys.unraisablehook
    try:
        while True:
            thread = LoopThread(nothing)
            began = threading.active_count()
            struck = struck_at(step, lambda thread=thread: list(thread.iterate(numbers())))
            assert thread.run(lambda: asyncio.sleep(0, "still works")) == "still works"
            thread.close()
            assert threading.active_count() == began - 1
            if not struck:
                break
            step += 1
    finally:
        sys.unraisablehook = before
    assert step > 200
    assert [(each.object, each.exc_value) for each in dropped] == []


def test_a_closed_one_says_so():
    thread = LoopThread(nothing)
    thread.close()
    with pytest.raises(ClientError, match="closed"):
        thread.run(nothing)
