"""One Production a name, and only for what was shown to be no worse than its base."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select

from luthier.errors import EvaluationNeeded, Gone, InUse, ModelNotReady, NotFound
from luthier.jobs.spec import RunSpec
from luthier.jobs.types import Job, JobError, JobState
from luthier.notifications.outbox import EventRow
from luthier.registry.rules import check_made
from luthier.registry.types import Stage


@pytest.fixture
def job_in(world):
    def make(state: str) -> Job:
        spec = RunSpec(base_model="luthier/tiny", dataset="ds_1", name="intents")
        shown = {
            "name": "intents",
            "kind": "train",
            "method": "sft",
            "base_model": "luthier/tiny",
            "dataset": "ds_1",
            "spec": spec,
        }
        shown |= {"hardware": "x", "attempt": 1, "created_by": "u"}
        money = {"cost_usd": "0", "estimated_cost_usd": "0"}
        times = {"created_at": world.now(), "updated_at": world.now()}
        error = JobError(code="diverged", message="NaN.", hint="Lower the learning rate.") if state == "failed" else None
        return Job(id="job_1", state=JobState(state), error=error, **shown, **money, **times)

    return make


def stages(registry, actor) -> dict[str, str]:
    return {f"{model.name}@{model.version}": model.stage.value for model in registry.list(actor).data}


def test_promoting_archives_the_version_before(world, registry, alice):
    first, second = world.model(alice), world.model(alice)
    world.promoted(alice, first)
    promoted = world.promoted(alice, second)
    assert promoted.stage is Stage.PRODUCTION
    assert stages(registry, alice) == {"intents@1": "Archived", "intents@2": "Production"}
    for model, stage in ((first, "Archived"), (second, "Production")):
        root = f"users/team_alice/models/{model.id}"
        assert json.loads(world.storage.read(f"model_registry/{model.id}.json"))["stage"] == stage
        assert json.loads(world.storage.read(f"{root}/metadata.json"))["stage"] == stage


def test_other_names_and_other_teams_keep_their_production(world, registry, alice, bob):
    for actor, name in ((alice, "a"), (alice, "b"), (bob, "a")):
        registry.transition(actor, world.model(actor, name).id, Stage.PRODUCTION)
    assert stages(registry, alice) == {"a@1": "Production", "b@1": "Production"}
    assert stages(registry, bob) == {"a@1": "Production"}


def test_of_many_promotions_at_once_one_wins_and_the_others_must_be_compared_with_it(world, registry, alice):
    before = world.promoted(alice, world.model(alice))
    models = [world.model(alice) for _ in range(6)]
    for model in models:
        registry.attach(world.measured(alice, model, against=before))

    def promoted(model) -> str:
        try:
            return registry.transition(alice, model.id, Stage.PRODUCTION).stage
        except EvaluationNeeded as refused:
            return refused.error_code

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(promoted, models)) == ["Production", *["evaluation_needed"] * 5]
    assert sorted(stages(registry, alice).values()) == ["Archived", *["None"] * 5, "Production"]


def test_a_model_that_is_worse_than_its_base_is_not_promoted(world, registry, alice):
    good = registry.transition(alice, world.model(alice).id, Stage.PRODUCTION)
    worse = world.model(alice, scores=world.scores(base=1.0, tuned=1.25))
    with pytest.raises(EvaluationNeeded, match=r"100 held-out rows its loss is 1\.2500, that of its base 1\.0000"):
        registry.transition(alice, worse.id, Stage.PRODUCTION)
    assert registry.resolve(alice, "intents").id == good.id


def test_a_model_that_was_not_measured_is_not_promoted(world, registry, alice):
    model = registry.register(world.finished(alice))
    with pytest.raises(EvaluationNeeded, match="model evaluate"):
        registry.transition(alice, model.id, Stage.PRODUCTION)
    assert registry.transition(alice, model.id, Stage.STAGING).stage is Stage.STAGING


def test_moving_to_the_stage_where_it_stands_changes_nothing(world, registry, alice):
    model = registry.transition(alice, world.model(alice).id, Stage.PRODUCTION)
    assert registry.transition(alice, model.id, Stage.PRODUCTION) == model


def test_references_mean_ids_numbers_and_what_is_in_production(world, registry, alice):
    first, second = world.model(alice), world.model(alice)
    registry.transition(alice, first.id, Stage.PRODUCTION)
    assert registry.resolve(alice, "intents").id == first.id
    assert registry.resolve(alice, "intents@2").id == second.id
    assert registry.resolve(alice, second.id).id == second.id


def test_a_name_may_look_like_a_number_of_another(world, registry, alice):
    model = registry.transition(alice, world.model(alice, "intents@3").id, Stage.PRODUCTION)
    assert registry.resolve(alice, "intents@3").id == model.id


def test_a_name_without_production_says_which_versions_there_are(world, registry, alice):
    world.model(alice)
    with pytest.raises(NotFound, match=r"newest is version 1: write `name@1`"):
        registry.resolve(alice, "intents")


@pytest.mark.parametrize(
    "ref", ["model_" + "0" * 26, "intents", "intents@9", "../x", "intents@0", "", "model_x", "a" * 300, "@1"]
)
def test_unknown_references_are_not_found(registry, alice, ref):
    with pytest.raises(NotFound):
        registry.resolve(alice, ref)


def test_a_foreign_model_is_answered_like_an_unknown_one(world, registry, alice, bob):
    model = world.model(alice)
    registry.transition(alice, model.id, Stage.PRODUCTION)
    for verb in (registry.get, registry.resolve, registry.delete, registry.files, registry.archive):
        with pytest.raises(NotFound) as foreign:
            verb(bob, model.id)
        with pytest.raises(NotFound) as unknown:
            verb(bob, "model_" + "0" * 26)
        assert str(foreign.value) == str(unknown.value)
    for ref in ("intents", "intents@1"):
        with pytest.raises(NotFound):
            registry.transition(bob, ref, Stage.ARCHIVED)
    assert registry.list(bob).data == []


def test_a_deleted_model_is_gone_with_its_files_and_its_number_stays_taken(world, registry, alice):
    model = world.model(alice)
    local = registry.weights(alice, model)
    registry.delete(alice, model.id)
    for ref in (model.id, "intents@1"):
        with pytest.raises(Gone):
            registry.resolve(alice, ref)
    with pytest.raises(Gone):
        registry.delete(alice, model.id)
    assert registry.list(alice).data == []
    assert not local.exists()
    assert [name for name in world.storage.names("") if model.id in name] == []
    assert world.model(alice).version == "2"


def test_what_is_in_production_is_not_deleted(world, registry, alice):
    model = registry.transition(alice, world.model(alice).id, Stage.PRODUCTION)
    with pytest.raises(InUse, match="Production"):
        registry.delete(alice, "intents")
    registry.transition(alice, model.id, Stage.ARCHIVED)
    registry.delete(alice, model.id)


def test_what_something_uses_is_not_deleted_until_it_lets_go(world, registry, alice):
    model = world.model(alice)
    for _ in range(2):
        with world.database.write(alice.tenant_id) as session:
            registry.use(session, alice, model.id, "job_1")
    with pytest.raises(InUse, match="job_1"):
        registry.delete(alice, model.id)
    with world.database.write(alice.tenant_id) as session:
        registry.release(session, "job_1")
    registry.delete(alice, model.id)


def test_lists_are_filtered_by_name_and_stage_and_come_in_pages(world, registry, alice):
    models = [world.model(alice, name) for name in ("a", "b", "a")]
    registry.transition(alice, models[0].id, Stage.PRODUCTION)
    assert {model.id for model in registry.list(alice, name="a").data} == {models[0].id, models[2].id}
    assert [model.id for model in registry.list(alice, stage=Stage.PRODUCTION).data] == [models[0].id]
    page = registry.list(alice, limit=2)
    rest = registry.list(alice, limit=2, after=page.next_cursor)
    assert {model.id for model in [*page.data, *rest.data]} == {model.id for model in models}
    assert rest.next_cursor is None


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("queued", "its job is queued"),
        ("running", "its job is running"),
        ("failed", r"its job failed \(diverged\)\. Lower the learning rate\."),
        ("stopped", "was stopped before its end. Go on with `tune resume"),
        ("cancelled", "its job was cancelled"),
    ],
)
def test_a_model_that_no_job_has_made_yet_is_named_with_its_jobs_state(job_in, state, words):
    with pytest.raises(ModelNotReady, match=words):
        check_made(job_in(state))


def test_of_a_job_that_succeeded_the_registry_alone_knows(job_in):
    check_made(job_in("succeeded"))


def test_each_change_of_a_stage_is_told_once(world, registry, alice):
    first, second = world.model(alice), world.model(alice)
    for model in (first, second):
        world.promoted(alice, model)
    registry.transition(alice, second.id, Stage.PRODUCTION)
    with world.database.read(alice.tenant_id) as session:
        events = list(session.scalars(select(EventRow).order_by(EventRow.created_at, EventRow.id)))
    assert {event.kind for event in events} == {"model.stage_changed"}
    told = [json.loads(event.data) for event in events]
    assert [(news["version"], news["from_stage"], news["stage"], news["by"]) for news in told] == [
        ("1", "None", "Production", alice.user_id),
        ("1", "Production", "Archived", alice.user_id),
        ("2", "None", "Production", alice.user_id),
    ]


def test_a_refused_promotion_tells_nothing(world, registry, alice):
    model = registry.register(world.finished(alice))
    with pytest.raises(EvaluationNeeded):
        registry.transition(alice, model.id, Stage.PRODUCTION)
    with world.database.read(alice.tenant_id) as session:
        assert session.scalar(select(EventRow)) is None
