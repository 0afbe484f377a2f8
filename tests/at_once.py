"""What must not take long, however slow the machine is."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

_AT_ONCE_S = 5.0
"""Processor time. What is linear takes milliseconds, and a full collection of a long test process's heap two seconds."""


@contextmanager
def at_once() -> Iterator[None]:
    """For what a quadratic step somewhere would make minutes of."""
    began = time.process_time()
    yield
    assert time.process_time() - began < _AT_ONCE_S
