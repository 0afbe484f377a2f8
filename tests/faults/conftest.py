"""Actions of a trainer on a disk that breaks, and what must hold after each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from . import actions


@dataclass(frozen=True)
class Outcome:
    """How an action ended: its exit status (negative: the signal), and whether the disk broke at all."""

    root: Path
    status: int
    broke: bool


class Trainer:
    """A process that does what a trainer does to a job directory, as often as asked."""

    def __init__(self, disk, folder: Path) -> None:
        self._disk, self._folder = disk, folder
        self._number = 0
        self._process = subprocess.Popen(
            [sys.executable, actions.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **disk.environment},
        )

    def does(self, action: str, fault) -> Outcome:
        self._number += 1
        root = self._folder / str(self._number)
        root.mkdir()
        plan = self._disk.plan(replace(fault, under=str(root)))
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"action": action, "root": str(root), "plan": plan}) + "\n")
        self._process.stdin.flush()
        status = os.waitstatus_to_exitcode(int(self._process.stdout.readline()))
        return Outcome(root, status, self._disk.hits() > 0)

    def close(self) -> None:
        self._process.communicate(timeout=10)


@pytest.fixture
def trainer(disk, tmp_path) -> Iterator[Trainer]:
    trainer = Trainer(disk, tmp_path)
    yield trainer
    trainer.close()
