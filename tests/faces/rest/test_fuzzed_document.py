"""schemathesis over the whole OpenAPI document, as each role: no 5xx, no status and no answer that the document does not know."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from .conftest import World
from .neighbours import settle


def no_server_error(ctx, response, case) -> bool | None:
    """No base is fetched here: whoever asks one for an answer is told so, with 503."""
    if response.status_code == 503 and response.json()["error"]["code"] == "base_unavailable":
        return None
    return not_a_server_error(ctx, response, case)


CHECKS = [no_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
ROLES = ("viewer", "member", "admin", "read-only key")
LEFT_OUT = {
    "/api/jobs/{job_id}/events": "a stream, which a client that cannot stop reading would read for ever",
}


@schemathesis.serializer("application/offset+octet-stream", "application/x-tar")
def _as_it_is(_context, value):
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("town") / "data")
    world.a = settle(world, "a")
    yield world
    world.platform.close()


def faults_of(world, role: str, examples: int) -> list[str]:
    schema = schemathesis.openapi.from_asgi("/openapi.json", world.app, headers={"x-api-key": world.a.keys["admin"]})
    faults: list[str] = []
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path in LEFT_OUT:
            continue

        faults += _faults_of(operation, world.a.keys[role], examples)
    return faults


def _faults_of(operation, key: str, examples: int) -> list[str]:
    faults: list[str] = []

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def tried(case):
        try:
            case.call_and_validate(headers={"x-api-key": key}, checks=CHECKS)
        except (Failure, FailureGroup) as failure:
            why = failure.exceptions if isinstance(failure, FailureGroup) else [failure]
            faults.extend(f"{operation.label}: {each.title}: {str(each.message)[:200]}" for each in why)

    tried()
    return faults


@pytest.mark.timeout(280)
@pytest.mark.parametrize(("role", "examples"), [("admin", 3), ("viewer", 1), ("read-only key", 1)])
def test_no_answer_is_one_that_the_document_does_not_know(town, role, examples):
    assert faults_of(town, role, examples) == []


@pytest.mark.prove
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("role", ROLES)
def test_nor_is_one_of_many_more(town, role):
    assert faults_of(town, role, examples=60) == []
