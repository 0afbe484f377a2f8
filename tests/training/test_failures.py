import errno

import pytest
import torch

from luthier.errors import BaseUnavailable, Invalid, StorageFull
from luthier.training.failures import AttemptFailed, failure_of


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (AttemptFailed("diverged", "m", "h"), "diverged"),
        (MemoryError(), "out_of_memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"), "out_of_memory"),
        (RuntimeError("could not create a primitive"), "out_of_memory"),  # oneDNN, where it finds no room
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory"),
        (StorageFull(), "storage"),
        (OSError(errno.EIO, "Input/output error"), "storage"),
        (PermissionError(errno.EACCES, "/srv/data/secret"), "storage"),
        (RuntimeError("CUDA error: device-side assert triggered"), "device"),
        (BaseUnavailable("no hub", hint="use luthier/tiny"), "base_unavailable"),
        (Invalid("the template is none"), "bad_data"),
        (KeyError("secret"), "crashed"),
    ],
)
def test_every_way_to_fail_has_its_code_and_its_advice(error, code):
    failure = failure_of(error)
    assert failure.code == code
    assert failure.hint
    assert "secret" not in failure.message + failure.hint
