"""Who trains in several processes: pure decisions."""

import pytest

from luthier.jobs.processes import processes_of
from luthier.jobs.spec import RunSpec


@pytest.mark.parametrize(
    ("changes", "processes"),
    [
        ({}, 4),
        ({"method": "dpo"}, 4),
        ({"kind": "fit_test"}, 1),
        ({"hardware": "local-cpu"}, 1),
        ({"train": {"device": "cpu"}}, 1),
        ({"method": "grpo", "grpo": {"grader": {"type": "string_check", "reference": "{{ item.answer }}"}}}, 1),
    ],
    ids=str,
)
def test_a_run_whose_steps_have_parts_gets_a_process_for_each_gpu(changes, processes):
    given_by_user = {"base_model": "luthier/tiny", "dataset": "x", "hardware": "local-gpu", **changes}
    assert processes_of([RunSpec.model_validate(given_by_user)], 4) == processes


def test_runs_that_share_a_trainer_have_one_process():
    spec = RunSpec(base_model="luthier/tiny", dataset="x", hardware="local-gpu")
    assert processes_of([spec, spec], 4) == 1
