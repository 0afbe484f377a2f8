"""`/v1/fine_tuning/alpha/graders`: try a grader on one answer before a run is paid for."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from luthier.faces.rest import answers
from luthier.faces.rest.access import ViewersToo
from luthier.faces.rest.body import Json, such_as
from luthier.faces.rest.openai.routes import Lenient, refusals, router
from luthier.faces.rest.wire import CurrentActor, CurrentPlatform
from luthier.graders import Grader, grade
from luthier.graders.types import judges_of
from luthier.values import Text

routes = router("graders (OpenAI)")

_ERRORS = (
    "formula_parse_error",
    "invalid_variable_error",
    "model_grader_parse_error",
    "model_grader_refusal_error",
    "model_grader_server_error",
    "other_error",
    "python_grader_runtime_error",
    "python_grader_server_error",
    "sample_parse_error",
    "truncated_observation_error",
    "unresponsive_reward_error",
)


class Validate(Lenient):
    """A grader."""

    grader: Grader


class Run(Validate):
    """A grader, an answer, and the row that it answers."""

    model_sample: Text
    item: dict[str, Any] = Field(default_factory=dict)


class Validated(BaseModel):
    """The grader as it is understood."""

    grader: dict[str, Any]


class RunMetadata(BaseModel):
    """How the grading went."""

    model_config = ConfigDict(protected_namespaces=())

    name: str
    type: str
    errors: dict[str, bool | str | None]
    execution_time: float = Field(description="Seconds.")
    scores: dict[str, float]
    sampled_model_name: str | None = None
    token_usage: int | None = None


class RunResult(BaseModel):
    """What the answer is worth."""

    model_config = ConfigDict(protected_namespaces=())

    reward: float
    sub_rewards: dict[str, float]
    metadata: RunMetadata
    model_grader_token_usage_per_model: dict[str, int] = {}


_GRADER = {
    "type": "string_check",
    "name": "exact",
    "input": "{{sample.output_text}}",
    "operation": "eq",
    "reference": "{{item.answer}}",
}
Candidate = Annotated[Json[Validate], such_as(grader=_GRADER)]
Trial = Annotated[Json[Run], such_as(grader=_GRADER, model_sample="4", item={"answer": "4"})]


@routes.post("/fine_tuning/alpha/graders/validate", responses=refusals(*answers.ASKING), dependencies=[ViewersToo])
def validate(asked: Candidate, platform: CurrentPlatform) -> Validated:
    """Whether a grader can be used, and how it was read; a model that it asks must be an allowed base."""
    for judge in judges_of(asked.grader):
        platform.judges.check(judge.model)
    return Validated(grader=asked.grader.model_dump(mode="json"))


@routes.post("/fine_tuning/alpha/graders/run", responses=refusals(*answers.ASKING), dependencies=[ViewersToo])
def run(asked: Trial, actor: CurrentActor, platform: CurrentPlatform) -> RunResult:
    """What one answer would be worth. A model that judges is asked in the engine; what it reads is billed like a chat."""
    began = time.perf_counter()
    judge = platform.judges.of(actor)
    score = grade(asked.grader, asked.model_sample, asked.item, judge)
    errors: dict[str, bool | str | None] = dict.fromkeys(_ERRORS, False)
    errors["sample_parse_error"] = _unread(asked)
    failed, judges = score.error is not None, bool(judges_of(asked.grader))
    errors["model_grader_server_error"] = failed and judges
    errors["other_error"] = failed and not errors["sample_parse_error"] and not judges
    if failed:
        errors["model_grader_server_error_details"] = score.error
    metadata = RunMetadata(
        name=asked.grader.name,
        type=asked.grader.type,
        errors=errors,
        execution_time=time.perf_counter() - began,
        scores=score.parts or {asked.grader.name or asked.grader.type: score.value},
        token_usage=judge.tokens.total() or None,
    )
    used = dict(judge.tokens)
    return RunResult(reward=score.value, sub_rewards=score.parts, metadata=metadata, model_grader_token_usage_per_model=used)


def _unread(asked: Run) -> bool:
    """Whether the grader reads the answer as JSON, which it is not."""
    if "output_json" not in asked.grader.model_dump_json():
        return False
    try:
        json.loads(asked.model_sample)
    except ValueError:
        return True
    return False
