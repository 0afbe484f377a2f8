"""What the attempts of one process share."""

import pytest

from luthier.training.fitting import LoadedBases, precision_of


@pytest.mark.parametrize("order", [("auto", "same"), ("same", "auto")], ids="-".join)
def test_a_fresh_run_and_one_that_goes_on_stand_on_the_same_weights(bases, order):
    (folder,) = (path.parent for path in bases.rglob("config.json"))
    precision = precision_of(LoadedBases().get(folder, "cpu", "auto"))
    loaded = LoadedBases()
    first, second = (loaded.get(folder, "cpu", precision if asked == "same" else "auto") for asked in order)
    assert first is second


def test_another_precision_is_another_base(bases):
    (folder,) = (path.parent for path in bases.rglob("config.json"))
    loaded = LoadedBases()
    assert loaded.get(folder, "cpu", "fp32") is not loaded.get(folder, "cpu", "bf16")
