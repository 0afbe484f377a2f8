"""What a call of a hook starts. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import ValidationError

from luthier.errors import FieldInvalid
from luthier.jobs.spec import RunSpec

_ID = re.compile(r"[\x21-\x7e]{1,200}", re.ASCII)
_MOST_NAME = 64


def is_message_id(text: str) -> bool:
    """Whether a sender may call a message so."""
    return _ID.fullmatch(text) is not None


def run_of(template: str, allowed: Collection[str], given: Mapping[str, Any]) -> RunSpec:
    """The template with what is given in its place.

    Raises: FieldInvalid for a field that the hook does not let a caller give, or a value that is none.
    """
    for name in given:
        if name not in allowed:
            may = f"It may give: {', '.join(sorted(allowed))}." if allowed else "It may give none."
            param = name if name.isidentifier() and len(name) <= _MOST_NAME else None  # an error carries no input
            raise FieldInvalid("A call of this hook may not give this field.", hint=may, param=param, code="extra_forbidden")
    run = json.loads(template) | given
    try:
        return RunSpec.model_validate_json(json.dumps(run))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0]) if first["loc"] else None
        raise FieldInvalid(f"{name or 'The run'}: {first['msg']}.", hint="See the run of the hook.", param=name) from None
