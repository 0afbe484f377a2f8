"""What is seen of the machine without asking a library."""

import pytest

from luthier.billing.machine import gpus


@pytest.mark.parametrize(("visible", "count"), [(None, 2), ("0", 1), ("0,1,3", 3), ("", 0), ("-1", 0)])
def test_gpus_are_those_that_are_there_or_those_that_were_left_visible(tmp_path, visible, count):
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert gpus(tmp_path, visible) == count


def test_a_machine_without_any_has_none(tmp_path):
    assert gpus(tmp_path, None) == 0
