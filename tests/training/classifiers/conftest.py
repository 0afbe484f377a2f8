"""Images that a small network tells apart in seconds, and job directories that train on them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

from luthier.backends.storage.local import LocalStorage
from luthier.jobs.directory import AttemptStatus, Control, JobDirectory
from luthier.jobs.spec import RunSpec
from luthier.training.attempt import run_attempt
from luthier.training.checkpoints import fetch_checkpoint
from luthier.training.classifiers.data import Samples, classes_of
from luthier.training.fitting import LoadedBases
from luthier.training.gang import train_together
from luthier.training.journal import Journal
from luthier.training.run import Run
from luthier.training.watch import Watch

SHAPES = ("bar", "box", "cross")


def image(shape: str, draw: np.random.Generator, side: int = 28) -> list[int]:
    """A bright shape somewhere on a grey noise."""
    canvas = draw.integers(0, 60, (side, side))
    size = side // 3
    top, left = draw.integers(1, side - size - 1, 2)
    part = canvas[top : top + size, left : left + size]
    if shape == "bar":
        part[size // 2] = 255
    elif shape == "box":
        part[[0, -1], :] = 255
        part[:, [0, -1]] = 255
    else:
        part[size // 2] = 255
        part[:, size // 2] = 255
    return [int(pixel) for pixel in canvas.flatten()]


def images(count: int, seed: int = 0, side: int = 28) -> list[dict[str, Any]]:
    draw = np.random.default_rng(seed)
    return [{"image": image(SHAPES[at % 3], draw, side), "label": SHAPES[at % 3]} for at in range(count)]


def shades(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Noise around three shades of grey: what a model that knows no shapes tells apart."""
    draw = np.random.default_rng(seed)
    return [{"image": draw.integers(60 * (at % 3), 60 * (at % 3) + 100, 64).tolist(), "label": at % 3} for at in range(count)]


def texts(count: int) -> list[dict[str, Any]]:
    said = {"billing": "my invoice is too high number {}", "bug": "the app crashed again build {}", "thanks": "you are great {}"}
    return [{"text": pattern.format(at), "label": label} for at in range(count // 3) for label, pattern in said.items()]


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def samples(rows: list[dict[str, Any]]) -> Samples:
    """As the trainer has them in memory."""
    labels = [str(row["label"]) for row in rows]
    classes = classes_of(labels)
    inputs = [row["text"] for row in rows] if "text" in rows[0] else np.array([row["image"] for row in rows], np.float32) / 255
    return Samples(inputs, np.array([classes.index(label) for label in labels], np.int64), classes)


@dataclass
class Submitted:
    """A job directory as the platform leaves it at submit, and what a supervisor does with it."""

    folder: Path
    rows: list[dict[str, Any]]
    validation: list[dict[str, Any]] | None = None
    classifier: dict[str, Any] | None = None
    train: dict[str, Any] = field(default_factory=dict[str, Any])
    more: dict[str, Any] = field(default_factory=dict[str, Any])
    data: bytes | None = None
    number: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.job = JobDirectory(LocalStorage(self.folder), "")
        name = (self.classifier or {}).get("model", "mnist-cnn")
        base = {"id": name, "revision": "luthier 0", "url": f"classifier:{name}"}
        sources: dict[str, Any] = {"dataset": self._pin("train", self.data or jsonl(self.rows)), "base": base}
        spec: dict[str, Any] = {"method": "classifier", "dataset": "ds_train", "train": {"device": "cpu", **self.train}}
        if self.classifier is not None:
            spec["classifier"] = self.classifier
        if self.validation is not None:
            spec["validation_dataset"] = "ds_validation"
            sources["validation_dataset"] = self._pin("validation", jsonl(self.validation))
        self.sha256 = self.job.write_spec({**spec, "sources": sources, **self.more})

    def _pin(self, name: str, data: bytes) -> dict[str, str]:
        path = self.folder.with_name(f"{self.folder.name}-{name}")
        path.write_bytes(data)
        return {"id": f"ds_{name}", "url": path.as_uri(), "sha256": hashlib.sha256(data).hexdigest()}

    def claim(self) -> None:
        """The next attempt, from the newest complete checkpoint."""
        self.number += 1
        resume_from = self.job.newest_checkpoint()
        self.job.write_control(Control(attempt=self.number, resume_from=resume_from, spec_sha256=self.sha256))

    def start(self) -> subprocess.Popen[str]:
        self.claim()
        command = [sys.executable, "-m", "luthier.training", self.job.url, "--poll-s", "0.2"]
        with self.folder.with_name(f"{self.folder.name}.log").open("a") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": "2"}
            return subprocess.Popen(command, stdout=log, stderr=log, text=True, start_new_session=True, env=environment)

    def run(self) -> int:
        process = self.start()
        try:
            return process.wait(200)
        finally:
            process.kill()

    def run_here(self) -> int:
        """The attempt in this process: for what needs no process of its own."""
        self.claim()
        attempt = self.job.attempt(self.number)
        journal = Journal(attempt, lambda: datetime.now(UTC), keep_log=True, say=False)
        workspace = self.folder / "attempts" / str(self.number) / "work"
        workspace.mkdir(parents=True)
        control = self.job.control()
        ref = control.resume_from if control else None
        journal.begin(ref)
        resumed = (ref, workspace / "resume") if ref and fetch_checkpoint(self.job, ref, workspace / "resume") else None
        spec, watch = RunSpec.model_validate_json(self.job.read_spec()), Watch(self.job.control, self.number)
        run = Run(spec, attempt, watch, journal, workspace, workspace, _fetch, LoadedBases(), resumed)
        return train_together([run_attempt(run)])[0]

    @property
    def log(self) -> str:
        return self.folder.with_name(f"{self.folder.name}.log").read_text("utf-8")

    @property
    def status(self) -> AttemptStatus | None:
        return self.job.attempt(self.number).status()

    @property
    def final_model(self) -> Path:
        return self.folder / "attempts" / str(self.number) / "results" / "final_model"

    def losses(self) -> list[tuple[int, float]]:
        """Every step's loss as readers see the history."""
        return [(step[0], step[1]) for event in self.job.events() if event.kind == "step" for step in event.data["steps"]]

    def result(self, name: str) -> bytes:
        return self.job.storage.read(f"attempts/{self.number}/results/{name}")

    def said(self, kind: str) -> list[str]:
        return [event.message for event in self.job.events() if event.kind == kind]


def _fetch(url: str, target: Path) -> None:
    shutil.copyfile(unquote(urlsplit(url).path), target)


@pytest.fixture(scope="session")
def submitted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    def make(**details: Any) -> Submitted:
        return Submitted(tmp_path_factory.mktemp("jobs") / "job", **details)

    return make
