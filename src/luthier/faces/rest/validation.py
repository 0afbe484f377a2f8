"""What pydantic found wrong, in words for people: where, what, and the field that was probably meant. Never the input."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from luthier.errors import BadRequest, FieldInvalid, LuthierError
from luthier.values import MONTH_FORM, USD_FORM

_MAX_DETAILS = 50
_SAFE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", re.ASCII)
_WORDS: dict[str, str] = {
    "missing": "This field is required.",
    "bool_type": "Must be true or false.",
    "int_type": "Must be a whole number.",
    "int_parsing": "Must be a whole number.",
    "int_from_float": "Must be a whole number.",
    "int_parsing_size": "Must be a whole number of a usual size.",
    "float_type": "Must be a number.",
    "float_parsing": "Must be a number.",
    "finite_number": "Must be a finite number.",
    "string_type": "Must be a string.",
    "string_unicode": "Must be valid Unicode.",
    "dict_type": "Must be an object.",
    "model_type": "Must be an object.",
    "model_attributes_type": "Must be an object.",
    "tuple_type": "Must be a list.",
    "list_type": "Must be a list.",
    "none_required": "Must be null.",
}
_DOLLARS = 'an amount of dollars below a billion, as a text such as "12.50", with at most six places'
_FORMS = {USD_FORM: f"Must be {_DOLLARS}.", MONTH_FORM: "Must be a month such as 2026-11."}
"""What a pattern means, for those that people meet."""
_OPENING = re.compile(r"^(Input|String|List|Tuple|Set|Dictionary|Value) should")
_COUNTED = re.compile(r" after validation, not (more than )?\d+$")


def refused(findings: Sequence[Mapping[str, Any]], *, model: type[BaseModel] | None = None) -> LuthierError:
    """One error for all findings of a `ValidationError.errors()`, whose locations start at `model`."""
    details = _once(_detail(finding, model) for finding in findings)[:_MAX_DETAILS]
    first = details[0]
    if len(details) == 1:
        message = f"`{first['param']}`: {first['message']}" if first["param"] else first["message"]
    else:
        message = f"{len(details)} fields are not allowed like this; first `{first['param']}`: {first['message']}"
    hint = "See `details` for each field, and /docs for what the route takes."
    return FieldInvalid(message, hint=hint, param=first["param"], details=details, code=str(first["code"]))


def unparsable(message: str) -> LuthierError:
    """What is not JSON at all."""
    return BadRequest(message, hint="The body must be one JSON object, in UTF-8.", code="json_invalid")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence that names the nearest known name, or nothing where none is near.

    >>> did_you_mean("learning_rte", ["learning_rate", "epochs"])
    ' Did you mean `learning_rate`?'
    """
    near = difflib.get_close_matches(name[:64], list(known), n=1, cutoff=0.6)
    return f" Did you mean `{near[0]}`?" if near else ""


def shown(name: object) -> str:
    """A name that came from outside, if it is harmless; else a placeholder: errors never carry input."""
    text = str(name)
    return text if _SAFE_NAME.fullmatch(text) else "?"


def _detail(finding: Mapping[str, Any], model: type[BaseModel] | None) -> dict[str, Any]:
    kind = str(finding["type"])
    path, known = _walk(finding["loc"], model, unknown=kind == "extra_forbidden")
    param = ".".join(path) or None
    if kind == "extra_forbidden":
        meant = did_you_mean(path[-1], known) or _elsewhere(path[-1], model)
        return {"param": param, "message": f"There is no such field here.{meant}", "code": kind}
    code = "invalid_value" if kind == "value_error" else kind
    return {"param": param, "message": words(finding, param or ""), "code": code}


def words(finding: Mapping[str, Any], param: str) -> str:
    """What is wrong with one field, as a sentence."""
    kind = str(finding["type"])
    if kind == "string_type" and param.endswith("_usd"):
        return f"Must be {_DOLLARS}."
    form = _FORMS.get(str(finding.get("ctx", {}).get("pattern")))
    text = form or _WORDS.get(kind) or str(finding["msg"]).removeprefix("Value error, ")
    return _sentence(_COUNTED.sub("", _OPENING.sub("Must", text)))


def _walk(location: Sequence[Any], model: type[BaseModel] | None, *, unknown: bool) -> tuple[list[str], list[str]]:
    """The location without pydantic's own names (of union members and such), and the field names known at its end."""
    if model is None:
        return [shown(part) for part in location], []
    path: list[str] = []
    annotation: Any = model
    for part in location:
        inside = _model_in(annotation)
        if isinstance(part, int):
            path.append(str(part))
        elif inside and part in inside.model_fields:
            annotation = inside.model_fields[part].annotation
            path.append(part)
        elif (inside and unknown and part is location[-1]) or (inside is None and _has_keys(annotation) and part != "[key]"):
            path.append(shown(part))
    inside = _model_in(annotation)
    return path, list(inside.model_fields) if inside else []


def _has_keys(annotation: Any) -> bool:
    return get_origin(annotation) is dict or any(_has_keys(part) for part in get_args(annotation))


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


def _elsewhere(name: str, model: type[BaseModel] | None) -> str:
    """A field of this name may exist one level deeper: `learning_rate` belongs into `train`."""
    for outer, field in (model.model_fields if model else {}).items():
        inner = _model_in(field.annotation)
        near = difflib.get_close_matches(name, inner.model_fields, n=1, cutoff=0.75) if inner else []
        if near:
            return f" Did you mean `{outer}.{near[0]}`?"
    return ""


def _sentence(text: str) -> str:
    text = text[:300]
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _once(details: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One finding a field: a union reports each member that did not match. The one that is of the right type says more."""
    seen: dict[Any, dict[str, Any]] = {}
    for detail in details:
        key = (detail["param"], detail["code"] if detail["code"] == "extra_forbidden" else "")
        if key not in seen or (_is_of_type(seen[key]) and not _is_of_type(detail)):
            seen[key] = detail
    places = [str(detail["param"]) for detail in seen.values()]
    # A list whose only entry is wrong is not also too short.
    return [
        detail
        for detail in seen.values()
        if detail["code"] != "too_short" or not any(place.startswith(f"{detail['param']}.") for place in places)
    ]


def _is_of_type(detail: Mapping[str, Any]) -> bool:
    """Whether it says that something is of another type, as all members of a union do but the one that was meant."""
    return str(detail["code"]).endswith("_type") or detail["code"] in ("literal_error", "none_required")
