"""Processes that tokenise a data file for a trainer: `python -m luthier.training.token_crew`.

The trainer has torch, threads and perhaps a GPU, so no fork of it is safe. It starts one small process instead, which loads the
tokenizer and whose forks (`datasets.crew`) do the work, each with a thread of its own. They read the same blocks of the same
file; what comes back are plain numbers, in the order of the blocks. It ends where anything is odd, and tells nothing of it: the
trainer does the rest itself, and says what is wrong as if it had been alone.
"""

from __future__ import annotations

import json
import os
import pickle
import selectors
import signal
import struct
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from luthier.datasets.crew import Crew
from luthier.datasets.formats import rows_in
from luthier.datasets.learning import TRAINS_ON, lessons
from luthier.datasets.lines import Lines
from luthier.training.batches import Part
from luthier.training.parts import Reading, blocks_of, part_of

if TYPE_CHECKING:
    from luthier.datasets.rendering import Renderer

_NUMBER = struct.Struct("=Q")
_READY = b"!"
_PATIENCE_S = 60.0
"""A crew that says nothing for so long hangs: a block takes a tenth of a second."""
_GRACE_S = 5.0


class TokenCrew:
    """A crew at work on one file. Without it (`works` is false) all goes on, slower."""

    def __init__(self, command: Sequence[str], request: bytes, patience_s: float = _PATIENCE_S) -> None:
        """Raises: OSError where no process can be started."""
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=environment)
        self._tell, self._hear = cast("FileIO", self._process.stdin), cast("FileIO", self._process.stdout)
        self._waiter = selectors.DefaultSelector()
        self._waiter.register(self._hear, selectors.EVENT_READ)
        self._patience_s = patience_s
        self.works = True
        self._write(request)

    @property
    def pid(self) -> int:
        """Of its first process."""
        return self._process.pid

    def came(self, wait_s: float) -> bool:
        """Whether it is there, or has ended."""
        return not self.works or bool(self._waiter.select(wait_s))

    def begins(self, number: int) -> bool:
        """Whether the crew is there; then it begins with the block of this number."""
        if self.works and self.came(0) and self._read(len(_READY)) is not None:
            self._write(_NUMBER.pack(number))
            return self.works
        return False

    def next_part(self) -> Part | None:
        """What it made of the next block; None where it has to be done here."""
        head = self._read(_NUMBER.size)
        size = 0 if head is None else _NUMBER.unpack(head)[0]
        written = self._read(size) if size else None
        return None if written is None else cast("Part", pickle.loads(written))  # noqa: S301  # of our own child

    def close(self) -> None:
        """Send it home; what it still does is lost."""
        self._waiter.close()
        self._tell.close()
        self._hear.close()
        try:
            self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _write(self, said: bytes) -> None:
        try:
            self._tell.write(said)
        except BrokenPipeError:
            self.works = False

    def _read(self, size: int) -> bytearray | None:
        """So many bytes, or None if they do not come."""
        found = bytearray()
        while self.works and len(found) < size:
            some = os.read(self._hear.fileno(), size - len(found)) if self._waiter.select(self._patience_s) else b""
            found += some
            self.works = bool(some)
        return found if self.works else None


@contextmanager
def hired(reading: Reading, renderer: Renderer) -> Generator[TokenCrew | None]:
    """A crew for this file; None where it is not worth it, or cannot be had."""
    wanted = reading.helpers > 1 and reading.path.stat().st_size >= reading.least_bytes
    if reading.base is None or not wanted or not hasattr(os, "fork"):
        yield None
        return
    how = {**asdict(reading), "path": str(reading.path.resolve()), "base": str(reading.base.resolve())}
    request = {"fingerprint": renderer.fingerprint, "reading": how}
    try:
        crew = TokenCrew([sys.executable, "-P", "-m", __name__], json.dumps(request).encode() + b"\n")
    except OSError:  # no more processes here
        yield None
        return
    try:
        yield crew
    finally:
        crew.close()


def main() -> NoReturn:
    """The life of the crew's first process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the trainer, with which this ends
    try:
        _serve(json.loads(sys.stdin.buffer.readline()))
    except (OSError, ValueError) as error:
        if not isinstance(error, BrokenPipeError):
            sys.stderr.write(f"Tokenising goes on in one process: {type(error).__name__}\n")
        os._exit(1)
    os._exit(0)


def _serve(request: dict[str, Any]) -> None:
    from luthier.datasets.rendering import Renderer

    reading = Reading(**request["reading"])
    renderer = Renderer.load(Path(reading.base or ""))
    if renderer.fingerprint != request["fingerprint"]:
        raise ValueError("the base is another one by now")
    with Path(reading.path).open("rb") as stream, Crew(partial(_work, renderer, reading), reading.helpers) as crew:
        _send(_READY)
        said = sys.stdin.buffer.read(_NUMBER.size)
        if not said:  # it was all done before we came
            return
        for block in islice(blocks_of(stream, reading), _NUMBER.unpack(said)[0], None):
            if not isinstance(block, Lines):
                return
            if crew.full:
                _give(crew)
            crew.put(_NUMBER.pack(block.first), block.data)
        while not crew.empty:
            _give(crew)


def _work(renderer: Renderer, reading: Reading, piece: memoryview) -> tuple[bytes, bytes]:
    (first,) = _NUMBER.unpack_from(piece)
    block = Lines(first, 0, bytes(piece[_NUMBER.size :]))
    units = rows_in(block, TRAINS_ON[reading.method])
    part = part_of(reading.method, lessons(reading.method, units, renderer, reading.max_seq_len))
    return pickle.dumps(part, pickle.HIGHEST_PROTOCOL), b""


def _give(crew: Crew) -> None:
    made = crew.get()
    part = b"" if made is None else made[0]
    _send(_NUMBER.pack(len(part)))
    _send(part)


def _send(said: bytes | memoryview) -> None:
    left = memoryview(said)
    while left:
        left = left[os.write(1, left) :]


if __name__ == "__main__":
    main()
