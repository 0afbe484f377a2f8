"""The whole life of a model through the official SDKs alone: real server, real trainer, real engine."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest
from tests.journeys.conftest import House

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

MODEL = "gpt-4o-mini-2024-07-18"
TERMINAL = {"succeeded", "failed", "cancelled"}
NODE = Path(__file__).parent / "node"


@dataclass
class Hosted:
    """A server that old scripts know a model of, and how they reach it."""

    house: House
    base_url: str
    key: str

    def ask(self, path):
        """What the native API says at a path."""
        answer = httpx.get(f"{self.house.url()}{path}", headers={"x-api-key": self.key})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def sdk(self):
        return openai.OpenAI(base_url=self.base_url, api_key=self.key, max_retries=0, _strict_response_validation=True)


@pytest.fixture(scope="module")
def hosted(tmp_path_factory, two_step_base):
    data = tmp_path_factory.mktemp("hosted") / "data"
    shutil.copytree(two_step_base, data / "bases/luthier--tiny/1")
    house = House(data)
    # Files of rows are larger than what is checked while they are uploaded: jobs wait for them.
    house.start(LUTHIER_MODEL_ALIASES=f"{MODEL}=luthier/tiny", LUTHIER_INLINE_UPLOAD_BYTES="1000")
    yield Hosted(house, f"{house.url()}/v1", (data / "admin.key").read_text().strip())
    house.close()


def rows(count, start=0):
    lines = (
        {"messages": [{"role": "user", "content": f"Say colour {n}"}, {"role": "assistant", "content": f"blue {n % 4}"}]}
        for n in range(start, start + count)
    )
    return as_lines(lines)


def as_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def ended(sdk, job_id):
    until = time.monotonic() + 300
    while (job := sdk.fine_tuning.jobs.retrieve(job_id)).status not in TERMINAL:
        assert time.monotonic() < until, job
        time.sleep(0.2)
    return job


def test_unchanged_code_trains_and_chats(hosted):
    with hosted.sdk() as sdk:
        file = sdk.files.create(file=("colours.jsonl", rows(60)), purpose="fine-tune")
        held_out = sdk.files.create(file=("held-out.jsonl", rows(8, 60)), purpose="fine-tune")
        job = sdk.fine_tuning.jobs.create(
            model=MODEL,
            training_file=file.id,
            validation_file=held_out.id,
            suffix="colours",
            seed=1,
            method={
                "type": "supervised",
                "supervised": {"hyperparameters": {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 15}},
            },
        )
        assert job.status in {"validating_files", "queued"}
        done = ended(sdk, job.id)
        assert done.status == "succeeded", hosted.house.log()
        assert done.fine_tuned_model.startswith("ft:luthier/tiny:")
        assert done.trained_tokens > 0
        events = list(sdk.fine_tuning.jobs.list_events(job.id, limit=50))
        assert any(event.type == "metrics" for event in events)
        checkpoints = sdk.fine_tuning.jobs.checkpoints.list(job.id).data
        assert checkpoints[0].step_number > 0
        steps = sdk.files.content(done.result_files[0]).read().decode().splitlines()
        assert len(steps) > 2

        asked = {"messages": [{"role": "user", "content": "Say colour 3"}], "max_tokens": 8, "temperature": 0}
        whole = sdk.chat.completions.create(model=done.fine_tuned_model, **asked)
        pieces = sdk.chat.completions.create(model=done.fine_tuned_model, stream=True, **asked)
        streamed = "".join(piece.choices[0].delta.content or "" for piece in pieces)
        assert streamed == whole.choices[0].message.content
        last = sdk.chat.completions.create(model=checkpoints[0].fine_tuned_model_checkpoint, **asked)
        assert last.usage.prompt_tokens == whole.usage.prompt_tokens
        form = {"type": "json_schema", "json_schema": {"name": "mood", "schema": {"enum": ["good", "bad"]}}}
        guided = sdk.chat.completions.create(model=MODEL, response_format=form, **{**asked, "max_tokens": 40})
        assert json.loads(guided.choices[0].message.content) in {"good", "bad"}
        told = sdk.chat.completions.create(model=done.fine_tuned_model, logprobs=True, top_logprobs=2, **asked)
        assert all(each.logprob <= 0 and len(each.top_logprobs) == 2 for each in told.choices[0].logprobs.content)
        text = sdk.completions.create(model=done.fine_tuned_model, prompt="Say colour 3", max_tokens=4, logprobs=1)
        assert len(text.choices[0].logprobs.tokens) == text.usage.completion_tokens

        # C08: what the answers said of their tokens, the meter says, too; and a job's tokens are those of its file.
        own = hosted.ask(f"/api/jobs/{job.id}")
        assert done.trained_tokens == own["tokens_seen"]
        counted = [each for each in hosted.ask("/api/billing/usage")["tokens"] if each["model"] == own["model_id"]]
        said = [whole.usage, whole.usage, told.usage, text.usage]  # the stream answered as the whole one did
        assert (sum(each.prompt_tokens for each in said), sum(each.completion_tokens for each in said)) == (
            sum(each["prompt_tokens"] for each in counted),
            sum(each["completion_tokens"] for each in counted),
        )
        assert own["spec"]["train"]["epochs"] == 3
        assert done.trained_tokens == 3 * hosted.ask(f"/api/datasets/{file.id}")["tokens"]

        again = sdk.fine_tuning.jobs.create(model="luthier/tiny", training_file=file.id)
        assert sdk.fine_tuning.jobs.cancel(again.id).status in {"cancelled", "queued", "running"}
        assert ended(sdk, again.id).status == "cancelled"
        with pytest.raises(openai.NotFoundError):
            sdk.chat.completions.create(model="ft:luthier/tiny:team_x:nothing:00000000", **asked)
        assert sdk.models.retrieve(done.fine_tuned_model).id == done.fine_tuned_model


def test_a_file_with_a_bad_row_fails_its_job_with_the_line(hosted):
    with hosted.sdk() as sdk:
        file = sdk.files.create(file=("bad.jsonl", rows(30) + b'{"messages": []}\n'), purpose="fine-tune")
        try:
            job = sdk.fine_tuning.jobs.create(model=MODEL, training_file=file.id)
        except openai.ConflictError:  # the check was quicker
            assert sdk.files.retrieve(file.id).status == "error"
            return
        failed = ended(sdk, job.id)
        assert (failed.status, failed.error.param) == ("failed", "training_file")
        assert "Line 31" in failed.error.message


def test_preferences_and_rewards_are_learned_from(hosted):
    pairs = as_lines(
        {
            "input": {"messages": [{"role": "user", "content": f"Say {n}"}]},
            "preferred_output": [{"role": "assistant", "content": "good"}],
            "non_preferred_output": [{"role": "assistant", "content": "bad"}],
        }
        for n in range(24)
    )
    prompts = as_lines({"messages": [{"role": "user", "content": f"Say {n}"}], "answer": "e"} for n in range(3))
    judge = {"type": "score_model", "name": "judge", "model": MODEL, "range": [0, 1]}
    judge |= {"input": [{"role": "user", "content": "{{ sample.output_text }}?"}]}
    quick = {"n_epochs": 1, "learning_rate_multiplier": 15}
    with hosted.sdk() as sdk:
        dpo = sdk.fine_tuning.jobs.create(
            model=MODEL,
            training_file=sdk.files.create(file=("pairs.jsonl", pairs), purpose="fine-tune").id,
            method={"type": "dpo", "dpo": {"hyperparameters": {**quick, "beta": 0.2}}},
        )
        rewarded = sdk.fine_tuning.jobs.create(
            model=MODEL,
            training_file=sdk.files.create(file=("prompts.jsonl", prompts), purpose="fine-tune").id,
            method={
                "type": "reinforcement",
                "reinforcement": {"grader": judge, "hyperparameters": {**quick, "compute_multiplier": 0.25}},
            },
        )
        assert ended(sdk, dpo.id).status == "succeeded", hosted.house.log()
        assert ended(sdk, rewarded.id).status == "succeeded", hosted.house.log()


def test_the_guide_for_those_who_move_runs_as_it_stands(hosted, tmp_path):
    page = Path(__file__).parents[2] / "docs/how-to/move-from-a-hosted-api.md"
    code = "\n".join(re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL))
    assert f'"{MODEL}=luthier/tiny"' in page.read_text("utf-8")
    (tmp_path / "train.jsonl").write_bytes(rows(40))
    (tmp_path / "data").mkdir()
    (tmp_path / "data/admin.key").write_text(hosted.key)
    ran = subprocess.run(
        [sys.executable, "-c", code.replace("http://127.0.0.1:8000/v1", hosted.base_url)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "step,train_loss" in ran.stdout
    assert ":ckpt-step-" in ran.stdout


@pytest.fixture(scope="session")
def node_modules(tmp_path_factory):
    """A folder with the script and what it needs. Skips where there is no node, or no registry can be reached."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed here")
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "life.mjs"):
        shutil.copy(NODE / name, folder)
    line = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    try:
        installed = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("the npm registry does not answer")
    if installed.returncode:
        pytest.skip(f"npm could not install the SDK: {installed.stderr[-300:]}")
    return folder


