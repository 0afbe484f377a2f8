"""From the name of a model to its id, where the server's route takes only ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier import ids
from luthier.errors import NotFound

if TYPE_CHECKING:
    from luthier.faces.sdk.answers import Model
    from luthier.faces.sdk.client import Client


def find_model(client: Client, ref: str) -> Model:
    """The version that an id, `name@version` or a name (its Production, or its only version) means. Raises: NotFound."""
    if ids.is_id(ref, ids.MODEL):
        return client.models.get(ref)
    name, at, version = ref.rpartition("@")
    if at and version.isascii() and version.isdigit():
        found = [model for model in client.models.each() if (model.name, str(model.version)) == (name, version)]
    else:
        versions = [model for model in client.models.each() if model.name == ref]
        found = [model for model in versions if model.stage == "Production"] or versions
    if len(found) > 1:
        known = ", ".join(f"{model.name}@{model.version}" for model in found[:5])
        raise NotFound("model", hint=f"No version of this name is in Production; name one: {known}.")
    if not found:
        raise NotFound("model", hint="`model list` shows what is there.")
    return client.models.get(found[0].id)
