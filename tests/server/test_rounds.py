"""A thread that repeats its work goes on, whatever one round of it comes to."""

import threading

import pytest

from luthier.errors import StorageFull
from luthier.server.rounds import rounds


@pytest.mark.parametrize("error", [StorageFull(), OSError("no space"), ValueError("nobody foresaw this")])
def test_a_round_that_fails_is_logged_and_the_next_one_is_done(error, caplog):
    counts, enough = [], threading.Event()

    def work():
        counts.append(1)
        if len(counts) == 1:
            raise error
        enough.set()

    with rounds("tests", work, pause_s=0.01):
        assert enough.wait(10)
    assert "tests: this round failed" in caplog.text
