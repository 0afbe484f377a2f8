"""Teams: who belongs to one, with which role, and whom it has invited."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from luthier import ids
from luthier.accounts import store
from luthier.accounts.opaque import digest, fresh
from luthier.accounts.passwords import Passwords
from luthier.accounts.types import Actor, AnyTeam, Invitation, Member, NewInvitation, Role, Team
from luthier.accounts.users import Users
from luthier.database import EVERY_TENANT, Database
from luthier.errors import Conflict, Forbidden, Gone, LastAdmin, NotFound
from luthier.seams import Clock

_INVITED_FOR = timedelta(days=7)
_WRONG_TRIES = 5
_MOST_OPEN = 200
_MOST_TEAMS = 50
_ASK_AGAIN = "Give the whole token, for the e-mail address that was invited; or ask an admin of the team for a new one."


class Teams:
    """The caller's teams, and the people of the one that they act for. Roles are checked at the door, rights to rows here."""

    def __init__(self, database: Database, users: Users, passwords: Passwords, now: Clock) -> None:
        self._database = database
        self._users = users
        self._passwords = passwords
        self._now = now

    def list(self, actor: Actor) -> tuple[Team, ...]:
        """The teams that the caller is in, in the order of joining. A key sees its own team only."""
        with self._database.read(EVERY_TENANT) as session:
            found = store.teams_of(session, actor.user_id)
        mine = [pair for pair in found if actor.key_id is None or pair[0].id == actor.tenant_id]
        return tuple(_team(tenant, Role(place.role)) for tenant, place in mine)

    def create(self, actor: Actor, name: str) -> Team:
        """A new team, with the caller as its admin. Raises: Conflict at 50 teams; Forbidden for a key, which has one team."""
        if actor.key_id is not None:
            raise Forbidden("A key acts for one team and makes no others.", hint="Log in: `tune login`.")
        with self._database.write(EVERY_TENANT) as session:
            if len(store.teams_of(session, actor.user_id)) >= _MOST_TEAMS:
                raise Conflict(f"You are in {_MOST_TEAMS} teams.", hint="Leave one first.")
            tenant = store.TenantRow(id=ids.new(ids.TENANT), name=name, created_at=self._now())
            session.add(tenant)
            session.flush()
            session.add(store.MembershipRow(tenant_id=tenant.id, user_id=actor.user_id, role=Role.ADMIN))
            return _team(tenant, Role.ADMIN)

    def members(self, actor: Actor) -> tuple[Member, ...]:
        """The people of the caller's team, in the order of joining."""
        with self._database.read(actor.tenant_id) as session:
            return tuple(_member(place, user) for place, user in store.members(session))

    def set_role(self, actor: Actor, user_id: str, role: Role) -> Member:
        """In force on their next request. Raises: NotFound; LastAdmin where nobody could undo it."""
        with self._database.write(actor.tenant_id) as session:
            place = _place(session, user_id)
            _keep_an_admin(session, place, role)
            place.role = role
            return _member(place, session.get_one(store.UserRow, user_id))

    def remove(self, actor: Actor, user_id: str) -> None:
        """Their keys, logins and invitations for this team end; the account stays, and so does what they made here.

        Raises: NotFound; LastAdmin.
        """
        now = self._now()
        with self._database.write(actor.tenant_id) as session:
            place = _place(session, user_id)
            _keep_an_admin(session, place, None)
            # Revoked, not only left without a member: a later invitation must not bring an old key back to life. An earlier
            # one that was not needed any more must not bring them back by themselves.
            store.revoke_keys(session, user_id, now)
            store.end_logins(session, user_id, now, tenant_id=actor.tenant_id)
            store.withdraw_invitations(session, session.get_one(store.UserRow, user_id).email)
            session.delete(place)

    def invite(self, actor: Actor, email: str, role: Role) -> NewInvitation:
        """An offer for this address, good for a week and for one person. Raises: Conflict for a member; at 200 open ones."""
        now = self._now()
        invitation_id = ids.new(ids.INVITATION)
        token = fresh(invitation_id)
        with self._database.write(actor.tenant_id) as session:
            if len(_open(session, now)) >= _MOST_OPEN:
                raise Conflict(f"Your team has {_MOST_OPEN} open invitations.", hint="Withdraw those that nobody needs.")
            if any(user.email == email for _, user in store.members(session)):
                raise Conflict("They are in your team already.", hint="See `GET /api/users`.")
            row = store.InvitationRow(
                id=invitation_id,
                tenant_id=actor.tenant_id,
                email=email,
                role=role,
                sha256=digest(token),
                created_by=actor.user_id,
                created_at=now,
                expires_at=now + _INVITED_FOR,
            )
            session.add(row)
            return NewInvitation(token=token, invitation=_invitation(row))

    def invitations(self, actor: Actor) -> tuple[Invitation, ...]:
        """Those that open the team to somebody, newest first."""
        with self._database.read(actor.tenant_id) as session:
            return tuple(_invitation(row) for row in _open(session, self._now()))

    def withdraw(self, actor: Actor, invitation_id: str) -> None:
        """Its token opens nothing any more. Raises: NotFound."""
        with self._database.write(actor.tenant_id) as session:
            row = session.get(store.InvitationRow, invitation_id)
            if row is None:
                raise NotFound("invitation")
            session.delete(row)

    def accept(self, actor: Actor, token: str) -> Team:
        """Join the team that invited the caller's e-mail address.

        Raises: NotFound for a token that is none, or another person's; Gone for one that was used, has expired, or was
        guessed at five times; Forbidden for a key.
        """
        if actor.key_id is not None:
            raise Forbidden("A key acts for one team and joins no others.", hint="Log in: `tune login`.")
        self._check_guess(token)
        with self._database.write(EVERY_TENANT) as session:
            user = session.get_one(store.UserRow, actor.user_id)
            place = self._joined(session, user, token)
            return _team(session.get_one(store.TenantRow, place.tenant_id), Role(place.role))

    def sign_up(self, email: str, password: str, token: str | None) -> str:
        """A new account; with a token also a member of the team that invited this address. Returns the user's id.

        The address counts as confirmed where the team that runs the platform gave the token.

        Raises: AccountExists; NotFound and Gone as `accept`.
        """
        if token is not None:
            self._check_guess(token)
        hashed = self._passwords.hashed(password)
        with self._database.write(EVERY_TENANT) as session:
            user = self._users.made(session, email, hashed, confirmed=False)
            if token is not None:  # before the team of one: the first team is the one that a login acts for
                place = self._joined(session, user, token)
                # Whoever invites is shown the token, and everybody is the admin of a team of one: they could invite somebody
                # else's address and come in their name. Only those who run the platform vouch for whom they gave it to.
                user.confirmed = place.tenant_id == store.home(session)
            self._users.home(session, user)
            return user.id

    def _check_guess(self, token: str) -> None:
        """Count a wrong secret of an invitation that exists; in a transaction of its own, since what follows is refused."""
        invitation_id = token[:30]
        if not ids.is_id(invitation_id, ids.INVITATION):
            raise NotFound("invitation", hint=_ASK_AGAIN)
        with self._database.write(EVERY_TENANT) as session:
            row = session.get(store.InvitationRow, invitation_id)
            right = row is not None and row.sha256 == digest(token)
            if row is not None and not right:
                row.wrong_tries += 1
        if not right:
            raise NotFound("invitation", hint=_ASK_AGAIN)

    def _joined(self, session: Session, user: store.UserRow, token: str) -> store.MembershipRow:
        now = self._now()
        row = session.get(store.InvitationRow, token[:30])
        if row is None or row.email != user.email:
            raise NotFound("invitation", hint=_ASK_AGAIN)
        if row.accepted_at is not None or row.expires_at <= now or row.wrong_tries >= _WRONG_TRIES:
            raise Gone("invitation", why="was used, has expired, or was guessed at too often", hint=_ASK_AGAIN)
        if store.membership(session, user.id, row.tenant_id) is not None:
            raise Conflict("You are in this team already.")
        row.accepted_at = now
        place = store.MembershipRow(tenant_id=row.tenant_id, user_id=user.id, role=row.role)
        session.add(place)
        session.flush()
        return place

    def every(self) -> list[AnyTeam]:
        """For those who run the server: all teams, oldest first."""
        with self._database.read(EVERY_TENANT) as session:
            return [
                AnyTeam(id=row.id, name=row.name, members=members, suspended_at=row.suspended_at)
                for row, members in store.teams(session)
            ]

    def put(self, tenant_id: str, email: str, role: Role) -> Member:
        """For those who run the server: a new member, or another role. Raises: NotFound; LastAdmin."""
        with self._database.write(EVERY_TENANT) as session:
            user = store.by_email(session, email)
            if user is None:
                raise NotFound("user", hint="List them with `luthier users list`.")
            if session.get(store.TenantRow, tenant_id) is None:
                raise NotFound("team", hint="List them with `luthier teams list`.")
        with self._database.write(tenant_id) as session:
            place = next((place for place, other in store.members(session) if other.id == user.id), None)
            if place is None:
                place = store.MembershipRow(tenant_id=tenant_id, user_id=user.id, role=role)
                session.add(place)
            else:
                _keep_an_admin(session, place, role)
                place.role = role
            return _member(place, user)

    def suspend(self, tenant_id: str, *, on: bool = True) -> None:
        """Nobody acts for this team from the next request on; `on=False` ends that. Raises: NotFound."""
        with self._database.write(EVERY_TENANT) as session:
            row = session.get(store.TenantRow, tenant_id)
            if row is None:
                raise NotFound("team", hint="List them with `luthier teams list`.")
            row.suspended_at = (row.suspended_at or self._now()) if on else None


def _place(session: Session, user_id: str) -> store.MembershipRow:
    place = next((place for place, user in store.members(session) if user.id == user_id), None)
    if place is None:
        raise NotFound("user")
    return place


def _keep_an_admin(session: Session, place: store.MembershipRow, role: Role | None) -> None:
    if place.role == Role.ADMIN and role is not Role.ADMIN and store.admins_beside(session, place.user_id) == 0:
        raise LastAdmin


def _open(session: Session, now: datetime) -> list[store.InvitationRow]:
    return store.open_invitations(session, now, wrong_tries=_WRONG_TRIES)


def _team(row: store.TenantRow, role: Role) -> Team:
    return Team(id=row.id, name=row.name, role=role, created_at=row.created_at)


def _member(place: store.MembershipRow, user: store.UserRow) -> Member:
    return Member(user_id=user.id, email=user.email, role=Role(place.role))


def _invitation(row: store.InvitationRow) -> Invitation:
    return Invitation(
        id=row.id,
        email=row.email,
        role=Role(row.role),
        created_by=row.created_by,
        created_at=row.created_at,
        expires_at=row.expires_at,
    )
