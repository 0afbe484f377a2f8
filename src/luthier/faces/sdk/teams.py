"""The caller's teams, and the people of the one that they act for."""

from __future__ import annotations

from luthier.faces.sdk.answers import Invitation, Member, NewInvitation, Team
from luthier.faces.sdk.blocking import Face, blocking
from luthier.faces.sdk.transport import Call, Transport


class AsyncTeams:
    """`client.teams`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def list(self) -> tuple[Team, ...]:
        """The teams that you are in."""
        return (await self._transport.page("/api/teams", Team)).data

    async def create(self, name: str) -> Team:
        """A new team, with you as its admin."""
        return Team(await self._transport.json(Call("POST", "/api/teams", body={"name": name})))

    async def members(self) -> tuple[Member, ...]:
        """The people of your team."""
        return (await self._transport.page("/api/users", Member)).data

    async def set_role(self, user_id: str, role: str) -> Member:
        """`viewer`, `member` or `admin`: in force on their next request. For admins."""
        return Member(await self._transport.json(Call("PATCH", f"/api/users/{user_id}", body={"role": role}, again=True)))

    async def remove(self, user_id: str) -> None:
        """Take somebody out of your team; their keys and logins for it end. For admins."""
        await self._transport.json(Call("DELETE", f"/api/users/{user_id}"))

    async def invite(self, email: str, *, role: str = "member") -> NewInvitation:
        """Invite an address. Give the `token` to the person: it is in this answer, and nowhere else. For admins."""
        return NewInvitation(await self._transport.json(Call("POST", "/api/invitations", body={"email": email, "role": role})))

    async def invitations(self) -> tuple[Invitation, ...]:
        """Those that nobody has accepted yet. For admins."""
        return (await self._transport.page("/api/invitations", Invitation)).data

    async def withdraw(self, invitation_id: str) -> None:
        """End an invitation. For admins."""
        await self._transport.json(Call("DELETE", f"/api/invitations/{invitation_id}"))

    async def join(self, token: str) -> Team:
        """Accept an invitation to your e-mail address."""
        return Team(await self._transport.json(Call("POST", "/api/invitations/accept", body={"token": token})))


class Teams(Face):
    """`client.teams`."""

    list = blocking(AsyncTeams.list)
    create = blocking(AsyncTeams.create)
    members = blocking(AsyncTeams.members)
    set_role = blocking(AsyncTeams.set_role)
    remove = blocking(AsyncTeams.remove)
    invite = blocking(AsyncTeams.invite)
    invitations = blocking(AsyncTeams.invitations)
    withdraw = blocking(AsyncTeams.withdraw)
    join = blocking(AsyncTeams.join)
