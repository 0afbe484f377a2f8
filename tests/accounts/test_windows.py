"""A window that moves: what came too long ago counts no longer, and nobody is kept for ever."""

from hypothesis import given
from hypothesis import strategies as st

from luthier.accounts.windows import Windows


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_room_comes_back_when_the_first_request_is_old_enough():
    clock = Clock()
    windows = Windows(clock)
    assert windows.hit(("a",), 2, 10) == (True, 1, 10)
    clock.now += 4
    assert windows.hit(("a",), 2, 10) == (True, 0, 6)
    assert windows.hit(("a",), 2, 10) == (False, 0, 6)
    assert windows.hit(("b",), 2, 10) == (True, 1, 10)
    clock.now += 6
    assert windows.hit(("a",), 2, 10) == (True, 0, 4)


def test_a_look_counts_nothing_and_a_cleared_caller_begins_anew():
    clock = Clock()
    windows = Windows(clock)
    assert windows.look(("a",), 1) == (True, 1, 0)
    windows.hit(("a",), 1, 10)
    clock.now += 4
    assert windows.look(("a",), 1) == windows.look(("a",), 1) == (False, 0, 6)
    windows.clear(("a",))
    windows.clear(("nobody",))
    assert windows.look(("a",), 1) == (True, 1, 0)
    windows.hit(("a",), 1, 10)
    clock.now += 10
    assert windows.look(("a",), 1) == (True, 1, 0)


@given(st.lists(st.floats(0, 3), max_size=60), st.integers(1, 5))
def test_never_more_than_the_rule_within_any_window(gaps, most):
    clock = Clock()
    windows, taken = Windows(clock), []
    for gap in gaps:
        clock.now += gap
        if windows.hit(("a",), most, 5)[0]:
            taken.append(clock.now)
        else:
            assert sum(moment + 5 > clock.now for moment in taken) == most
    assert all(later - first >= 5 - 1e-9 for first, later in zip(taken, taken[most:], strict=False))


def test_callers_who_are_gone_are_forgotten():
    clock = Clock()
    windows = Windows(clock)
    for number in range(5000):
        windows.hit((str(number),), 2, 1)
        clock.now += 0.01
    assert len(windows._came) < 1100
