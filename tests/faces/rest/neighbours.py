"""Two teams on one platform, each with one of everything that has an id, and callers of all kinds."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import update

from luthier import ids
from luthier.accounts import access_tokens
from luthier.accounts.store import KeyRow, MembershipRow, UserRow
from luthier.accounts.types import Audience, KeyWish, Role, Scope
from luthier.billing.types import Segment
from luthier.database import EVERY_TENANT

from .conftest import GOOD

PASSWORD = "correct horse battery"

PREFIXES = {
    "dataset": ids.DATASET,
    "job": ids.JOB,
    "model": ids.MODEL,
    "upload": ids.UPLOAD,
    "key": ids.KEY,
    "user": ids.USER,
    "invitation": ids.INVITATION,
    "webhook": ids.WEBHOOK,
    "hook": ids.HOOK,
    "audit": ids.AUDIT,
    "charge": ids.CHARGE,
    "delivery": ids.DELIVERY,
    "me": ids.TENANT,
}


@dataclass
class Team:
    """The keys of its callers, what it owns, and what it has deleted."""

    tenant_id: str
    keys: dict[str, str]
    own: dict[str, str] = field(default_factory=dict)
    deleted: dict[str, str] = field(default_factory=dict)
    refused: dict[str, dict[str, str]] = field(default_factory=dict)
    """Headers of callers who are nobody, by what is wrong with them."""


def settle(world, name: str) -> Team:
    """A team with a viewer, a member and an admin, and everything that can be owned, once standing and once deleted."""
    tenant_id, admin = (world.actor.tenant_id, world.actor.user_id) if name == "a" else _founded(world, name)
    keys = {"admin": _key(world, tenant_id, admin)}
    keys |= {f"{scope}-only key": _key(world, tenant_id, admin, scopes=(scope,)) for scope in Scope}
    team = Team(tenant_id, keys)
    for role in (Role.VIEWER, Role.MEMBER):
        keys[role.value] = _key(world, tenant_id, _joined(world, tenant_id, f"{role}@{name}.example", role))
    ask = _asking(world, keys["admin"])
    team.own, team.deleted = _things(world, team, ask, name), _things(world, team, ask, f"{name}-gone")
    _billed(world, tenant_id, team.own["job"])
    assert ask("POST", f"/api/jobs/{team.deleted['job']}/cancel").status_code == 200
    for kind in ("job", "dataset", "model", "upload", "webhook", "hook", "key", "user", "invitation"):
        assert ask("DELETE", f"/api/{kind}s/{team.deleted[kind]}").status_code == 204, kind
    keys["login"] = _login(world, ask, f"login@{name}.example")["access_token"]
    revoked = team.deleted.pop("secret")
    team.own.pop("secret")
    team.refused = _nobodies(world, team, ask, admin, revoked)
    world.platform.audit.keep(everything=True)
    team.own["audit"] = ask("GET", "/api/audit?limit=1").json()["data"][0]["id"]
    team.own["charge"] = ask("GET", "/api/billing/history?limit=1").json()["data"][0]["id"]
    team.own["me"] = tenant_id
    return team


def unknown(kind: str) -> str:
    """An id that nobody has."""
    return "nobody" if kind == "name" else ids.new(PREFIXES[kind])


def rows_of(world, team: Team) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table that is this team's, but the log of what was tried, and when a key was last used."""
    found: dict[str, list[tuple[object, ...]]] = {}
    with world.platform.database.engine.connect() as connection:
        tables = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars().all()
        for table in sorted(set(tables) - {"audit", "alembic_version"}):
            columns = [row[1] for row in connection.exec_driver_sql(f"PRAGMA table_info({table})")]
            owner = "tenant_id" if "tenant_id" in columns else "id" if table == "tenants" else None
            if owner is not None:
                lasting = ", ".join(f'"{name}"' for name in columns if name != "last_used_at")
                query = f"SELECT {lasting} FROM {table} WHERE {owner} = ? ORDER BY rowid"  # names of our own tables
                found[table] = [tuple(row) for row in connection.exec_driver_sql(query, (team.tenant_id,))]
    return found


