"""A registry on a temporary folder, and jobs that have just finished."""

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from luthier import ids
from luthier.accounts.types import Actor, Role
from luthier.backends.storage.local import LocalStorage
from luthier.bases.service import Bases
from luthier.database import Database, Row
from luthier.jobs.spec import RunSpec, Sources
from luthier.registry.catalogue import Catalogue
from luthier.registry.files import ModelFiles
from luthier.registry.gate_rules import GateRule
from luthier.registry.service import Registry
from luthier.registry.types import Finished, Model, Stage
from luthier.values import BaseSource, Source

WEIGHTS = b"adapter weights" * 1000
CHECKS = {"finite": True, "changes_logits": True, "max_logit_change": 1.0, "loads_again": True, "same_after_reload": True}
METRICS = {"steps": 60, "train_loss": 0.21, "eval_loss": None, "loss_curve": [[1, 2.0]]}


def evaluation(base: float = 2.0, tuned: float = 0.5, base_match: float = 0.0, tuned_match: float = 0.9) -> dict:
    return {
        "rows": 100,
        "base": {"loss": base, "perplexity": 7.4, "exact_match": base_match},
        "tuned": {"loss": tuned, "perplexity": 1.6, "exact_match": tuned_match},
        "samples": [{"prompt": "p", "expected": "e", "base": "b", "tuned": "e"}],
    }


@dataclass
class World:
    """The service with what it stands on, and the verbs that tests need."""

    folder: Path
    weights = WEIGHTS
    scores = staticmethod(evaluation)

    def __post_init__(self) -> None:
        self.moment = datetime(2026, 11, 21, tzinfo=UTC)
        self.storage = LocalStorage(self.folder)
        self.bases = Bases(self.folder / "bases")
        self.open()

    def open(self, gate: GateRule | None = None, **files) -> None:
        self.database = Database(self.folder / "luthier.db")
        Row.metadata.create_all(self.database.engine)
        files = ModelFiles(self.storage, self.folder / "cache", **files)
        self.registry = Registry(self.database, files, self.bases, Catalogue(self.database, files), self.now, gate=gate)

    def lose_the_database(self) -> None:
        self.database.close()
        for path in self.folder.glob("luthier.db*"):
            path.unlink()
        self.open()

    def now(self) -> datetime:
        self.moment += timedelta(seconds=1)
        return self.moment

    def finished(
        self, actor: Actor, name: str | None = "intents", scores: dict | None = None, checks: dict | None = None, **metadata: str
    ) -> Finished:
        """A job of `actor` whose results lie in its directory."""
        job_id = ids.new(ids.JOB)
        results = f"users/{actor.tenant_id}/jobs/{job_id}/attempts/1/results"
        files = {
            "final_model/adapter_model.safetensors": WEIGHTS,
            "final_model/adapter_config.json": b"{}",
            "final_model/tokenizer.json": b"{}",
            "metrics.json": json.dumps(METRICS).encode(),
            "checks.json": json.dumps(checks or CHECKS).encode(),
        }
        if scores is not None:
            files["evaluation.json"] = json.dumps(scores).encode()
        for short, data in files.items():
            self.storage.write(f"{results}/{short}", data)
        source = Source(id="ds_1", url="file:///x", sha256=hashlib.sha256(b"rows").hexdigest())
        sources = Sources(dataset=source, base=BaseSource(id="luthier/tiny", revision="1", url="luthier:tiny"))
        spec = RunSpec(base_model="luthier/tiny", dataset="ds_1", name=name, metadata=metadata, sources=sources, seed=7)
        return Finished(actor.tenant_id, actor.user_id, job_id, spec, results)

    def model(self, actor: Actor, name: str | None = "intents", scores: dict | None = None) -> Model:
        return self.registry.register(self.finished(actor, name, evaluation() if scores is None else scores))

    def measured(self, actor: Actor, model: Model, scores: dict | None = None, against: Model | None = None) -> Finished:
        """A run that measured a model on rows that it did not learn from, maybe beside another one of the loss 0.6."""
        job_id = ids.new(ids.JOB)
        results = f"users/{actor.tenant_id}/jobs/{job_id}/attempts/1/results"
        found = evaluation() if scores is None else scores
        if against is not None:
            found = {"against": {"loss": 0.6, "exact_match": 0.5}, **found}
        self.storage.write(f"{results}/evaluation.json", json.dumps(found).encode())
        source = Source(id="ds_2", url="file:///y", sha256="1" * 64)
        base = BaseSource(id="luthier/tiny", revision="1", url="luthier:tiny")
        named = {"model": model.id, "against": against.id if against else None, "base_model": base.id, "dataset": "ds_2"}
        spec = RunSpec(kind="evaluate", sources=Sources(dataset=source, base=base), **named)
        return Finished(actor.tenant_id, actor.user_id, job_id, spec, results)

    def promoted(self, actor: Actor, model: Model) -> Model:
        """In Production, after it was measured against what was there."""
        before = self.registry.in_production(actor, model.name)
        if before is not None:
            self.registry.attach(self.measured(actor, model, against=before))
        return self.registry.transition(actor, model.id, Stage.PRODUCTION)

    def weights_path(self, model: Model, actor: Actor) -> Path:
        return self.folder / f"users/{actor.tenant_id}/models/{model.id}/weights/adapter_model.safetensors"


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.database.close()


@pytest.fixture
def registry(world):
    return world.registry


@pytest.fixture
def alice():
    return Actor("team_alice", "user_alice", Role.ADMIN)


@pytest.fixture
def bob():
    return Actor("team_bob", "user_bob", Role.ADMIN)
