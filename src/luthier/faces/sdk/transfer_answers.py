"""What the server says of models on their way out."""

from __future__ import annotations

from luthier.faces.sdk.answers import Answer


class Exported(Answer):
    """A finished export of a model. `client.jobs.download(exported.job_id, folder)` fetches its files."""

    job_id: str
    format: str
    precision: str
    bytes: int
    checks: Answer
    created_at: str


class Deployed(Answer):
    """A version that was put somewhere. `url` is a link to its file that needs no key, for a day."""

    model_id: str
    name: str
    version: str
    target: str
    kind: str
    path: str | None
    commit: str | None
    pushed: bool
    sha256: str
    url: str


class Link(Answer):
    """A file that a program can fetch without a key, until a time."""

    url: str
    until: str
    bytes: int
    sha256: str


class DeployTarget(Answer):
    """Where models can be deployed to."""

    name: str
    kind: str
