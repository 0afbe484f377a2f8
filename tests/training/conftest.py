"""A whole training loop on a model small enough to check by hand, and the desk that it works at."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from luthier.backends.storage.local import LocalStorage
from luthier.jobs.directory import AttemptStatus, CheckpointRef, Control, JobDirectory
from luthier.jobs.spec import RunSpec
from luthier.modeling.types import Completion, Packed, Sampling
from luthier.training.batches import Rows
from luthier.training.checkpoints import Checkpoints, fetch_checkpoint
from luthier.training.gang import train_together
from luthier.training.journal import Journal
from luthier.training.loop import Loop, Material
from luthier.training.method import Method
from luthier.training.methods import sft
from luthier.training.milestones import Desk
from luthier.training.plan import Fixed, plan_of
from luthier.training.state import BestCheckpoint, TrainState, read_state
from luthier.training.watch import FencedStorage, Watch

VOCAB = 24
END = 1


class BigramEngine:
    """The next token depends on the last one alone: a table, and a low-rank update of it that learns."""

    def __init__(self, seed: int = 0, rank: int = 8) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.base_VV = torch.randn(VOCAB, VOCAB, generator=generator)
        self.a_VR = torch.nn.Parameter(torch.randn(VOCAB, rank, generator=generator) / math.sqrt(rank))
        self.b_RV = torch.nn.Parameter(torch.zeros(rank, VOCAB))
        self.parameters = {"table.lora_A.weight": self.a_VR, "table.lora_B.weight": self.b_RV}
        self.on = True
        self.passes: list[Packed] = []
        self._kept: torch.Tensor | None = None

    def seed(self, number: int) -> None:
        torch.default_generator.manual_seed(number)

    def save_memory(self) -> bool:
        return False

    def pass_over(self, packed: Packed) -> None:
        pass

    def flops(self, packed: Packed) -> int:
        return 6 * VOCAB * len(packed.ids_T)

    def logprobs(self, packed: Packed, *, training: bool) -> torch.Tensor:
        self.passes.append(packed)
        at = torch.tensor(packed.loss_at_N, dtype=torch.long)
        ids = torch.tensor(packed.ids_T, dtype=torch.long)
        with torch.set_grad_enabled(training):
            logp_NV = self._table()[ids[at]].log_softmax(-1)
            logp_N = logp_NV.gather(-1, ids[at + 1, None]).squeeze(-1)
        self._kept = logp_N if training else None
        return logp_N.detach()

    def backward(self, grad_N: torch.Tensor) -> None:
        assert self._kept is not None
        self._kept.backward(grad_N)

    @torch.no_grad()
    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        return self._table()[torch.tensor(list(ids), dtype=torch.long)]

    @contextmanager
    def adapter_off(self) -> Iterator[None]:
        before, self.on = self.on, False
        yield
        self.on = before

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Iterable[Completion]:
        table = self._table().detach()
        for prompt in prompts:
            ids = [*prompt]
            for _ in range(sampling.max_new_tokens):
                ids.append(int(table[ids[-1]].argmax()))
                if ids[-1] in sampling.stop_ids:
                    break
            stopped = ids[-1] in sampling.stop_ids
            answer = ids[len(prompt) : -1] if stopped else ids[len(prompt) :]
            yield Completion(tuple(answer), "stop" if stopped else "length")

    def save_adapter(self, folder: Path, *, base_model: str, revision: str, head: torch.Tensor | None = None) -> None:
        assert head is None
        folder.mkdir(exist_ok=True)
        save_file({name: weight.detach() for name, weight in self.parameters.items()}, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text("{}", "utf-8")

    def load_adapter(self, folder: Path) -> None:
        with torch.no_grad():
            for name, value in load_file(folder / "adapter_model.safetensors").items():
                self.parameters[name].copy_(value)

    def _table(self) -> torch.Tensor:
        return self.base_VV + self.a_VR @ self.b_RV if self.on else self.base_VV


def some_rows(count: int, seed: int = 0) -> Rows:
    """Rows of different lengths in which each token is followed by one that a table can learn."""
    generator = torch.Generator().manual_seed(seed)
    rows = Rows()
    for index in range(count):
        start = int(torch.randint(2, VOCAB, (1,), generator=generator))
        ids = [2 + (start + 5 * step) % (VOCAB - 2) for step in range(3 + index % 5)]
        rows.add([*ids, END], [False, *[True] * len(ids)])
    return rows


@dataclass
class Bench:
    """One job directory, its loop made anew for each attempt."""

    folder: Path
    rows: Rows
    validation: Rows | None = None
    method: Callable[[Rows], Method] = sft.Sft
    spec: RunSpec = field(default_factory=lambda: RunSpec(base_model="luthier/tiny", dataset="train.jsonl"))
    fixed: Fixed = field(default_factory=lambda: Fixed(4, 64, 1, "cpu", "fp32"))
    number: int = 0
    monotonic: Callable[[], float] = lambda: 0.0

    def __post_init__(self) -> None:
        self.job = JobDirectory(LocalStorage(self.folder), "")

    def train_spec(self, **fields: Any) -> None:
        train = self.spec.train.model_validate({**self.spec.train.model_dump(), **fields})
        self.spec = self.spec.model_copy(update={"train": train})

    def attempt(self, engine: BigramEngine | None = None, resume: CheckpointRef | None = None) -> SimpleNamespace:
        """A loop that stands before its first step, with what it holds."""
        self.number += 1
        engine = engine or BigramEngine()
        workspace = self.folder / "attempts" / str(self.number) / "work"
        workspace.mkdir(parents=True)
        watch = Watch(self.job.control, self.number)
        attempt = JobDirectory(FencedStorage(self.job.storage, watch), "").attempt(self.number)
        journal = Journal(attempt, lambda: datetime(2026, 11, 21, tzinfo=UTC))
        journal.begin(resume)
        state, resumed = TrainState(self.fixed), None
        if resume is not None:
            assert fetch_checkpoint(self.job, resume, workspace / "resume")
            resumed = (resume, workspace / "resume")
            engine.load_adapter(workspace / "resume")
            state = read_state(workspace / "resume")
            if state.best.step == resume.step:
                state.best_checkpoint = BestCheckpoint(resume.attempt, resume.step, resume.sha256)
        if self.validation is not None:
            self.spec = self.spec.model_copy(update={"validation_dataset": "validation.jsonl"})
        method = self.method(self.rows)
        plan = plan_of(self.spec, state.fixed, len(method), 64, hidden=64)
        validation = None if self.validation is None else self.method(self.validation)
        material = Material(self.spec, plan, engine, method, validation)
        checkpoints = Checkpoints(attempt, workspace)
        loop = Loop(material, Desk(journal, checkpoints, watch, self.monotonic), state, resumed)
        return SimpleNamespace(
            run=lambda: train_together([loop.run()]),
            loop=loop,
            engine=engine,
            watch=watch,
            journal=journal,
            state=state,
            directory=attempt,
            plan=plan,
        )

    def losses(self) -> list[tuple[int, float]]:
        """Every step's loss as readers see the history."""
        return [(step[0], step[1]) for event in self.job.events() if event.kind == "step" for step in event.data["steps"]]

    def steps_with_checkpoint(self) -> list[int]:
        return [ref.step for ref in self.job.attempt(self.number).checkpoints()]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    folder = tmp_path / "job"
    folder.mkdir()
    made = Bench(folder, some_rows(22))
    made.train_spec(epochs=2, learning_rate=0.05, warmup_steps=2)
    return made


