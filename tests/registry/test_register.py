"""From a finished job to a model that everybody in the team can see, once."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from luthier.errors import ArtifactCorrupt, StorageFull
from luthier.registry.catalogue import Catalogue
from luthier.registry.files import ModelFiles
from luthier.registry.types import Stage


def test_a_finished_job_becomes_version_1_of_its_name(world, registry, alice):
    model = world.model(alice)
    assert (model.name, model.version, model.stage, model.base_model) == ("intents", "1", Stage.NONE, "luthier/tiny")
    assert registry.get(alice, model.id) == model
    assert [found.id for found in registry.list(alice).data] == [model.id]


def test_versions_count_up_within_a_name_and_a_team(world, alice, bob):
    versions = [world.model(actor, name).version for actor, name in [(alice, "a"), (alice, "a"), (alice, "b"), (bob, "a")]]
    assert versions == ["1", "2", "1", "1"]


def test_a_model_without_a_name_is_named_for_its_base_and_job(world, registry, alice):
    finished = world.finished(alice, name=None)
    assert registry.register(finished).name == f"tiny-{finished.job_id[-8:]}"


def test_the_files_are_copied_with_their_checksums(world, registry, alice):
    model = world.model(alice)
    files = {file.name: file for file in registry.files(alice, model.id)}
    assert set(files) == {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"}
    weights = files["adapter_model.safetensors"]
    assert (weights.bytes, weights.sha256) == (len(world.weights), hashlib.sha256(world.weights).hexdigest())
    assert world.weights_path(model, alice).read_bytes() == world.weights
    assert model.bytes == sum(file.bytes for file in files.values())


def test_the_card_says_where_a_model_comes_from_and_what_it_can_do(world, registry, alice):
    finished = world.finished(
        alice, "intents", world.scores(), language="de, en", tags="support,json", description="Routes mail."
    )
    model = registry.register(finished)
    card = json.loads(world.storage.read(f"model_registry/{model.id}.json"))
    assert card["base_model"] == "luthier/tiny"
    assert (card["language"], card["task"], card["tags"]) == (["de", "en"], "text-generation", ["support", "json"])
    assert (card["description"], card["stage"], card["warnings"]) == ("Routes mail.", "None", [])
    assert card["metrics"]["train_loss"] == 0.21
    assert (card["metrics"]["base_exact_match"], card["metrics"]["tuned_exact_match"]) == (0.0, 0.9)
    assert card["evaluation"]["samples"][0]["tuned"] == "e"
    lineage = card["lineage"]
    assert (lineage["job_id"], lineage["base_revision"], lineage["dataset"], lineage["seed"]) == (finished.job_id, "1", "ds_1", 7)
    assert list(lineage["tokenizer_sha256"]) == ["tokenizer.json"]


def test_a_model_that_got_worse_says_so_on_its_card(world, registry, alice):
    worse = world.scores(base=1.0, tuned=1.5, base_match=0.4, tuned_match=0.3)
    warnings = world.model(alice, scores=worse).card.warnings
    assert warnings == (
        "Worse than its base: loss 1.5000 against 1.0000 on 100 held-out rows.",
        "Fewer exact answers than its base: 0.300 against 0.400.",
    )


@pytest.mark.parametrize(("tuned", "warned"), [(False, True), (True, False), (None, False)])
def test_a_model_that_never_stops_says_so_on_its_card(world, registry, alice, tuned, warned):
    finished = world.finished(alice, scores=world.scores())
    checks = json.loads(world.storage.read(f"{finished.results}/checks.json"))
    checks["endings"] = {"asked": 4, "most_tokens": 40, "tuned": tuned, "base": False}
    world.storage.write(f"{finished.results}/checks.json", json.dumps(checks).encode())
    said = "Never stops by itself: none of 4 answers ended within 40 tokens. It has not learned its end of turn yet."
    assert registry.register(finished).card.warnings == ((said,) if warned else ())


def test_a_model_that_was_not_measured_says_so_on_its_card(world, registry, alice):
    assert "Not measured" in registry.register(world.finished(alice)).card.warnings[0]


def test_registering_a_job_twice_gives_the_same_model(world, registry, alice):
    finished = world.finished(alice)
    assert registry.register(finished) == registry.register(finished)
    assert len(registry.list(alice).data) == 1


def test_registering_a_job_at_once_from_many_sides_makes_one_model(world, registry, alice):
    finished = world.finished(alice)
    with ThreadPoolExecutor(8) as pool:
        models = list(pool.map(registry.register, [finished] * 8))
    assert len({model.id for model in models}) == 1
    assert [model.version for model in registry.list(alice).data] == ["1"]


def test_jobs_of_one_name_that_end_together_get_different_numbers(world, registry, alice):
    jobs = [world.finished(alice) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        versions = sorted(model.version for model in pool.map(registry.register, jobs))
    assert versions == ["1", "2", "3", "4"]
    for model in registry.list(alice).data:
        assert json.loads(world.storage.read(f"model_registry/{model.id}.json"))["version"] == model.version


def test_a_registration_that_is_cut_off_is_completed_by_the_next_one(world, registry, alice):
    class Full(type(world.storage)):
        def write(self, name, data):
            if name.endswith("metadata.json"):
                raise StorageFull
            super().write(name, data)

    finished = world.finished(alice)
    files = ModelFiles(Full(world.folder), world.folder / "cache")
    broken = type(registry)(world.database, files, world.bases, Catalogue(world.database, files), world.now)
    with pytest.raises(StorageFull):
        broken.register(finished)
    assert registry.list(alice).data == []
    model = registry.register(finished)
    assert model.version == "1"
    assert [path.name for path in (world.folder / "users/team_alice/models").iterdir()] == [model.id]


@pytest.mark.parametrize("missing", ["adapter_model.safetensors", "adapter_config.json"])
def test_results_without_a_whole_adapter_are_refused(world, registry, alice, missing):
    finished = world.finished(alice)
    world.storage.delete(f"{finished.results}/final_model/{missing}")
    with pytest.raises(ArtifactCorrupt, match=missing):
        registry.register(finished)
    assert registry.list(alice).data == []


def test_an_empty_weights_file_is_no_adapter(world, registry, alice):
    finished = world.finished(alice)
    world.storage.write(f"{finished.results}/final_model/adapter_model.safetensors", b"")
    with pytest.raises(ArtifactCorrupt):
        registry.register(finished)


@pytest.mark.parametrize("content", [b"{", b'{"rows": "many"}'])
def test_an_evaluation_that_cannot_be_read_is_refused(world, registry, alice, content):
    finished = world.finished(alice)
    world.storage.write(f"{finished.results}/evaluation.json", content)
    with pytest.raises(ArtifactCorrupt, match=r"evaluation\.json"):
        registry.register(finished)


def test_a_base_that_left_the_list_meanwhile_does_not_lose_the_model(world, registry, alice):
    finished = world.finished(alice)
    gone = finished.spec.model_copy(update={"base_model": "acme/was-allowed"})
    assert registry.register(replace(finished, spec=gone)).base_model == "acme/was-allowed"
