"""The how-to about promotion: each command in it is run, in order, on one server; and what the commands refuse."""

import json

import pytest

from luthier import ids
from luthier.jobs.spec import RunSpec, Sources
from luthier.registry.types import Finished
from luthier.values import BaseSource, Source

from .test_identity_guides import Reader, commands

NAME = "support-intents"
FORGOT = {"tokens": 400, "base": 3.1, "tuned": 3.2, "against": 3.15}
SIDE = {"perplexity": 1.6, "exact_match": 0.75, "f1": 0.875, "stops": 1.0, "metrics": {"reward": 0.5}}
SAMPLE = {"prompt": "Where is it?", "expected": "There.", "base": "What?", "tuned": "There.", "against": "Here."}
MEASURED = {"rows": 40, "base": {**SIDE, "loss": 2.0}, "tuned": {**SIDE, "loss": 0.5}, "samples": [SAMPLE], "forgetting": FORGOT}


def beside(world, model, against, loss=0.6):
    """As a run of the kind evaluate leaves it."""
    job_id = ids.new(ids.JOB)
    results = f"users/{world.actor.tenant_id}/jobs/{job_id}/attempts/1/results"
    found = {**MEASURED, "against": {**SIDE, "loss": loss}}
    world.platform.storage.write(f"{results}/evaluation.json", json.dumps(found).encode())
    base = BaseSource(id="luthier/tiny", revision="1", url="luthier:tiny")
    sources = Sources(dataset=Source(id="ds_2", url="file:///y", sha256="1" * 64), base=base)
    spec = RunSpec(
        kind="evaluate", model=model.id, against=against.id, base_model="luthier/tiny", dataset="ds_2", sources=sources
    )
    world.platform.promotions.attach(Finished(world.actor.tenant_id, world.actor.user_id, job_id, spec, results))


@pytest.fixture
def versions(world, terminal):
    """One in Production, a newer one that is not measured against it."""
    first, second = (world.model(name=NAME, evaluation=MEASURED) for _ in range(2))
    assert terminal("model", "promote", first.id).code == 0
    return first, second


def test_promote_a_model(world, terminal, versions):
    beside(world, versions[1], versions[0])
    reader = Reader(world, terminal)
    told = {}
    for line in commands("promote-a-model.md"):
        if line.startswith("tune model rollback"):
            assert terminal("model", "promote", f"{NAME}@1", "--stage", "archived").code == 0
        reader.run(line)
        told[line] = terminal("model", "show", f"{NAME}@2").out
    assert len(told) == 6
    assert "Production" in told[f"model promote {NAME}@2"]
    assert "Archived" in told[f"model rollback {NAME}"]
    assert "Production" in terminal("model", "show", f"{NAME}@2").out  # the last that was there before


def test_the_comparison_is_a_table_of_three_sides_with_the_gates_word(world, terminal, versions):
    beside(world, versions[1], versions[0])
    lines = terminal("model", "compare", f"{NAME}@2").out.splitlines()
    assert lines[0] == f"{NAME}@2 (None), Production is @1"
    cells = {tuple(line.split()) for line in lines}
    assert ("on", "40", "held-out", "rows", "base", "tuned", "production") in cells
    assert ("loss", "2.0000", "0.5000", "0.6000") in cells
    assert ("ends", "by", "itself", "100.0%", "100.0%", "100.0%") in cells
    assert ("neutral", "text,", "nats", "3.1000", "3.2000", "3.1500") in cells
    assert ("reward", "0.5000", "0.5000", "0.5000") in cells
    assert "Gate: it may go to Production." in lines
    assert ("production", "Here.") in cells
    assert terminal("model", "compare", versions[1].id, "--json").json["against"]["loss"] == 0.6


def test_what_is_not_measured_says_so_and_names_the_way(world, terminal, versions):
    out = terminal("model", "compare", f"{NAME}@2").out
    assert "Gate: This model was not compared with version 1, which is in Production." in out
    assert "--against" in out
    assert "not measured on held-out rows" in terminal("model", "compare", world.model(name="other").id).out
    refused = terminal("model", "promote", f"{NAME}@2")
    assert (refused.code, "evaluation_needed" in refused.err) == (1, True)


def test_a_rollback_without_an_earlier_version_is_refused(terminal, versions):
    assert "wrong_state" in terminal("model", "rollback", NAME).err
    assert terminal("tune", "model", "rollback", "nobody").code == 4
