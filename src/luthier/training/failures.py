"""Why an attempt ends: what stops it from outside, what is wrong with it, and the words that are told to its owner."""

from __future__ import annotations

import errno
from typing import Literal

from luthier.errors import BaseUnavailable, Invalid, ModelNotAllowed, StorageFull
from luthier.jobs.directory import Failure, FailureCode
from luthier.seams import BadName

_STORAGE_ERRNOS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ESTALE, errno.ENOENT, errno.EMFILE}
)
_MEMORY_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "create a primitive")
_DEVICE_WORDS = ("cuda error", "cudnn error", "cublas", "hip error", "no kernel image", "nvidia driver", "mps backend")

Wish = Literal["stopped", "preempted"]
"""What an attempt that ends early says last: somebody asked for it, or the machine is needed elsewhere."""


class Fenced(Exception):
    """Another attempt owns the job: write nothing more, exit 75."""


class Stopping(Exception):
    """Somebody asked to end early. All that must last is saved when this reaches the top."""

    def __init__(self, wish: Wish) -> None:
        super().__init__(wish)
        self.wish: Wish = wish


class AttemptFailed(Exception):
    """The attempt cannot succeed. Carries the code, the numbers and the advice."""

    def __init__(self, code: FailureCode, message: str, hint: str) -> None:
        super().__init__(message)
        self.failure = Failure(code=code, message=message, hint=hint)


def failure_of(error: Exception) -> Failure:
    """What to tell the owner of the job about an exception that reached the top; no path, no input, no stack."""
    if isinstance(error, AttemptFailed):
        return error.failure
    if isinstance(error, (BaseUnavailable, ModelNotAllowed)):
        return Failure(code="base_unavailable", message=error.message, hint=error.hint or "Use `luthier/tiny`.")
    if isinstance(error, Invalid):
        return Failure(code="bad_data", message=error.message, hint=error.hint or "Check the rows with `dataset show`.")
    if is_out_of_memory(error):
        return _out_of_memory()
    if isinstance(error, StorageFull) or (isinstance(error, OSError) and error.errno in _STORAGE_ERRNOS):
        reason = "the disk is full" if isinstance(error, StorageFull) else type(error).__name__
        message = f"The job directory could not be read or written ({reason})."
        return Failure(code="storage", message=message, hint="Free space, or mend the disk, then resume the job.")
    if isinstance(error, BadName):
        message = "A folder of the job directory is a link that leads elsewhere."
        return Failure(code="storage", message=message, hint="Put a plain folder in its place, then resume the job.")
    if any(word in str(error).lower() for word in _DEVICE_WORDS):
        message = f"The device failed ({type(error).__name__})."
        return Failure(
            code="device", message=message, hint="The job goes on from its last checkpoint; check the device's driver."
        )
    message = f"The trainer ended with {type(error).__name__}."
    return Failure(code="crashed", message=message, hint="job.log holds the details; the last checkpoint is kept.")


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: Python's, the CPU allocator's or a GPU's."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, (RuntimeError, OSError)) and any(word in str(error).lower() for word in _MEMORY_WORDS)


def _out_of_memory() -> Failure:
    return Failure(
        code="out_of_memory",
        message="Memory ran out.",
        hint="Lower `train.batch_size` (raise `train.gradient_accumulation` to match) or `train.max_seq_len`, "
        "lower `lora.rank`, or take a smaller base model. The same size would not fit again.",
    )
