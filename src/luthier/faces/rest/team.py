"""Your teams, the people of the one that you act for, and invitations to it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from luthier.accounts.types import Email, Invitation, Member, NewInvitation, Role, Team
from luthier.errors import Conflict, FieldInvalid, Forbidden, Gone, LastAdmin, NotFound
from luthier.faces.rest.access import AdminOnly, ViewersToo
from luthier.faces.rest.body import Json, such_as
from luthier.faces.rest.errors import problems
from luthier.faces.rest.wire import CurrentActor, CurrentPlatform, InvitationId, UserId, router
from luthier.values import Frozen, Name, Page

routes = router("/api", "team")


class TeamRequest(Frozen):
    """A new team."""

    name: Name = Field(examples=["Research"])


class RoleRequest(Frozen):
    """What somebody may do in the team from now on."""

    role: Role = Field(strict=False)


class InvitationRequest(Frozen):
    """Whom to invite, and as what."""

    email: Email
    role: Role = Field(default=Role.MEMBER, strict=False)


class AcceptRequest(Frozen):
    """The token of an invitation."""

    token: Annotated[str, Field(max_length=200)]


Wish = Annotated[Json[TeamRequest], such_as(name="Research")]
NewRole = Annotated[Json[RoleRequest], such_as(role="admin")]
Invitee = Annotated[Json[InvitationRequest], such_as(email="ada@example.com", role="member")]
Token = Annotated[Json[AcceptRequest], such_as(token="the token of the invitation")]  # noqa: S106  # no password


@routes.get("/teams")
def list_teams(actor: CurrentActor, platform: CurrentPlatform) -> Page[Team]:
    """The teams that you are in. `X-Luthier-Team: <id>` makes a login act for another one than its first."""
    return Page[Team](data=list(platform.accounts.teams.list(actor)))


@routes.post("/teams", status_code=201, dependencies=[ViewersToo], responses=problems(Forbidden, Conflict, FieldInvalid))
def create_team(asked: Wish, actor: CurrentActor, platform: CurrentPlatform) -> Team:
    """Make a team, with you as its admin."""
    return platform.accounts.teams.create(actor, asked.name)


@routes.get("/users")
def members(actor: CurrentActor, platform: CurrentPlatform) -> Page[Member]:
    """The people of your team."""
    return Page[Member](data=list(platform.accounts.teams.members(actor)))


@routes.patch("/users/{user_id}", dependencies=[AdminOnly], responses=problems(NotFound, LastAdmin, FieldInvalid))
def set_role(user_id: UserId, asked: NewRole, actor: CurrentActor, platform: CurrentPlatform) -> Member:
    """Give somebody of your team another role. It is in force on their next request."""
    return platform.accounts.teams.set_role(actor, user_id, asked.role)


@routes.delete("/users/{user_id}", status_code=204, dependencies=[AdminOnly], responses=problems(NotFound, LastAdmin))
def remove(user_id: UserId, actor: CurrentActor, platform: CurrentPlatform) -> None:
    """Take somebody out of your team: their keys and logins for it end now."""
    platform.accounts.teams.remove(actor, user_id)


@routes.post("/invitations", status_code=201, dependencies=[AdminOnly], responses=problems(Conflict, FieldInvalid))
def invite(asked: Invitee, actor: CurrentActor, platform: CurrentPlatform) -> NewInvitation:
    """Invite an e-mail address. The answer shows the token, this once: give it to the person."""
    return platform.accounts.teams.invite(actor, asked.email, asked.role)


@routes.get("/invitations", dependencies=[AdminOnly])
def invitations(actor: CurrentActor, platform: CurrentPlatform) -> Page[Invitation]:
    """Invitations to your team that nobody has accepted yet."""
    return Page[Invitation](data=list(platform.accounts.teams.invitations(actor)))


@routes.delete("/invitations/{invitation_id}", status_code=204, dependencies=[AdminOnly], responses=problems(NotFound))
def withdraw(invitation_id: InvitationId, actor: CurrentActor, platform: CurrentPlatform) -> None:
    """Withdraw an invitation."""
    platform.accounts.teams.withdraw(actor, invitation_id)


@routes.post(
    "/invitations/accept",
    dependencies=[ViewersToo],
    responses=problems(NotFound, Gone, Conflict, Forbidden, FieldInvalid),
)
def accept(asked: Token, actor: CurrentActor, platform: CurrentPlatform) -> Team:
    """Join the team that invited your e-mail address."""
    return platform.accounts.teams.accept(actor, asked.token)
