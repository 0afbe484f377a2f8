"""To Production only what was shown to be better than what stands there; with a second person's word; and back again."""

from dataclasses import replace

import pytest
from sqlalchemy import select

from luthier.accounts.types import Actor, Role
from luthier.errors import ApprovalNeeded, EvaluationNeeded, NotFound, WrongState
from luthier.notifications.outbox import EventRow
from luthier.registry import gate_rules
from luthier.registry.comparison import comparison_of
from luthier.registry.gate_rules import Beside, GateRule, gain, refusal
from luthier.registry.types import Evaluation, Scores, Stage

CAROL = Actor("team_alice", "user_carol", Role.MEMBER)


@pytest.fixture
def two(world, alice):
    """A version in Production, and a newer one that was measured alone."""
    return world.promoted(alice, world.model(alice)), world.model(alice)


def scored(world, actor, model, against, **loss: float):
    """Attach a measurement of both with these losses."""
    found = {**world.scores(tuned=loss["tuned"]), "against": {"loss": loss["production"]}}
    world.registry.attach(world.measured(actor, model, found, against=against))
    return world.registry.get(actor, model.id)


def test_what_was_not_compared_with_todays_production_is_refused_with_what_to_do(two, registry, alice):
    with pytest.raises(EvaluationNeeded, match="not compared with version 1, which is in Production") as refused:
        registry.transition(alice, two[1].id, Stage.PRODUCTION)
    assert refused.value.details == {"unmeasured": True, "production": two[0].id, "metric": "loss", "margin": 0.0}
    assert registry.resolve(alice, "intents").id == two[0].id


def test_what_is_worse_than_todays_production_is_refused_with_the_numbers(two, world, registry, alice):
    scored(world, alice, two[1], two[0], tuned=0.5, production=0.25)
    with pytest.raises(
        EvaluationNeeded, match=r"its loss is 0\.5000, that of version 1, which is in Production, 0\.2500"
    ) as refused:
        registry.transition(alice, two[1].id, Stage.PRODUCTION)
    told = refused.value.details
    assert (told["unmeasured"], told["tuned"], told["production_value"], told["dataset"]) == (False, 0.5, 0.25, "ds_2")


def test_a_measurement_stops_counting_once_another_version_is_in_production(two, world, registry, alice):
    first, second = two
    third = world.model(alice)
    for model in (second, third):
        registry.attach(world.measured(alice, model, against=first))
    registry.transition(alice, second.id, Stage.PRODUCTION)
    with pytest.raises(EvaluationNeeded, match="not compared with version 2"):
        registry.transition(alice, third.id, Stage.PRODUCTION)
    assert world.promoted(alice, third).stage is Stage.PRODUCTION


@pytest.mark.parametrize(("margin", "passes"), [(0.1, True), (0.2, False), (-0.5, True)])
def test_a_version_must_be_better_by_the_margin(two, world, alice, margin, passes):
    model = scored(world, alice, two[1], two[0], tuned=0.5, production=0.65)
    assert (refusal(model.card, two[0].card, GateRule(margin=margin)) is None) == passes


def test_worse_by_less_than_a_negative_margin_passes(two, world, alice):
    worse = scored(world, alice, two[1], two[0], tuned=0.5, production=0.45)
    assert refusal(worse.card, two[0].card, GateRule(margin=-0.1)) is None
    assert refusal(worse.card, two[0].card, GateRule(margin=-0.01)) is not None


@pytest.mark.parametrize(
    ("metric", "used", "better_by"),
    [("loss", "loss", -0.5), ("exact_match", "exact_match", 0.25), ("accuracy", "accuracy", 0.5), ("f1", "loss", -0.5)],
)
def test_the_metric_of_the_setting_decides_and_the_loss_where_a_side_lacks_it(metric, used, better_by):
    tuned = Scores(loss=1.0, exact_match=0.5, f1=0.9, metrics={"accuracy": 0.75})
    production = Scores(loss=0.5, exact_match=0.25, metrics={"accuracy": 0.25})
    assert gain(Beside(10, "ds_1", tuned, production), GateRule(metric)) == (used, better_by)


