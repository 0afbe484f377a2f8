"""A grader in a spec comes back out of run.yaml as it went in."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.backends.storage.local import LocalStorage
from luthier.graders import Grader
from luthier.graders.types import JsonSchema, Multi, Number, Pattern, StringCheck, TextSimilarity
from luthier.jobs.directory import JobDirectory
from luthier.jobs.spec import GrpoSpec, RunSpec
from luthier.jobs.yaml12 import read_yaml

ODD = "tab\t newline\n \x7f \x85 \u2028 \ufeff \U0001f600 '\" \\ # : {} &a *b !c % @ ` ~ null 012 1:30"
DEEPEST: dict = {"const": 1}
for _ in range(11):
    DEEPEST = {"anyOf": [DEEPEST]}

GRADERS: list[Grader] = [
    StringCheck(operation="ilike", reference="{{ item.answer }}", name=ODD[:64]),
    StringCheck(reference=ODD),
    Number(reference="1", tolerance=1e-7),
    Pattern(pattern=r"^\s*#: (\d+)\x7f[^\\]$", ignore_case=True, reference="012"),
    JsonSchema(json_schema={"properties": {ODD: {"multipleOf": 1e16, "maximum": 2**53}}, "required": ["no", "~"]}),
    JsonSchema(json_schema={"properties": {"x" * 512: DEEPEST["anyOf"][0]["anyOf"][0]}}),
    TextSimilarity(reference="a", evaluation_metric="rouge_l"),
    Multi(
        graders={"a": StringCheck(reference="b"), "deep": JsonSchema(json_schema=DEEPEST)},
        calculate_output="0.5 * a +\n0.5 * deep",
        name="both",
    ),
]


def a_run(grader: Grader) -> RunSpec:
    return RunSpec(method="grpo", base_model="luthier/tiny", dataset="ds_1", grpo=GrpoSpec(grader=grader))


def through_a_file(spec: RunSpec, folder) -> RunSpec:
    job = JobDirectory(LocalStorage(folder), "job")
    job.write_spec(spec.model_dump(mode="json"))
    return RunSpec.model_validate(read_yaml(job.read_spec()))


@pytest.mark.parametrize("grader", GRADERS, ids=lambda grader: grader.type)
def test_a_spec_comes_back_as_it_went_in(grader, tmp_path):
    spec = a_run(grader)
    assert through_a_file(spec, tmp_path) == spec
    assert RunSpec.model_validate_json(spec.model_dump_json()) == spec


@given(st.text(min_size=1, max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_text_that_is_accepted_comes_back(tmp_path_factory, text):
    try:
        spec = a_run(StringCheck(reference=text))
    except ValidationError:
        return
    assert through_a_file(spec, tmp_path_factory.getbasetemp() / "texts") == spec


def test_a_grader_is_written_as_people_write_it():
    written = b"""
    method: grpo
    base_model: luthier/tiny
    dataset: ds_1
    grpo:
      grader:
        type: multi
        graders:
          right: {type: number, reference: "{{ item.answer }}"}
          short: {type: regex, pattern: '^.{0,200}$'}
        calculate_output: 0.9 * right + 0.1 * short
    """
    spec = RunSpec.model_validate(read_yaml(written))
    assert spec.grpo is not None
    assert isinstance(spec.grpo.grader, Multi)
    assert spec.grpo.grader.item_names == {"answer"}
