"""What was measured after training stands on the card, newest first, and what training measured stays as it was."""

import json
from dataclasses import replace

import pytest

from luthier.errors import ArtifactCorrupt, EvaluationNeeded, NotFound
from luthier.registry import cards
from luthier.registry.types import Stage
from luthier.values import BaseSource


@pytest.fixture
def measured(world):
    return world.measured


def test_each_evaluation_is_kept_once_newest_first(world, registry, measured, alice):
    model = world.model(alice)
    first, second = measured(alice, model), measured(alice, model, world.scores(tuned=0.4))
    for finished in (first, second, second, first):
        registry.attach(finished)
    card = registry.get(alice, model.id).card
    assert [record.job_id for record in card.evaluations] == [second.job_id, first.job_id]
    assert [record.evaluation.tuned.loss for record in card.evaluations] == [0.4, 0.5]
    assert [len(record.evaluation.samples) for record in card.evaluations] == [1, 0]
    assert (card.evaluation, card.metrics, card.warnings) == (model.card.evaluation, model.card.metrics, model.card.warnings)
    assert card.evaluations[0].dataset_sha256 == "1" * 64
    written = json.loads(world.storage.read(f"model_registry/{model.id}.json"))
    assert [record["job_id"] for record in written["evaluations"]] == [second.job_id, first.job_id]


def test_another_model_beside_is_kept_with_its_scores(world, registry, measured, alice):
    model = world.model(alice)
    finished = measured(alice, model, {**world.scores(), "against": {"loss": 0.7}})
    finished = replace(finished, spec=finished.spec.model_copy(update={"against": "model_other"}))
    record = registry.attach(finished).card.evaluations[0]
    assert (record.against, record.evaluation.against.loss) == ("model_other", 0.7)


def test_a_lost_database_loses_no_evaluation(world, registry, measured, alice):
    model = world.model(alice)
    registry.attach(measured(alice, model))
    world.lose_the_database()
    assert world.registry.reindex() == 1
    assert len(world.registry.get(alice, model.id).card.evaluations) == 1


def test_the_gate_looks_at_what_was_measured_last(world, registry, measured, alice):
    model = registry.register(world.finished(alice))
    with pytest.raises(EvaluationNeeded, match="not measured") as refused:
        registry.transition(alice, model.id, Stage.PRODUCTION)
    assert "model evaluate" in refused.value.hint
    registry.attach(measured(alice, model, world.scores(base=1.0, tuned=1.5)))
    with pytest.raises(EvaluationNeeded, match="worse"):
        registry.transition(alice, model.id, Stage.PRODUCTION)
    registry.attach(measured(alice, model))
    assert registry.transition(alice, model.id, Stage.PRODUCTION).stage == Stage.PRODUCTION


def test_what_cannot_be_read_changes_nothing(world, registry, measured, alice, bob):
    model = world.model(alice)
    for broken in ({}, {"rows": "many"}):
        with pytest.raises(ArtifactCorrupt):
            registry.attach(measured(alice, model, broken))
    with pytest.raises(NotFound):
        registry.attach(measured(bob, model))
    assert registry.get(alice, model.id).card.evaluations == ()


def test_of_very_many_the_oldest_leave(world, registry, measured, alice):
    model = world.model(alice)
    card = model.card
    for _ in range(60):
        finished = measured(alice, model)
        card = cards.with_record(card, cards.record_of(finished, world.scores(), world.now()))
    assert len(card.evaluations) == 50
    assert card.evaluations[0].job_id == finished.job_id


def test_a_pin_names_every_file_and_the_base_that_it_was_trained_on(world, registry, alice):
    model = world.model(alice)
    pin = registry.pinned(alice, "intents@1")
    assert (pin.id, pin.name, pin.method) == (model.id, "intents@1", "sft")
    assert {file.name for file in pin.files} == {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"}
    assert pin.base == BaseSource(id="luthier/tiny", revision=model.base_revision, url="luthier:tiny")
    folder = world.folder / f"users/team_alice/models/{model.id}/weights"
    assert pin.url == f"{world.storage.url}/users/team_alice/models/{model.id}/weights"
    assert {path.name for path in folder.iterdir()} == {file.name for file in pin.files}


@pytest.mark.parametrize("same", ["dataset", "rows under another id"])
def test_what_was_measured_on_the_rows_of_its_training_does_not_pass_the_gate(world, registry, measured, alice, same):
    model = registry.register(world.finished(alice))
    finished, lineage = measured(alice, model), model.card.lineage
    own = {"id": lineage.dataset} if same == "dataset" else {"sha256": lineage.dataset_sha256}
    source = finished.spec.sources.dataset.model_copy(update=own)
    sources = finished.spec.sources.model_copy(update={"dataset": source})
    registry.attach(replace(finished, spec=finished.spec.model_copy(update={"sources": sources})))
    with pytest.raises(EvaluationNeeded, match="only on the rows it was trained on") as refused:
        registry.transition(alice, model.id, Stage.PRODUCTION)
    assert "model evaluate" in refused.value.hint
    registry.attach(measured(alice, model))
    assert registry.transition(alice, model.id, Stage.PRODUCTION).stage is Stage.PRODUCTION


def test_a_model_validated_on_the_rows_of_its_training_does_not_pass_the_gate(world, registry, alice):
    finished = world.finished(alice, scores=world.scores())
    sources = finished.spec.sources.model_copy(update={"validation_dataset": finished.spec.sources.dataset})
    model = registry.register(replace(finished, spec=finished.spec.model_copy(update={"sources": sources})))
    with pytest.raises(EvaluationNeeded, match="that proves memory"):
        registry.transition(alice, model.id, Stage.PRODUCTION)
