"""After training: a model is measured on other rows, promoted for it, and exported into what plain transformers loads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from luthier.errors import EvaluationNeeded

from .test_one_job import finished, spec, upload

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]


@pytest.fixture
def command(house):
    """The `model` command against the house; returns its JSON."""

    def run(*words: str) -> dict:
        key = (house.data / "admin.key").read_text().strip()
        environment = {**os.environ, "LUTHIER_API_URL": house.url(), "LUTHIER_API_KEY": key}
        program = [sys.executable, "-m", "luthier.faces.cli.model", *words, "--json"]
        ended = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr + house.log()
        return json.loads(ended.stdout)

    return run


def answered(folder: Path, question: str) -> str:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    asked = [{"role": "user", "content": question}]
    given = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    found = model.generate(**given, max_new_tokens=8, do_sample=False, pad_token_id=0)
    return tokenizer.decode(found[0, given["input_ids"].shape[1] :], skip_special_tokens=True)


def test_a_model_is_measured_promoted_and_exported(house, tmp_path, command):
    client = house.start()
    train, other = upload(client, tmp_path, "train", 60), upload(client, tmp_path, "other", 8)
    fields = {name: value for name, value in spec(train, other).items() if name != "validation_dataset"}
    job = finished(client, house, client.jobs.submit(fields).id)
    assert job.state == "succeeded", house.log()
    with pytest.raises(EvaluationNeeded, match="model evaluate"):
        client.models.transition(job.model_id, "Production")

    measured = command("evaluate", "colours@1", "--dataset", other, "--rows", "4", "--follow", "--yes")
    record = client.models.get(job.model_id).card["evaluations"][0]
    assert (record["job_id"], record["dataset"], record["evaluation"]["rows"]) == (measured["job"]["id"], other, 8)
    assert record["evaluation"]["tuned"]["loss"] < record["evaluation"]["base"]["loss"]
    assert client.models.transition(job.model_id, "Production").stage == "Production"
    assert client.billing.job_cost(measured["job"]["id"]).settled

    folder = tmp_path / "merged"
    made = command("export", "colours", "--format", "merged", "--output", str(folder), "--yes")
    assert {path.name for path in folder.iterdir()} == {file.name for file in client.jobs.files(made["job"]["id"])}
    for question in ("Say colour 3", "Say colour 6"):
        said = client.chat.answer("colours", [{"role": "user", "content": question}], max_tokens=8, temperature=0.0).text
        assert answered(folder, question).strip() == said.strip()
    again = command("export", "--job-id", made["job"]["id"], "--output", str(folder))
    assert again["job"]["id"] == made["job"]["id"]
