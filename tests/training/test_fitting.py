"""What the attempts of one process share."""

import pytest

from luthier.training import machine
from luthier.training.failures import AttemptFailed
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


def test_another_quantization_is_another_base(bases):
    (folder,) = (path.parent for path in bases.rglob("config.json"))
    loaded = LoadedBases()
    whole, held = (loaded.get(folder, "cpu", "auto", quantization) for quantization in ("none", "8bit"))
    assert held is loaded.get(folder, "cpu", precision_of(held), "8bit")
    assert held.n_bytes < whole.n_bytes


@pytest.mark.parametrize(("quantization", "device"), [("4bit", "cpu"), ("4bit", "mps"), ("8bit", "mps")])
def test_fewer_bits_where_they_do_not_serve_are_refused_at_the_start_too(quantization, device):
    with pytest.raises(AttemptFailed, match=quantization) as refused:
        machine.check_quantization(quantization, device)
    assert refused.value.failure.code == "device"
    assert "8bit" in refused.value.failure.hint


@pytest.mark.parametrize(("quantization", "device"), [("none", "mps"), ("8bit", "cpu"), ("8bit", "cuda"), ("4bit", "cuda")])
def test_elsewhere_they_are_taken(quantization, device):
    machine.check_quantization(quantization, device)