def _things(world, team: Team, ask, name: str) -> dict[str, str]:
    dataset = ask("POST", f"/api/datasets?name={name}", content=GOOD)
    made = {"dataset": dataset.json()["id"]}
    job = ask("POST", "/api/jobs", json={"base_model": "luthier/tiny", "dataset": made["dataset"], "name": name})
    made["job"] = job.json()["job"]["id"]
    actor = world.platform.accounts.authenticate(team.keys["admin"])
    made["model"] = world.model(actor, name=f"line-{name}").id
    made["name"] = f"line-{name}"
    told = {"name": name, "sha256": hashlib.sha256(GOOD).hexdigest()}
    metadata = ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in told.items())
    upload = ask("POST", "/api/uploads", headers={"upload-length": str(len(GOOD)), "upload-metadata": metadata})
    made["upload"] = upload.headers["location"].rsplit("/", 1)[1]
    key = ask("POST", "/api/keys", json={"name": name}).json()
    made["key"], made["secret"] = key["key"]["id"], key["secret"]
    made["user"] = _joined(world, team.tenant_id, f"{name}@people.example", Role.VIEWER)
    made["invitation"] = ask("POST", "/api/invitations", json={"email": f"{name}@new.example"}).json()["invitation"]["id"]
    hook = ask("POST", "/api/webhooks", json={"url": f"https://{name}.example/x", "channel": "webhook"})
    made["webhook"] = hook.json()["id"]
    assert ask("POST", f"/api/webhooks/{made['webhook']}/test").status_code == 202
    made["delivery"] = ask("GET", f"/api/webhooks/{made['webhook']}/deliveries").json()["data"][0]["id"]
    run = {"base_model": "luthier/tiny", "dataset": made["dataset"]}
    made["hook"] = ask("POST", "/api/hooks", json={"name": name, "run": run}).json()["id"]
    return made


def _billed(world, tenant_id: str, job_id: str) -> None:
    """A line of the ledger, which is for ever."""
    segment = Segment(tenant_id, job_id, 1, 0, "A100", world.platform.now(), 3_600_000)
    with world.platform.database.write(EVERY_TENANT) as session:
        world.platform.billing.beat(session, segment)
        world.platform.billing.settle(session, tenant_id, job_id)


def _login(world, ask, email: str) -> dict[str, str]:
    """One more admin of the team, who has a password: the tokens of a login."""
    invited = ask("POST", "/api/invitations", json={"email": email, "role": "admin"}).json()["token"]
    signed_up = world.client.post("/auth/signup", json={"email": email, "password": PASSWORD, "invitation": invited})
    assert signed_up.status_code == 201
    return world.client.post("/auth/login", json={"email": email, "password": PASSWORD}).json()


def _nobodies(world, team: Team, ask, admin: str, revoked: str) -> dict[str, dict[str, str]]:
    good, accounts, now = team.keys["admin"], world.platform.accounts, world.platform.now()
    late = _key(world, team.tenant_id, admin, expires_in_days=1)
    with world.platform.database.write(EVERY_TENANT) as session:
        session.execute(update(KeyRow).where(KeyRow.expires_at.is_not(None)).values(expires_at=now - timedelta(seconds=1)))
    over, ended = (_login(world, ask, f"{word}@{team.own['name']}.example") for word in ("over", "ended"))
    said = access_tokens.read(over["access_token"], accounts.signing.valid(), now)
    before = said.model_copy(update={"iat": said.iat - 3600, "exp": said.iat - 3000})
    ended_by = {"authorization": f"Bearer {ended['access_token']}"}
    assert world.client.post("/auth/logout", headers=ended_by).status_code == 204
    secrets = {
        "revoked key": revoked,
        "expired key": late,
        "cut key": good[:-1],
        "key of the MCP server": _key(world, team.tenant_id, admin, audience=Audience.MCP),
        "key of a webhook": _key(world, team.tenant_id, admin, audience=Audience.WEBHOOK),
        "expired token": access_tokens.signed(before, accounts.signing.current()),
        "refresh token": over["refresh_token"],
    }
    cookies = {"cookie": f"x-api-key={good}; session={good}; authorization=Bearer {over['access_token']}"}
    return {
        "nobody": {},
        "cookie": cookies,
        "ended login": ended_by,
        **{what: {"x-api-key": key} for what, key in secrets.items()},
    }


def _asking(world, key: str):
    def ask(method, path, **more):
        return world.client.request(method, path, headers={"x-api-key": key, **more.pop("headers", {})}, **more)

    return ask


def _founded(world, name: str) -> tuple[str, str]:
    from luthier.accounts.store import TenantRow

    tenant_id = ids.new(ids.TENANT)
    with world.platform.database.write(EVERY_TENANT) as session:
        session.add(TenantRow(id=tenant_id, name=name, created_at=world.platform.now()))
    return tenant_id, _joined(world, tenant_id, f"admin@{name}.example", Role.ADMIN)


def _joined(world, tenant_id: str, email: str, role: Role) -> str:
    user_id = ids.new(ids.USER)
    with world.platform.database.write(EVERY_TENANT) as session:
        session.add(UserRow(id=user_id, email=email, created_at=world.platform.now()))
        session.flush()
        session.add(MembershipRow(tenant_id=tenant_id, user_id=user_id, role=role))
    return user_id


def _key(world, tenant_id: str, user_id: str, **wish) -> str:
    with world.platform.database.write(tenant_id) as session:
        return world.platform.accounts.keys.add(session, tenant_id, user_id, KeyWish(name="tests", **wish)).secret
