"""A team's own gate to Production."""

import pytest

from luthier.accounts.types import Actor, Role
from luthier.errors import ApprovalNeeded, EvaluationNeeded
from luthier.registry.gate_rules import GateRule
from luthier.registry.gates import GateWish
from luthier.registry.types import Stage

BOB = Actor("team_bob", "user_bob", Role.ADMIN)


@pytest.fixture
def two(world, alice):
    """A version in Production with the loss 0.6, and one that was measured against it at 0.5."""
    first, second = world.promoted(alice, world.model(alice)), world.model(alice)
    world.registry.attach(world.measured(alice, second, {**world.scores(tuned=0.5), "against": {"loss": 0.6}}, against=first))
    return first, second


def test_what_a_team_leaves_open_is_the_platforms_and_no_other_team_is_touched(world, alice):
    world.open(GateRule("f1", 0.25))
    gates = world.registry.gates
    found = gates.set(alice, GateWish(margin=-0.5))
    assert (found.metric, found.margin, found.second_person, found.own) == ("f1", -0.5, False, ("margin",))
    assert gates.of(alice) == found
    assert gates.rule_of(alice) == GateRule("f1", -0.5, own=True)
    assert (gates.of(BOB).margin, gates.of(BOB).own, gates.rule_of(BOB)) == (0.25, (), GateRule("f1", 0.25))
    assert gates.set(alice, GateWish(second_person=True)).own == ("second_person",)  # all of it is replaced
    assert gates.set(alice, GateWish()).own == ()
    assert gates.set(alice, GateWish()) == gates.of(BOB)


def test_a_version_is_let_in_by_the_gate_of_its_team_and_a_refusal_says_so(world, registry, alice, two):
    registry.gates.set(alice, GateWish(margin=0.2))
    with pytest.raises(EvaluationNeeded, match=r"by the gate of your team it must be better by 0\.2") as refused:
        registry.transition(alice, two[1].id, Stage.PRODUCTION)
    assert (refused.value.details["gate"], refused.value.details["margin"]) == ("team", 0.2)
    assert "`model gate`" in refused.value.hint
    registry.gates.set(alice, GateWish())
    assert registry.transition(alice, two[1].id, Stage.PRODUCTION).stage is Stage.PRODUCTION


def test_a_team_may_want_two_people_where_the_platform_wants_one(registry, alice, two):
    registry.gates.set(alice, GateWish(second_person=True))
    with pytest.raises(ApprovalNeeded, match="Somebody else"):
        registry.transition(alice, two[1].id, Stage.PRODUCTION)
    carol = Actor(alice.tenant_id, "user_carol", Role.MEMBER)
    assert registry.transition(carol, two[1].id, Stage.PRODUCTION).stage is Stage.PRODUCTION
