"""A lock that is handed over in the order of arrival."""

import threading
import time

import pytest

from luthier.turns import Turns


def until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_who_came_first_goes_first():
    turns, order, threads = Turns(), [], []

    def come(number):
        with turns.taken(10):
            order.append(number)

    with turns.taken(10):
        for number in range(20):
            threads.append(threading.Thread(target=come, args=(number,)))
            threads[-1].start()
            until(lambda: turns.waiting == len(threads))
    for thread in threads:
        thread.join()
    assert order == list(range(20))


def test_who_waits_too_long_leaves_and_blocks_nobody():
    turns = Turns()
    with turns.taken(10):
        with pytest.raises(TimeoutError), turns.taken(0.01):
            pass
        assert turns.waiting == 0
    with turns.taken(0.01):
        pass


def test_an_exception_hands_it_over():
    turns = Turns()
    with pytest.raises(ValueError, match="broken"), turns.taken(10):
        raise ValueError("broken")
    with turns.taken(0.01):
        pass


def test_no_two_at_once():
    turns, inside, most = Turns(), [], []

    def work():
        for _ in range(200):
            with turns.taken(10):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(most), max(most)) == (1600, 1)