@pytest.mark.parametrize("same_rows", [True, False])
def test_models_on_different_bases_are_compared_by_runs_on_the_same_rows(world, alice, same_rows):
    production, model = world.model(alice), world.model(alice)
    cards = []
    for each, sha256 in ((production, "1" * 64), (model, "1" * 64 if same_rows else "2" * 64)):
        finished = world.measured(alice, each)
        source = finished.spec.sources.dataset.model_copy(update={"sha256": sha256})
        sources = finished.spec.sources.model_copy(update={"dataset": source})
        cards.append(world.registry.attach(replace(finished, spec=finished.spec.model_copy(update={"sources": sources}))).card)
    other_base = cards[0].model_copy(update={"base_model": "luthier/small"})
    found = gate_rules.beside(cards[1], other_base)
    assert (found is not None) == same_rows
    assert gate_rules.beside(cards[1], cards[0]) is None  # one run can hold both: then one must
    refused = refusal(cards[1], other_base, GateRule())
    assert (refused is None) == same_rows
    if refused is not None:
        assert "--dataset ds_2" in refused.hint


def test_a_classifier_is_told_on_which_rows_to_train_again(world, alice):
    production, model = world.model(alice), world.model(alice)
    lineage = model.card.lineage.model_copy(update={"method": "classifier"})
    measured = production.card.lineage.model_copy(update={"method": "classifier", "validation_dataset": "ds_9"})
    refused = refusal(
        model.card.model_copy(update={"lineage": lineage}), production.card.model_copy(update={"lineage": measured}), GateRule()
    )
    assert refused is not None
    assert "validation_dataset: ds_9" in refused.hint


# -- a second person ---------------------------------------------------------------------------------------------------


@pytest.fixture
def careful(world):
    """A registry that wants two people."""
    world.open(GateRule(second_person=True))
    return world.registry


def test_who_asks_is_not_who_approves(world, careful, alice):
    model = world.model(alice)
    for _ in range(2):
        with pytest.raises(ApprovalNeeded, match="Somebody else must promote it, too") as waits:
            careful.transition(alice, model.id, Stage.PRODUCTION)
    assert waits.value.details == {"model_id": model.id, "asked_by": alice.user_id}
    assert (careful.get(alice, model.id).stage, careful.get(alice, model.id).asked_by) == (Stage.NONE, alice.user_id)
    promoted = careful.transition(CAROL, model.id, Stage.PRODUCTION)
    assert (promoted.stage, promoted.asked_by) == (Stage.PRODUCTION, None)
    with world.database.read(alice.tenant_id) as session:
        told = [event.kind for event in session.scalars(select(EventRow).order_by(EventRow.id))]
    assert told == ["promotion.asked", "model.stage_changed"]


def test_a_wish_is_taken_back_by_moving_it_elsewhere(world, careful, alice):
    model = world.model(alice)
    with pytest.raises(ApprovalNeeded):
        careful.transition(alice, model.id, Stage.PRODUCTION)
    careful.transition(alice, model.id, Stage.STAGING)
    with pytest.raises(ApprovalNeeded):
        careful.transition(CAROL, model.id, Stage.PRODUCTION)


def test_the_second_word_does_not_replace_the_evaluation(world, careful, alice):
    model = careful.register(world.finished(alice))
    for actor in (alice, CAROL):
        with pytest.raises(EvaluationNeeded):
            careful.transition(actor, model.id, Stage.PRODUCTION)


# -- back again --------------------------------------------------------------------------------------------------------


def test_a_rollback_goes_back_step_by_step_and_needs_no_measurement(world, registry, alice):
    models = [world.promoted(alice, world.model(alice)) for _ in range(3)]
    assert registry.rollback(alice, "intents").id == models[1].id
    assert [registry.get(alice, model.id).stage.value for model in models] == ["Archived", "Production", "Archived"]
    assert registry.rollback(alice, "intents").id == models[0].id
    with pytest.raises(WrongState, match="No version of intents was in Production before"):
        registry.rollback(alice, "intents")
    assert registry.resolve(alice, "intents").id == models[0].id


