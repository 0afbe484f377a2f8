"""What a trainer writes, without the training: run as a process whose disk may break.

Each line on standard input names an action and a job directory; a fork does it, and its wait status is the answer. So an
action costs milliseconds instead of an interpreter's start.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from luthier.backends.storage.local import LocalStorage
from luthier.errors import StorageFull
from luthier.jobs.directory import AttemptDirectory, JobDirectory
from luthier.training import export
from luthier.training.checkpoints import Checkpoints
from luthier.training.failures import failure_of
from luthier.training.journal import Journal

ATTEMPT = 1
OLD_STEP, NEW_STEP = 10, 20
FILES = {
    "adapter_model.safetensors": bytes(range(256)) * 40,
    "optimizer.safetensors": b"moments" * 999,
    "trainer_state.json": b"{}",
}
MODEL = {"adapter_model.safetensors": bytes(range(256)) * 40, "adapter_config.json": b"{}", "tokenizer.json": b"{}" * 50}
RESULTS = {"checks.json": {"finite": True}, "metrics.json": {"steps": NEW_STEP}}
CONFIG = {"base_model": "luthier/tiny"}


def now() -> datetime:
    return datetime.now(UTC)


class Attempt:
    """An attempt that has run for a while: what the two actions begin with."""

    def __init__(self, root: Path, number: int, step: int) -> None:
        self.root, self.step = root, step
        self.directory = JobDirectory(LocalStorage(root / "job"), "").attempt(number)
        self.workspace = root / "work"
        self.workspace.mkdir(exist_ok=True)
        self.journal = Journal(self.directory, now, keep_log=True, say=False)
        self.checkpoints = Checkpoints(self.directory, self.workspace)

    def begin(self) -> None:
        self.directory.own({"pid": os.getpid()})
        self.journal.begin(None)
        self.journal.state("running", "Training.")
        self.save()

    def save(self) -> None:
        """As the loop saves: what happened, the checkpoint, then the word of it."""
        self.journal.facts(step=self.step)
        self.journal.flush()
        self.checkpoints.save(self.step, lambda folder: fill(folder, FILES))
        self.journal.facts(last_checkpoint_step=self.step)
        self.journal.event("checkpoint", f"Checkpoint of step {self.step} is complete.")

    def publish(self) -> None:
        """As an attempt ends: every result, then the last word."""
        model = self.workspace / f"final_model-{self.directory.number}"
        fill(model, MODEL)
        for name, value in RESULTS.items():
            export.publish_json(self.directory, name, value)
        export.publish_model(self.directory, model)
        export.publish_config(self.directory, CONFIG)
        self.journal.state("succeeded", "Done.")

    def write_for_ever(self) -> None:
        """Status, events and log as fast as the disk takes them, a checkpoint now and then; only the last two are kept."""
        kept: list[int] = []
        for step in count(1):
            self.journal.facts(step=step, tokens_seen=step * 1000)
            self.journal.event("phase", f"Step {step} is done.", {"text": "x" * (step % 700)})
            if step % 20 == 0:
                self.checkpoints.save(step, lambda folder: fill(folder, FILES))
                kept = [*kept[-1:], step]
                self.checkpoints.keep_only(set(kept))


def fill(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def do(action: str, root: Path, plan: str) -> int:
    """The action, on a disk that breaks as `plan` says from its first call on. A failure gets a last word, as in a trainer."""
    attempt = Attempt(root, ATTEMPT, OLD_STEP)
    attempt.begin()
    attempt.step = NEW_STEP
    arriving = root / "plan"
    arriving.write_text(plan, "utf-8")
    arriving.replace(os.environ["FAULT_PLAN"])
    try:
        attempt.save() if action == "save" else attempt.publish()
    except (OSError, StorageFull) as error:
        try:
            failure = failure_of(error)
            attempt.journal.state("failed", failure.message, failure)
        except (OSError, StorageFull):
            return 1
        return 2
    return 0


def main() -> None:
    if sys.argv[1:2] == ["write"]:
        attempt = Attempt(Path(sys.argv[2]), ATTEMPT, 0)
        attempt.journal.begin(None)
        print("begun", flush=True)
        attempt.write_for_ever()
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(do(request["action"], Path(request["root"]), request["plan"]))
        _, status = os.waitpid(pid, 0)
        print(status, flush=True)


def results_of(directory: AttemptDirectory) -> dict[str, bytes]:
    """What lies in `results/`."""
    top = directory.name("results")
    return {name.removeprefix(top + "/"): directory.storage.read(name) for name in directory.storage.names(top)}


if __name__ == "__main__":
    main()
