"""schemathesis over the whole OpenAPI document, as each role: no 5xx, no status and no answer that the document does not know."""

from __future__ import annotations

import contextlib
from collections import Counter

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.errors import UnsupportedSchema
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from .conftest import World
from .id_fields import kind_of
from .neighbours import settle


def no_server_error(ctx, response, case) -> bool | None:
    """No base is fetched here: whoever asks one for an answer is told so, with 503."""
    if response.status_code == 503 and response.json()["error"]["code"] == "base_unavailable":
        return None
    return not_a_server_error(ctx, response, case)


def success_is_described(_ctx, response, case) -> None:
    """Each operation describes all refusals at once, as `default`: what went well, each by its own status."""
    described = {str(status) for status in case.operation.responses.status_codes}
    assert response.status_code >= 400 or str(response.status_code) in described, f"{response.status_code} is not described"


CHECKS = [no_server_error, success_is_described, content_type_conformance, response_schema_conformance]
ROLES = ("viewer", "member", "admin", "login", "read-only key", "write-only key")
LEFT_OUT = {
    "/api/jobs/{job_id}/events": "a stream, which a client that cannot stop reading would read for ever",
}


@schemathesis.serializer("application/offset+octet-stream", "application/x-tar")
def _as_it_is(_context, value):
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


@st.composite
def _requests(draw, requests):
    """Of these, without those that schemathesis begins to make and then cannot: of some schemas it knows no opposite."""
    try:
        return draw(requests)
    except UnsupportedSchema:
        reject()


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("town") / "data", limit_address="1000000/minute")
    world.a = settle(world, "a")
    yield world
    world.platform.close()


def faults_of(world, role: str, right: int, wrong: int) -> tuple[list[str], Counter]:
    """What is wrong with the answers to so many requests of each operation that the document allows, and that it does not;
    and how often there was which status."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", world.app, headers={"x-api-key": world.a.keys["admin"]})
    schema.config.generation.update(with_security_parameters=False)  # else each request has a made-up key, and ends at the door
    faults, statuses = [], Counter()
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path not in LEFT_OUT:
            faults += _faults_of(operation, GenerationMode.POSITIVE, world, role, right, statuses)
            if wrong:
                faults += _faults_of(operation, GenerationMode.NEGATIVE, world, role, wrong, statuses)
    assert statuses[401] < sum(statuses.values()) / 10, statuses  # most were let in
    return faults, statuses


def _faults_of(operation, mode, world, role: str, examples: int, statuses) -> list[str]:
    faults: list[str] = []
    held = {each.name: world.a.own.get(kind_of(operation.label, each.name)) for each in operation.path_parameters}
    own = {name: value for name, value in held.items() if value is not None}
    # What right requests ask for is there, as long as they delete nothing. Wrong ones are wrong in their ids too.
    known = own if mode is GenerationMode.POSITIVE and operation.method != "delete" else None

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=_requests(operation.as_strategy(mode)))
    def tried(case):
        case.path_parameters.update(known or {})
        try:
            response = case.call_and_validate(headers={"x-api-key": world.a.keys[role]}, checks=CHECKS)
            statuses[response.status_code] += 1
        except (Failure, FailureGroup) as failure:
            why = failure.exceptions if isinstance(failure, FailureGroup) else [failure]
            faults.extend(f"{operation.label}: {each.title}: {str(each.message)[:200]}" for each in why)

    with contextlib.suppress(Unsatisfiable):  # no request without parameters and body is a wrong one
        tried()
    return faults


@pytest.mark.timeout(280)
@pytest.mark.parametrize(("role", "right", "wrong"), [("admin", 2, 1), ("viewer", 1, 0), ("read-only key", 1, 0)])
def test_no_answer_is_one_that_the_document_does_not_know(town, role, right, wrong):
    faults, _ = faults_of(town, role, right, wrong)
    assert faults == []


@pytest.fixture(scope="module")
def asked():
    """How many requests of each role were made so far, and how they were answered."""
    return {}


@pytest.mark.prove
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("role", ROLES)
def test_nor_is_one_of_many_more(town, role, asked, record):
    faults, statuses = faults_of(town, role, right=60, wrong=60)
    assert faults == []
    asked[f"requests as {role}: answered with 2xx / 4xx / 503, for a base that is not fetched"] = " / ".join(
        f"{sum(count for status, count in statuses.items() if status // 100 == kind):,}" for kind in (2, 4, 5)
    )
    page = {
        **asked,
        "of each operation, at most": "60 requests that the document allows, 60 that it does not",
        "other 5xx, and answers that the document does not know": len(faults),
    }
    record("fuzzed-document", "The whole OpenAPI document, by schemathesis, as each role", page)