def test_the_node_sdk_drives_the_same_life(hosted, node_modules):
    (node_modules / "rows.jsonl").write_bytes(rows(40))
    reach = {"OPENAI_BASE_URL": hosted.base_url, "OPENAI_API_KEY": hosted.key}
    ran = subprocess.run(
        ["node", "life.mjs", "rows.jsonl"],
        cwd=node_modules,
        env={"PATH": os.environ["PATH"], **reach},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:] + hosted.house.log()
    saw = json.loads(ran.stdout)
    assert saw["model"].startswith("ft:luthier/tiny:")
    assert saw["trained"] > 0


def test_litellm_asks_and_streams(hosted):
    litellm = pytest.importorskip("litellm", reason="litellm is not installed: pip install 'luthier[peers]'")
    reach = {"api_base": hosted.base_url, "api_key": hosted.key, "model": f"openai/{MODEL}"}
    question = {"messages": [{"role": "user", "content": "Say colour 3"}], "max_tokens": 6, "temperature": 0}
    whole = litellm.completion(**reach, **question)
    assert whole.usage.completion_tokens > 0
    pieces = litellm.completion(**reach, **question, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == whole.choices[0].message.content
    text = litellm.text_completion(**{**reach, "model": f"text-completion-openai/{MODEL}"}, prompt="Say", max_tokens=4)
    assert text.usage.completion_tokens > 0
    # It reads a 404 of an invalid request as it reads a 400.
    with pytest.raises((litellm.NotFoundError, litellm.BadRequestError), match="No such model"):
        litellm.completion(**{**reach, "model": "openai/nothing"}, **question)
    with pytest.raises(litellm.BadRequestError, match="temperature"):
        litellm.completion(**reach, **{**question, "temperature": 3.0})