def test_after_the_one_in_production_was_archived_a_rollback_brings_it_back(world, registry, alice):
    model = world.promoted(alice, world.model(alice))
    registry.transition(alice, model.id, Stage.ARCHIVED)
    assert registry.rollback(alice, "intents").id == model.id


def test_a_rollback_passes_over_what_was_deleted_and_over_what_never_was_in_production(world, registry, alice):
    models = [world.promoted(alice, world.model(alice)) for _ in range(3)]
    world.model(alice)
    registry.delete(alice, models[1].id)
    assert registry.rollback(alice, "intents").id == models[0].id


def test_a_name_that_nobody_knows_cannot_be_rolled_back(world, registry, alice, bob):
    world.promoted(alice, world.model(alice))
    for actor, name in ((alice, "other"), (bob, "intents")):
        with pytest.raises(NotFound):
            registry.rollback(actor, name)


def test_a_lost_database_does_not_forget_what_was_in_production_before(world, alice):
    first, second = (world.promoted(alice, world.model(alice)) for _ in range(2))
    world.lose_the_database()
    assert world.registry.reindex() == 2
    assert world.registry.rollback(alice, "intents").id == first.id
    assert world.registry.get(alice, second.id).stage is Stage.ARCHIVED


# -- side by side ------------------------------------------------------------------------------------------------------


def test_a_comparison_shows_three_sides_and_what_the_gate_says(two, world, registry, alice):
    first, second = two
    before = comparison_of(second, first, registry.gates.platform, ("job_1",))
    assert (before.gate.passes, before.against, before.running, before.production.id) == (False, None, ("job_1",), first.id)
    assert before.base.loss == 2.0
    model = scored(world, alice, second, first, tuned=0.5, production=0.6)
    found = comparison_of(model, first, registry.gates.platform, ())
    assert (found.gate.passes, found.against.loss, found.dataset, found.rows) == (True, 0.6, "ds_2", 100)
    registry.attach(world.measured(alice, model))
    later = comparison_of(registry.get(alice, model.id), first, registry.gates.platform, ())
    assert later.against.loss == 0.6  # what was measured against Production counts before what is newer


def test_what_stands_in_production_is_shown_beside_what_it_replaced(two, world, registry, alice):
    model = world.promoted(alice, two[1])
    found = comparison_of(model, model, registry.gates.platform, ())
    assert (found.production, found.against.loss, found.gate.passes) == (None, 0.6, True)


def test_a_comparison_of_what_was_not_measured_says_so(world, registry, alice):
    found = comparison_of(registry.register(world.finished(alice)), None, registry.gates.platform, ())
    assert (found.rows, found.tuned, found.gate.passes) == (None, None, False)


def test_what_it_forgot_stands_on_the_card_with_a_warning_where_it_is_much(world, registry, alice):
    checks = {"finite": True, "changes_logits": True, "forgetting": {"tokens": 400, "base": 3.0, "tuned": 4.25}}
    card = registry.register(world.finished(alice, checks=checks)).card
    assert card.forgetting.tuned == 4.25
    assert "Has forgotten: a neutral text costs it 4.25 nats a token, its base 3.00." in card.warnings
    little = {**checks, "forgetting": {"tokens": 400, "base": 3.0, "tuned": 3.25}}
    assert not any("forgotten" in warning for warning in registry.register(world.finished(alice, checks=little)).card.warnings)


def test_older_evaluations_without_the_new_numbers_are_read():
    found = Evaluation.model_validate({"rows": 1, "base": {"loss": 1.0}, "tuned": {"loss": 0.5}})
    assert (found.forgetting, found.tuned.f1, found.tuned.stops) == (None, None, None)
