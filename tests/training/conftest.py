"""A whole training loop on a model small enough to check by hand, and the desk that it works at."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from luthier.backends.storage.local import LocalStorage
from luthier.jobs.directory import CheckpointRef, Control, JobDirectory
from luthier.jobs.spec import RunSpec
from luthier.modeling.types import Completion, Packed, Sampling
from luthier.training.batches import Rows
from luthier.training.checkpoints import Checkpoints, fetch_checkpoint
from luthier.training.journal import Journal
from luthier.training.loop import Desk, Loop, Material
from luthier.training.methods import sft
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
        self.on = False
        yield
        self.on = True

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

    def save_adapter(self, folder: Path, *, base_model: str, revision: str) -> None:
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
    spec: RunSpec = field(default_factory=lambda: RunSpec(base_model="luthier/tiny", dataset="train.jsonl"))
    fixed: Fixed = Fixed(batch_size=4, tokens_per_pass=64, threads=1, device="cpu", precision="fp32")
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
        plan = plan_of(self.spec, state.fixed, len(self.rows), 64)
        material = Material(self.spec, plan, engine, sft.loss, self.rows, self.validation)
        checkpoints = Checkpoints(attempt, workspace)
        loop = Loop(material, Desk(journal, checkpoints, watch, self.monotonic), state, resumed)
        return SimpleNamespace(loop=loop, engine=engine, watch=watch, journal=journal, state=state, directory=attempt, plan=plan)

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
