"""Every method from its own kind of rows to a model, in one trainer; and a fit test on the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from luthier.errors import LuthierError

from .test_one_job import finished

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

QUESTIONS = [f"Say colour {number}" for number in range(24)]
PAIRS = [{"prompt": ask, "chosen": f"blue {n % 4}", "rejected": f"red {n % 3} and more"} for n, ask in enumerate(QUESTIONS)]
RATED = [
    {"prompt": ask, "completion": f"{'blue' if n % 2 else 'red'} {n % 4}", "label": n % 2 == 1} for n, ask in enumerate(QUESTIONS)
]
PROMPTS = [{"prompt": ask, "wanted": f"blue {n % 4}"} for n, ask in enumerate(QUESTIONS)]
TRAIN = {"max_steps": 6, "learning_rate": 0.003, "batch_size": 4, "save_steps": 3}
SECTIONS = {
    "dpo": {"beta": 0.2, "sft_weight": 0.1},
    "orpo": {"beta": 0.2},
    "kto": {},
    "grpo": {
        "grader": {"type": "text_similarity", "reference": "{{ item.wanted }}"},
        "group_size": 4,
        "max_new_tokens": 8,
        "updates_per_batch": 2,
    },
}
ROWS = {"dpo": "pairs", "orpo": "pairs", "kto": "rated", "grpo": "prompts"}
MEASURES = {"dpo": "margin", "orpo": "log_odds_ratio", "kto": "divergence", "grpo": "reward"}


@pytest.fixture
def datasets(house, tmp_path):
    client = house.start()
    made = {}
    for name, rows in (("pairs", PAIRS), ("rated", RATED), ("prompts", PROMPTS)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        made[name] = client.datasets.upload(path, name=name).id
    return client, made


def spec(method: str, dataset: str) -> dict:
    section = {method: SECTIONS[method]}
    evaluate = {"rows": 4, "max_new_tokens": 8}
    common = {
        "base_model": "luthier/tiny",
        "dataset": dataset,
        "validation_dataset": dataset,
        "train": TRAIN,
        "evaluate": evaluate,
    }
    return {**common, "method": method, "name": f"colours-{method}", **section}


def test_each_method_makes_a_model_whose_card_says_what_it_measures(house, datasets):
    client, made = datasets
    jobs = {method: client.jobs.submit(spec(method, made[ROWS[method]])).id for method in ROWS}
    for method, job_id in jobs.items():
        job = finished(client, house, job_id)
        assert job.state == "succeeded", (method, house.log())
        evaluation = client.models.get(job.model_id).card["evaluation"]
        assert MEASURES[method] in evaluation["tuned"]["metrics"]
        assert evaluation["tuned"]["perplexity"] is None
        assert len(evaluation["samples"]) > 0
        steps = [step for event in client.jobs.events(job_id) if event.kind == "step" for step in event.data["steps"]]
        assert [step[0] for step in steps] == [1, 2, 3, 4, 5, 6]


def test_rows_of_another_kind_are_refused_at_submit(datasets):
    client, made = datasets
    with pytest.raises(LuthierError, match="pairs"):
        client.jobs.submit(spec("grpo", made["pairs"]))


def test_a_fit_test_on_the_command_line(house, datasets):
    _, made = datasets
    key = (house.data / "admin.key").read_text().strip()
    environment = {**os.environ, "LUTHIER_API_URL": house.url(), "LUTHIER_API_KEY": key}
    flags = ["--model", "luthier/tiny", "--dataset", made["pairs"], "--method", "dpo", "--batch-size", "4", "--epochs", "auto"]
    command = [Path(sys.executable).with_name("tune"), "estimate", *flags, "--fit-test", "--json"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    measured = json.loads(ended.stdout)["measured"]
    assert measured["fits"]
    assert measured["tokens_per_second"] > 0