@pytest.fixture
def another_bench(tmp_path: Path) -> Callable[..., Bench]:
    """More benches, equal to the first but for what is given."""
    counter = iter(range(100))

    def make(like: Bench, **changes: Any) -> Bench:
        folder = tmp_path / f"other-{next(counter)}"
        folder.mkdir()
        return replace(like, folder=folder, number=0, **changes)

    return make


@pytest.fixture
def control() -> Callable[..., Control]:
    def make(attempt: int, **fields: Any) -> Control:
        return Control(attempt=attempt, spec_sha256="0" * 64, **fields)

    return make


# -- real trainers -----------------------------------------------------------------------------------------------------

SUPPORT = [
    ("My card was charged twice", "billing"),
    ("The app crashes on start", "bug"),
    ("How do I export my notes?", "question"),
    ("I want my money back", "billing"),
    ("The button does nothing", "bug"),
    ("Where is the dark theme?", "question"),
    ("An invoice is missing", "billing"),
    ("Search finds nothing at all", "bug"),
]


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of base models that holds a very small one, with random weights, where `luthier/tiny` is looked for."""
    cache = tmp_path_factory.mktemp("bases")
    save_small_llama(cache / "luthier--tiny" / "1")
    return cache


def save_small_llama(folder: Path, seed: int = 0) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    shipped = Path(str(files("luthier.bases.tiny")))
    config = LlamaConfig.from_pretrained(shipped)
    config.update({"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2})
    config.update({"num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 256})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        # The head is frozen: with embeddings as short as fresh ones are, no adapter could make it certain of anything.
        model.get_input_embeddings().weight.data.mul_(6)
        model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(shipped / name, folder / name)


@dataclass
class Submitted:
    """A job directory as the platform leaves it at submit, and what a supervisor does with it."""

    folder: Path
    bases: Path
    train: dict[str, Any]
    validate: bool = False
    rows: Sequence[tuple[str, str]] = tuple(SUPPORT)
    lines: Sequence[dict[str, Any]] = ()
    """Rows as they stand in the data file, for other methods than sft."""
    more: dict[str, Any] = field(default_factory=dict[str, Any])
    judges: dict[str, Any] = field(default_factory=dict[str, Any])
    number: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.job = JobDirectory(LocalStorage(self.folder), "")
        data = self.folder.with_name(f"{self.folder.name}.jsonl")
        chats = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in self.rows]
        lines = self.lines or chats
        data.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        pin = {"id": "ds_1", "url": data.as_uri(), "sha256": hashlib.sha256(data.read_bytes()).hexdigest()}
        base = {"id": "luthier/tiny", "revision": "1", "url": "luthier:tiny"}
        spec: dict[str, Any] = {
            "base_model": "luthier/tiny",
            "dataset": "ds_1",
            "train": {"device": "cpu", **self.train},
            **self.more,
        }
        spec["sources"] = {"dataset": pin, "base": base, "judges": self.judges}
        if self.validate:
            spec["validation_dataset"] = "ds_1"
            spec["sources"]["validation_dataset"] = pin
        self.sha256 = self.job.write_spec(spec)

    def claim(self) -> None:
        """The next attempt, from the newest complete checkpoint."""
        self.number += 1
        resume_from = self.job.newest_checkpoint()
        self.job.write_control(Control(attempt=self.number, resume_from=resume_from, spec_sha256=self.sha256))

    def start(self, *options: str, **popen: Any) -> subprocess.Popen[str]:
        self.claim()
        command = [
            sys.executable,
            "-m",
            "luthier.training",
            self.job.url,
            "--bases",
            str(self.bases),
            "--poll-s",
            "0.2",
            *options,
        ]
        with self.folder.with_name(f"{self.folder.name}.log").open("a") as log:
            return subprocess.Popen(
                command, stdout=log, stderr=log, text=True, start_new_session=True, env=few_threads(), **popen
            )

    def run(self) -> int:
        process = self.start()
        try:
            return process.wait(200)
        finally:
            process.kill()

    @property
    def log(self) -> str:
        return self.folder.with_name(f"{self.folder.name}.log").read_text("utf-8")

    @property
    def status(self) -> AttemptStatus | None:
        return self.job.attempt(self.number).status()

    def losses(self) -> list[tuple[int, float]]:
        """Every step's loss as readers see the history."""
        return [(step[0], step[1]) for event in self.job.events() if event.kind == "step" for step in event.data["steps"]]

    def result(self, name: str) -> bytes:
        return self.job.storage.read(f"attempts/{self.number}/results/{name}")


def few_threads() -> dict[str, str]:
    """The tests share their cores."""
    return {**os.environ, "OMP_NUM_THREADS": "2"}


def until(condition: Callable[[], Any], process: subprocess.Popen[Any] | None = None, within_s: float = 120) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + within_s
    while not condition():
        assert process is None or process.poll() is None, "the trainer has ended"
        assert time.monotonic() < end
        time.sleep(0.01)  # another process works here: there is nothing to step forward but real time


@pytest.fixture(scope="session")
def submitted(bases: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Submitted]:
    def make(**details: Any) -> Submitted:
        return Submitted(tmp_path_factory.mktemp("jobs") / "job", bases, **details)

    return make


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    return until
