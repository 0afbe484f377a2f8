"""Models on their way into service elsewhere: a GGUF into a folder or repository that others serve from, and the news of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from luthier.accounts.types import Actor
from luthier.database import Database
from luthier.errors import DeployRefused, Invalid, NotFound, NotInProduction, SetupError
from luthier.jobs.yaml12 import read_yaml
from luthier.notifications import outbox
from luthier.registry.exports import Exports, Found, gguf_of
from luthier.registry.links import Linked, Links
from luthier.registry.types import Stage
from luthier.seams import Clock, Deployable, DeployTarget, NotDeployed
from luthier.values import Frozen

WEBHOOK = "webhook"
"""The target that is always there: nothing is written, and endpoints hear `model.deployed` with a link to the file."""
_HINT = "It is a mapping of names, each with `kind: folder` or `kind: git` and a `path`; see docs/how-to/deploy-a-model.md."
_ODD = re.compile(r"[^A-Za-z0-9._-]+")


class TargetSpec(Frozen):
    """One entry of the file that LUTHIER_DEPLOY_TARGETS names."""

    kind: Literal["folder", "git"]
    path: Path = Field(strict=False)
    push: bool = False
    teams: Annotated[tuple[str, ...], Field(strict=False)] | None = Field(default=None, description="Who may; all by default.")


class Target(Frozen):
    """Where a team can deploy to."""

    name: str
    kind: str


class Deployed(Frozen):
    """A version that was put somewhere."""

    model_id: str
    name: str
    version: str
    stage: Stage
    precision: str
    target: str
    kind: str
    path: str | None = Field(description="Within the target; none for a webhook.")
    commit: str | None = Field(description="Of a repository; none elsewhere.")
    pushed: bool
    bytes: int
    sha256: str
    job_id: str = Field(description="The export that made the file.")
    url: str = Field(description="A link to the file that needs no key, for a day.")
    at: datetime


@dataclass(frozen=True)
class Wish:
    """What somebody wants to put where."""

    target: str
    any_stage: bool = False
    precision: str | None = None


@dataclass(frozen=True)
class Place:
    """A target with those who may use it."""

    kind: str
    target: DeployTarget
    teams: tuple[str, ...] | None = None


class Deploys:
    """Puts exported versions into service. `root` is how the server is reached, for links."""

    def __init__(  # noqa: PLR0913, PLR0917  # what it stands on
        self, database: Database, exports: Exports, links: Links, places: Mapping[str, Place], root: str, now: Clock
    ) -> None:
        self._database = database
        self._exports = exports
        self._links = links
        self._places = places
        self._root = root.rstrip("/")
        self._now = now

    def targets(self, actor: Actor) -> list[Target]:
        """Where the caller's team can deploy to."""
        own = [Target(name=name, kind=place.kind) for name, place in sorted(self._places.items()) if _may(place, actor)]
        return [*own, Target(name=WEBHOOK, kind=WEBHOOK)]

    def deploy(self, actor: Actor, ref: str, wish: Wish) -> Deployed:
        """Put the newest GGUF of a version into a target, and tell endpoints. Again with the same file changes nothing there.

        Raises: NotFound (model, target), Gone, ModelNotReady, NotInProduction, NotExported, ArtifactCorrupt, DeployRefused;
        a target that was refused is as it was before.
        """
        place = self._place(actor, wish.target)
        found = self._exports.newest(actor, ref, "gguf", wish.precision)
        if found.model.stage != Stage.PRODUCTION and not wish.any_stage:
            which = f"{found.model.name}@{found.model.version}"
            raise NotInProduction(
                f"{which} is in stage {found.model.stage.value}, and only Production is deployed.",
                hint="Promote it (`model promote`), or say that any stage will do: `--stage any`.",
            )
        download = self._exports.gguf(found)
        with closing(download.stream):
            if place is None:
                path, commit, pushed = None, None, False
            else:
                try:
                    done = place.target.deploy(_deployable(actor, found, download.sha256, download.stream))
                except NotDeployed as error:
                    hint = "See to the target on the server, then deploy again: it is as it was before."
                    raise DeployRefused(f"Nothing was deployed: {error}.", hint=hint) from None
                path, commit, pushed = done.path, done.commit, done.pushed
            deployed = self._described(found, wish.target, place, download.sha256, (path, commit, pushed))
        with self._database.write(actor.tenant_id) as session:
            news = deployed.model_dump(mode="json", exclude={"at"})
            outbox.publish(session, actor.tenant_id, "model.deployed", {**news, "by": actor.user_id}, at=deployed.at)
        return deployed

    def linked(self, found: Found) -> Linked:
        """What a link to the GGUF of an export opens. Raises: ArtifactCorrupt."""
        return Linked(found.tenant_id, found.exported.job_id, gguf_of(found.exported).name)

    def _described(
        self, found: Found, target: str, place: Place | None, sha256: str, done: tuple[str | None, str | None, bool]
    ) -> Deployed:
        model, (path, commit, pushed) = found.model, done
        url, _ = self._links.made(self.linked(found))
        return Deployed(
            model_id=model.id,
            name=model.name,
            version=model.version,
            stage=model.stage,
            precision=found.exported.precision,
            target=target,
            kind=WEBHOOK if place is None else place.kind,
            path=path,
            commit=commit,
            pushed=pushed,
            bytes=gguf_of(found.exported).bytes,
            sha256=sha256,
            job_id=found.exported.job_id,
            url=self._root + url,
            at=self._now(),
        )

    def _place(self, actor: Actor, name: str) -> Place | None:
        """None for the webhook. Raises: NotFound, also for a target of other teams."""
        if name == WEBHOOK:
            return None
        place = self._places.get(name)
        if place is None or not _may(place, actor):
            raise NotFound("target", hint="`GET /api/models/targets` lists them; who runs the server adds more.")
        return place


def targets_of(path: Path) -> dict[str, TargetSpec]:
    """What the file of LUTHIER_DEPLOY_TARGETS says. Raises: SetupError, naming the entry."""
    try:
        found = TypeAdapter(dict[str, TargetSpec]).validate_python(read_yaml(path.read_bytes()) or {})
    except OSError as error:
        raise SetupError(f"LUTHIER_DEPLOY_TARGETS: {path} cannot be read ({error.strerror}).", hint=_HINT) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SetupError(f"LUTHIER_DEPLOY_TARGETS: {where}: {first['msg']}.", hint=_HINT) from None
    except Invalid as error:
        raise SetupError(f"LUTHIER_DEPLOY_TARGETS: {error.message}", hint=_HINT) from None
    if WEBHOOK in found:
        raise SetupError(f"LUTHIER_DEPLOY_TARGETS: `{WEBHOOK}` is there already.", hint="Call it something else.")
    return found


def file_name_of(name: str) -> str:
    """What a model is called in a folder that others read.

    >>> file_name_of("Für alle/3")
    'F-r-alle-3'
    """
    return _ODD.sub("-", name).strip("-.")[:100] or "model"


def _may(place: Place, actor: Actor) -> bool:
    return place.teams is None or actor.tenant_id in place.teams


def _deployable(actor: Actor, found: Found, sha256: str, stream: Any) -> Deployable:
    model, exported = found.model, found.exported
    file = f"{file_name_of(model.name)}.gguf"
    about = {
        "version": model.version,
        "model_id": model.id,
        "base_model": model.base_model,
        "precision": exported.precision,
        "sha256": sha256,
        "team": actor.tenant_id,
    }
    return Deployable(name=model.name, file_name=file, about=about, stream=stream, size=gguf_of(exported).bytes)
