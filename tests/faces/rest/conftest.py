"""The whole platform behind HTTP, on a temporary folder: real services, and an engine that echoes."""

import hashlib
import json
import shutil
import socket
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from pwdlib.hashers.argon2 import Argon2Hasher
from starlette.testclient import TestClient

import luthier
from luthier import ids, wiring
from luthier.accounts.passwords import Passwords
from luthier.accounts.types import Actor, Role
from luthier.backends.engines.echo import EchoEngine
from luthier.faces.rest.app import create_app
from luthier.faces.rest.events import Pace
from luthier.jobs import projection
from luthier.jobs.queue import Ending, JobQueue
from luthier.jobs.rules import Outcome
from luthier.jobs.spec import RunSpec, Sources
from luthier.jobs.types import JobState, Line
from luthier.registry.types import Finished
from luthier.seams import Fetched, NotFetched
from luthier.settings import Settings
from luthier.values import BaseSource, Source

ROWS = [{"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}]} for n in range(12)]
GOOD = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)
WEIGHTS = bytes(range(256)) * 40


class Hub:
    """A fetcher whose hub has one file of questions in every dataset."""

    file = "main/train-00000-of-00001.parquet"

    @contextmanager
    def fetch(self, url, *, max_bytes, redirects=0):
        if "/api/datasets/" in url:
            data = json.dumps({"sha": "a" * 40, "siblings": [{"rfilename": self.file}]}).encode()
        elif "/resolve/" in url:
            data = b"".join(b'{"question": "%d?", "answer": "b"}\n' % n for n in range(12))
        else:
            raise NotFetched("the server lies in a private network")
        yield Fetched(len(data), iter([data]))


QUICK = Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1)
"""A password that is hashed in no time: for tests only."""


class World:
    """A client with a key, and the platform behind it for what no route can bring about."""

    def __init__(self, data, engine=None, *, notifiers=None, embedder=None, now=wiring.utc_now, **settings):
        seams = {
            "engine": engine or EchoEngine(),
            "fetcher": None if "import_from" in settings else Hub(),
            "notifiers": notifiers,
            "embedder": embedder,
        }
        self.platform = wiring.build(Settings(data=data, **settings), **seams, passwords=Passwords(QUICK), now=now)
        self.key = self.platform.accounts.first_start()
        self.actor = self.platform.accounts.authenticate(self.key)
        self.stranger = Actor(tenant_id=ids.new(ids.TENANT), user_id=ids.new(ids.USER), role=Role.ADMIN)
        self.app = app = create_app(self.platform, pace=Pace(poll_s=0.01, keep_alive_s=0.02))
        self.client = TestClient(app, raise_server_exceptions=False, follow_redirects=False)
        self._dataset = None

    def ask(self, method, path, **more):
        headers = {"x-api-key": self.key, **more.pop("headers", {})}
        return self.client.request(method, path, headers=headers, **more)

    def upload(self, data=GOOD, query="?name=rows", **more):
        return self.ask("POST", f"/api/datasets{query}", content=data, **more)

    @property
    def dataset(self):
        self._dataset = self._dataset or self.upload().json()["id"]
        return self._dataset

    def spec(self, **changes):
        return {"base_model": "luthier/tiny", "dataset": self.dataset, **changes}

    def submit(self, headers=None, **changes):
        return self.ask("POST", "/api/jobs", json=self.spec(**changes), headers=headers or {})

    def raw(self, body, kind="application/json", path="/api/jobs"):
        return self.ask("POST", path, content=body, headers={"content-type": kind})

    def job(self, **changes):
        return self.submit(**changes).json()["job"]["id"]

    def build_base(self):
        """The shipped base, as if it had been fetched; an engine that echoes needs no weights."""
        bases = self.platform.bases
        folder = bases.folder(bases.get("luthier/tiny"))
        shutil.copytree(Path(luthier.__file__).parent / "bases" / "tiny", folder)
        (folder / "model.safetensors").write_bytes(b"weights")

    def events(self, job_id, attempt, *events):
        """What a trainer writes while it works."""
        here = projection.directory(self.platform.storage, self.actor.tenant_id, job_id).attempt(attempt)
        lines = "".join(event.model_dump_json() + "\n" for event in events)
        self.platform.storage.write(here.name("events", f"{events[0].seq:08d}.jsonl"), lines.encode())

    def model(self, actor=None, name="intents", evaluation=None, more=()):
        """A model, as the supervisor registers one when a job has ended; with `more` files, by their names."""
        actor, job_id = actor or self.actor, ids.new(ids.JOB)
        results = f"users/{actor.tenant_id}/jobs/{job_id}/attempts/1/results"
        checks = {"finite": True, "changes_logits": True, "max_logit_change": 1.0, "loads_again": True, "same_after_reload": True}
        files = {
            "final_model/adapter_model.safetensors": WEIGHTS,
            "final_model/adapter_config.json": b"{}",
            "final_model/tokenizer.json": b"{}",
            "metrics.json": b'{"steps": 60, "train_loss": 0.2, "eval_loss": null, "loss_curve": [[1, 2.0]]}',
            "checks.json": json.dumps(checks).encode(),
        }
        if evaluation is not None:
            files["evaluation.json"] = json.dumps(evaluation).encode()
        for short, data in {**files, **dict(more)}.items():
            self.platform.storage.write(f"{results}/{short}", data)
        source = Source(id="ds_1", url="file:///x", sha256=hashlib.sha256(b"rows").hexdigest())
        sources = Sources(dataset=source, base=BaseSource(id="luthier/tiny", revision="1", url="luthier:tiny"))
        spec = RunSpec(base_model="luthier/tiny", dataset="ds_1", name=name, sources=sources)
        done = Finished(tenant_id=actor.tenant_id, created_by=actor.user_id, job_id=job_id, spec=spec, results=results)
        return self.platform.registry.register(done)

    def export(self, model, **changes):
        """An export of a model, queued."""
        body = {"kind": "export", "model": model.id, "export": {"format": "merged"}, **changes}
        return self.ask("POST", "/api/jobs", json=body).json()["job"]["id"]

    def end_export(self, files):
        """What a supervisor and a trainer do with the export that waits longest: these files come out."""
        platform = self.platform
        queue = JobQueue(
            platform.database, platform.storage, platform.billing, (platform.datasets, platform.registry), platform.now
        )
        (held,) = queue.claim("tests", Line({"local-cpu"}, short=True))
        here = projection.directory(platform.storage, held.tenant_id, held.fence.job_id).attempt(held.fence.attempt)
        known = [{"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()]
        for name, data in files.items():
            platform.storage.write(here.name("results", "export", name), data)
        platform.storage.write(here.name("results", "export.json"), json.dumps({"files": known}).encode())
        queue.finish(held.fence, Ending(Outcome(JobState.SUCCEEDED, "exported")))
        return here.name("results", "export")


@contextmanager
def listening(world):
    """The address of the app behind a real socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(world.app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path / "data")
    yield world
    world.platform.close()
