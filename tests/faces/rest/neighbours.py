"""Two teams on one platform, each with one of everything that has an id, and callers of all kinds."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field

from luthier import ids
from luthier.accounts.store import MembershipRow, UserRow
from luthier.accounts.types import KeyWish, Role, Scope
from luthier.database import EVERY_TENANT

from .conftest import GOOD

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
}


@dataclass
class Team:
    """The keys of its callers, what it owns, and what it has deleted."""

    tenant_id: str
    keys: dict[str, str]
    own: dict[str, str] = field(default_factory=dict)
    deleted: dict[str, str] = field(default_factory=dict)


def settle(world, name: str) -> Team:
    """A team with a viewer, a member and an admin, and everything that can be owned, once standing and once deleted."""
    tenant_id, admin = (world.actor.tenant_id, world.actor.user_id) if name == "a" else _founded(world, name)
    keys = {"admin": _key(world, tenant_id, admin), "read-only key": _key(world, tenant_id, admin, scopes=(Scope.READ,))}
    team = Team(tenant_id, keys)
    for role in (Role.VIEWER, Role.MEMBER):
        keys[role.value] = _key(world, tenant_id, _joined(world, tenant_id, f"{role}@{name}.example", role))
    ask = _asking(world, keys["admin"])
    team.own, team.deleted = _things(world, team, ask, name), _things(world, team, ask, f"{name}-gone")
    assert ask("POST", f"/api/jobs/{team.deleted['job']}/cancel").status_code == 200
    for kind in ("job", "dataset", "model", "upload", "webhook", "hook", "key", "user", "invitation"):
        assert ask("DELETE", f"/api/{kind}s/{team.deleted[kind]}").status_code == 204, kind
    keys["revoked key"] = team.deleted.pop("secret")
    team.own.pop("secret")
    world.platform.audit.keep(everything=True)
    team.own["audit"] = ask("GET", "/api/audit?limit=1").json()["data"][0]["id"]
    return team


def unknown(kind: str) -> str:
    """An id that nobody has."""
    return "nobody" if kind == "name" else ids.new(PREFIXES[kind])


def rows_of(world, team: Team) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table that is this team's, but the log of what was tried."""
    found: dict[str, list[tuple[object, ...]]] = {}
    with world.platform.database.engine.connect() as connection:
        tables = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars().all()
        for table in sorted(set(tables) - {"audit", "alembic_version"}):
            columns = [row[1] for row in connection.exec_driver_sql(f"PRAGMA table_info({table})")]
            owner = "tenant_id" if "tenant_id" in columns else "id" if table == "tenants" else None
            if owner is not None:
                query = f"SELECT * FROM {table} WHERE {owner} = ? ORDER BY rowid"  # names of our own tables
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
    run = {"base_model": "luthier/tiny", "dataset": made["dataset"]}
    made["hook"] = ask("POST", "/api/hooks", json={"name": name, "run": run}).json()["id"]
    return made


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
