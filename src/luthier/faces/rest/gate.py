"""What your team asks of a version before it goes to Production."""

from __future__ import annotations

from typing import Annotated

from luthier.errors import FieldInvalid
from luthier.faces.rest.access import AdminOnly
from luthier.faces.rest.body import Json, such_as
from luthier.faces.rest.errors import problems
from luthier.faces.rest.wire import CurrentActor, CurrentPlatform, router
from luthier.registry.gates import GateSettings, GateWish

routes = router("/api/gate", "models")

Wish = Annotated[Json[GateWish], such_as(metric="f1", margin=0.01, second_person=True)]


@routes.get("")
def show_gate(actor: CurrentActor, platform: CurrentPlatform) -> GateSettings:
    """The gate of your team: which metric, by how much better, and whether two people must want it."""
    return platform.registry.gates.of(actor)


@routes.put("", dependencies=[AdminOnly], responses=problems(FieldInvalid))
def set_gate(wanted: Wish, actor: CurrentActor, platform: CurrentPlatform) -> GateSettings:
    """Replace what your team decided; what is left out is the platform's. In force at once."""
    return platform.registry.gates.set(actor, wanted)
